"""Build it yourself: judge the parts of a file that blanks.py has made.

    python tests/exercise/check.py my_gpt.py

It prints a line for each part: done, still empty, or what is wrong with it. Each part is judged by
itself, with something correct in place of the others. What is right comes from torch's own
functions and from arithmetic, not from gpt.py.
"""

import argparse
import re
import sys
import traceback
import types
from pathlib import Path

import torch
import torch.nn as nn
from torch.nn import functional as F

from blanks import PARTS

B, T, C, HEADS, HEAD_SIZE = 2, 8, 12, 3, 4  # all different, so that a mix-up changes a shape
SETTINGS = {
    'device': 'cpu',
    'block_size': T,
    'n_embd': C,
    'n_head': HEADS,
    'dropout': 0.5,
    'grad_clip': 0.1,
    'bfloat16': False,
}


class Wrong(Exception):
    """What is wrong with a part, in plain words."""


def wrong_if(condition, words):
    """The judgement `words`, if the condition holds."""
    if condition:
        raise Wrong(words)


def has_shape(tensor, shape, name):
    """`tensor` has to be a tensor of this shape."""
    found = tuple(tensor.shape) if torch.is_tensor(tensor) else type(tensor).__name__
    wrong_if(found != tuple(shape), f'{name}: expected shape {tuple(shape)}, got {found}')


def same(a, b):
    """Whether two tensors are equal, up to rounding."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def compare(found, right, mistakes=None, name='the result'):
    """`found` has to be `right`. `mistakes` is {what is wrong: what would come of it}."""
    has_shape(found, right.shape, name)
    if not same(found, right):
        for words, outcome in (mistakes or {}).items():
            wrong_if(same(found, outcome), words)
        at = torch.isclose(found, right, rtol=1e-4, atol=1e-5).logical_not().nonzero()[0].tolist()
        expected, got = right[tuple(at)].item(), found[tuple(at)].item()
        where = f'{name} at {at}' if at else name
        raise Wrong(f'{where}: expected {expected:.4g}, got {got:.4g}')


def pair(result, names):
    """`result`, which has to be two things."""
    wrong_if(not isinstance(result, (tuple, list)) or len(result) != 2, f'return {names}')
    return result


# ----------------------------------------------------------
# The parts. Each check takes the learner's program as a module.


def check_get_batch(gpt):
    """On a text of 40 numbers in a row."""
    gpt.batch_size = 500
    x, y = pair(gpt.get_batch(torch.arange(40)), 'x, y')
    has_shape(x, (500, T), 'x')
    compare(x, x[:, :1] + torch.arange(T), name='x, a piece of the text in each row,')
    compare(y, x + 1, {'y is the same as x: shift it by one character': x}, 'y')
    starts = set(x[:, 0].tolist())
    words = f'pieces must start anywhere from 0 to {39 - T}, at random; yours start at '
    words += f'{len(starts)} positions from {min(starts)} to {max(starts)}'
    wrong_if(starts != set(range(40 - T)), words)
    gpt.device = 'meta'
    devices = {tensor.device.type for tensor in gpt.get_batch(torch.arange(40))}
    wrong_if(devices != {'meta'}, 'move x and y to device')


class Identity(nn.Module):
    """Values from which the weights come out."""

    def forward(self, x):
        return torch.eye(T).expand(len(x), T, T)


def torch_attention(q, k, v, scale=None):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)


def check_head(gpt):
    """First its weights, then against torch's own attention."""
    head, x = gpt.Head(T).eval(), torch.randn(20, T, C)
    head.value = Identity()
    weights = head(x)
    has_shape(weights, (20, T, T), 'the result')
    later, earlier = weights.nan_to_num().triu(1), weights.nan_to_num().tril(-1)
    words = 'the mask is the wrong way round: characters must see the earlier ones, not the later'
    wrong_if(later.any() and not earlier.any(), words)
    wrong_if(weights.isnan().any(), 'the result has nan: may each character look at itself?')
    wrong_if(later.any(), 'the weights of later characters are not 0: did you mask the scores?')
    one = torch.ones(20, T)
    words = 'softmax goes over the wrong dimension: it must be dim=-1'
    wrong_if(same(weights.sum(dim=-2), one), words)
    words = 'the weights of a row do not sum to 1: softmax comes after the mask'
    wrong_if(not same(weights.sum(dim=-1), one), words)

    dropped = head.train()(x)
    wrong_if(same(dropped, weights), 'in training, dropout must zero some of the weights')
    kept = dropped != 0
    wrong_if(not same(dropped[kept], 2 * weights[kept]), 'dropout comes right after softmax')

    head, x = gpt.Head(HEAD_SIZE).eval(), torch.randn(B, T, C)
    q, k, v = head.query(x), head.key(x), head.value(x)
    mistakes = {
        'the scores are not scaled: divide by sqrt(head_size)': torch_attention(q, k, v, 1.0),
        'the scores are scaled up: divide by sqrt(head_size)': torch_attention(q, k, v, 2.0),
        'query and key are swapped': torch_attention(k, q, v),
        'key and value are swapped': torch_attention(q, v, k),
    }
    compare(head(x), torch_attention(q, k, v), mistakes)


def check_multi_head_attention(gpt):
    """With linear layers in place of the heads."""
    heads, x = gpt.MultiHeadAttention(HEADS, HEAD_SIZE).eval(), torch.randn(100, T, C)
    heads.heads = nn.ModuleList([nn.Linear(C, HEAD_SIZE) for _ in range(HEADS)])
    side_by_side = torch.cat([head(x) for head in heads.heads], dim=-1)
    compare(heads(x), heads.proj(side_by_side), {'proj is missing': side_by_side})
    zeros = (heads.train()(x) == 0).float().mean()
    wrong_if(not 0.4 < zeros < 0.6, 'in training, self.dropout must zero some of the result')


def check_block(gpt):
    """With linear layers in place of attention and feed-forward."""
    block, x = gpt.Block(C, HEADS), torch.randn(B, T, C)
    block.sa, block.ffwd = sa, ffwd = nn.Linear(C, C), nn.Linear(C, C)
    ln1, ln2 = block.ln1, block.ln2
    nn.init.normal_(ln1.weight)
    nn.init.normal_(ln2.weight)
    first = sa(ln1(x))
    given = x.clone()
    result = block(given)
    wrong_if(not torch.equal(given, x), 'write x = x + ..., for x += ... changes what ln1 has read')
    mistakes = {
        'x + is missing in both lines (the residual connections)': ffwd(ln2(first)),
        'x + is missing before attention (a residual connection)': first + ffwd(ln2(first)),
        'x + is missing before feed-forward (a residual connection)': ffwd(ln2(x + first)),
        'the layer norms are missing': x + sa(x) + ffwd(x + sa(x)),
    }
    compare(result, x + first + ffwd(ln2(x + first)), mistakes)


def check_forward(gpt):
    """With linear layers in place of the blocks."""
    model = gpt.GPTLanguageModel()
    model.blocks = blocks = nn.Sequential(nn.Linear(C, C), nn.Linear(C, C))
    ln_f, lm_head = model.ln_f, model.lm_head
    idx, targets = torch.randint(gpt.vocab_size, (2, B, T - 1))
    tok_emb = model.token_embedding_table.weight[idx]
    x = tok_emb + model.position_embedding_table.weight[: T - 1]
    right = lm_head(ln_f(blocks(x)))
    mistakes = {
        'the positions are missing': lm_head(ln_f(blocks(tok_emb))),
        'the blocks are missing': lm_head(ln_f(x)),
        'ln_f is missing': lm_head(blocks(x)),
    }
    logits, loss = pair(model(idx, targets), 'logits, loss')
    compare(logits, right, mistakes, 'logits')

    log_probs = right - right.logsumexp(dim=-1, keepdim=True)
    losses = -log_probs.gather(-1, targets[..., None])
    after_softmax = F.cross_entropy(right.softmax(dim=-1).flatten(0, 1), targets.flatten())
    mistakes = {
        'the loss is a sum: it must be the mean': losses.sum(),
        'softmax comes twice: cross_entropy has it already': after_softmax,
    }
    compare(loss, losses.mean(), mistakes, 'loss')
    logits, loss = pair(model(idx), 'logits, None if there are no targets')
    compare(logits, right, name='logits without targets')
    wrong_if(loss is not None, 'without targets, the loss must be None')


def check_generate(gpt):
    """With a bigram table in place of the model."""
    size, contexts = gpt.vocab_size, []
    table = 1e9 * torch.eye(size).roll(1, dims=1)  # always the next in the alphabet

    def forward(self, idx, targets=None):
        contexts.append(idx)
        return table[idx], None

    gpt.GPTLanguageModel.forward = forward
    model, start = gpt.GPTLanguageModel(), torch.tensor([[3, 0], [1, 2]])
    result = model.generate(start, 12)
    longest = max([idx.shape[1] for idx in contexts], default=0)
    words = f'the model was given {longest} characters, but it sees at most block_size = {T}'
    wrong_if(longest > T, words)
    has_shape(result, (2, 14), 'the result')
    for n, idx in enumerate(contexts, start=2):
        right = result[:, max(0, n - T) : n]
        wrong_if(not torch.equal(idx, right), 'give the model the last block_size characters')
    right = torch.cat([start, (start[:, 1:] + torch.arange(1, 13)) % size], dim=1)
    words = 'append what is drawn by the scores at the last position'
    wrong_if(not torch.equal(result, right), words)

    def shares(**options):
        """How often each character is picked after character 0. The right answer is p."""
        generator = torch.Generator().manual_seed(1)
        picks = model.generate(torch.zeros(4000, 1).long(), 1, generator=generator, **options)[:, 1]
        return torch.bincount(picks, minlength=size) / 4000

    def near(found, right):
        return (found - right / right.sum()).abs().max() < 0.04  # five standard deviations

    p = torch.tensor([0.6, 0.3, 0.1] + [0.0] * (size - 3))
    table = p.log().expand(size, -1)
    state = torch.get_rng_state()
    found = shares()
    wrong_if(found.max() == 1, 'the likeliest is picked every time: use torch.multinomial')
    wrong_if(not near(found, p), 'characters are not picked by their probabilities')
    wrong_if(not torch.equal(torch.get_rng_state(), state), 'give the generator to multinomial')
    wrong_if(not near(shares(temperature=0.5), p**2), 'divide the scores by the temperature')


class Table(nn.Module):
    """A bigram model of five characters. It notes whether it was in training, each time."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 5))
        self.modes = []

    def forward(self, idx, targets):
        self.modes.append(self.training)
        logits = self.table[idx]
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def check_learning_rate_at(gpt):
    """With round numbers, and without warm-up."""
    gpt.learning_rate, gpt.warmup_iters, gpt.max_iters = 2.0, 4, 100
    for step, right in {0: 0.4, 1: 0.792, 3: 1.552, 4: 1.92, 50: 1.0, 99: 0.02}.items():
        found = gpt.learning_rate_at(step)
        words = f'at step {step} of 100, with 4 steps of warm-up to 2.0: '
        wrong_if(abs(found - right) > 1e-6, f'{words}expected {right:.4g}, got {found:.4g}')
    gpt.warmup_iters = 0
    wrong_if(abs(gpt.learning_rate_at(0) - 2.0) > 1e-6, 'warmup_iters = 0 must mean no warm-up')


def check_learn(gpt):
    """Two steps by SGD, which moves each parameter by the learning rate times its gradient."""
    model, parts, batches = Table().eval(), [], torch.randint(5, (2, 2, B, T))
    gpt.get_batch = lambda part: parts.append(part) or batches[len(parts) % 2]
    gpt.learning_rate_at = lambda step: step + 1.0
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    start = model.table.detach().clone()

    def two_steps(forget=True, clip=0.1):
        table = start.clone().requires_grad_()
        for step in [1, 2]:
            if forget:
                table.grad = None
            x, y = batches[step % 2]
            F.cross_entropy(table[x].flatten(0, 1), y.flatten()).backward()
            table.grad *= min(1.0, clip / table.grad.norm().item())
            table.data -= step * table.grad
        return table

    gpt.learn(model, optimizer, 0)
    gpt.learn(model, optimizer, 1)
    one_each = [part is gpt.train_data for part in parts] == [True, True]
    wrong_if(not one_each, 'each step must take one batch, get_batch(train_data)')
    rate = optimizer.param_groups[0]['lr']
    wrong_if(rate != 2.0, "param_groups[0]['lr'] must become learning_rate_at(step)")
    wrong_if(not all(model.modes), 'dropout is off: call model.train() first')
    mistakes = {
        'no parameter moves: zero_grad, then backward, then step': start,
        'the last gradient is added to the new one: call zero_grad': two_steps(forget=False),
        'the gradient is not clipped between backward and step': two_steps(clip=1e9),
    }
    compare(model.table, two_steps(), mistakes, 'the parameters after two steps')


def check_mean_loss(gpt):
    """With a bigram table in place of the model. 11 pieces, in batches of 4, so the last has 3."""
    model, part = Table(), torch.randint(5, (11 * T + 4,))
    gpt.batch_size, gpt.eval_size = 4, 11 * T
    pieces = part[: 11 * T].view(11, T), part[1 : 11 * T + 1].view(11, T)
    losses = torch.stack([model(x[None], y[None])[1] for x, y in zip(*pieces)])
    model.modes.clear()
    result = gpt.mean_loss(model, part)
    wrong_if(not isinstance(result, float), 'return a float: .item() makes one of a tensor')
    wrong_if(any(model.modes), 'dropout is on: call model.eval() first')
    batches = torch.stack([batch.mean() for batch in losses.split(4)])
    mistakes = {
        'the last batch has fewer pieces and must count less': batches.mean(),
        'the loss is a sum: it must be the mean': losses.sum(),
    }
    compare(torch.tensor(result), losses.mean(), mistakes, 'the mean loss of 11 pieces')
    gpt.eval_size = 4 * T
    compare(
        torch.tensor(gpt.mean_loss(model, part)),
        losses[::3].mean(),
        {'a part longer than eval_size: take pieces at equal distances': losses[:4].mean()},
        'a part of 11 pieces with an eval_size of 4: the mean loss of every third piece',
    )


CHECKS = {
    'get_batch': check_get_batch,
    'Head.forward': check_head,
    'MultiHeadAttention.forward': check_multi_head_attention,
    'Block.forward': check_block,
    'GPTLanguageModel.forward': check_forward,
    'GPTLanguageModel.generate': check_generate,
    'learning_rate_at': check_learning_rate_at,
    'learn': check_learn,
    'mean_loss': check_mean_loss,
}

# ----------------------------------------------------------


def load(path):
    """The program at `path` as a module, with the settings above. Its lines keep their numbers."""
    source = path.read_text(encoding='utf-8')
    for name, value in SETTINGS.items():
        source = re.sub(rf'^{name} = .*', f'{name} = {value!r}', source, flags=re.M)
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(source, str(path), 'exec'), vars(module))
    return module


def judge(path, part):
    """'done', 'still empty', or 'wrong: ' and the first thing that is wrong."""
    torch.manual_seed(1)
    try:
        CHECKS[part](load(path))
        return 'done'
    except Wrong as error:
        return f'wrong: {error}'
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if isinstance(error, NotImplementedError) and frames[-1].filename == str(path):
            return 'still empty'
        lines = [f'line {frame.lineno}: ' for frame in frames if frame.filename == str(path)]
        message = str(error).partition('\n')[0]
        return f'wrong: {"".join(lines[-1:])}{type(error).__name__}: {message}'


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('path', type=Path, help='the file to judge, such as my_gpt.py')
    path = parser.parse_args().path
    try:
        load(path)
    except (Exception, SystemExit) as error:
        sys.exit(f'{path} does not start. {type(error).__name__}: {error}')

    verdicts = {}
    for part in PARTS:
        verdicts[part] = judge(path, part)
        print(f'{part:26} {verdicts[part]}', flush=True)
    if set(verdicts.values()) != {'done'}:
        sys.exit(1)
    print(f'\nAll done. Now run: python {path}')


if __name__ == '__main__':
    main()
