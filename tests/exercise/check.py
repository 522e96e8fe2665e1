"""Build it yourself: judge the parts of a file that blanks.py has made.

    python tests/exercise/check.py my_gpt.py

It prints a line for each part: done, still empty, or what is wrong with it. Each part is judged by
itself, with something correct in place of the others. What is right comes from torch's own
functions and from arithmetic, not from gpt.py.
"""

import functools
import re
import sys
import traceback
import types

import torch
import torch.nn as nn
from torch.nn import functional as F

from blanks import PARTS, read_path

B, T, C, HEADS, HEAD_SIZE = 2, 8, 12, 3, 4  # all different, so that a mix-up changes a shape
SETTINGS = {'block_size': T, 'n_embd': C, 'n_head': HEADS, 'dropout': 0.5, 'grad_clip': 0.1}
SETTINGS |= {'device': 'cpu', 'bfloat16': False}
ROUNDING = {'rtol': 1e-4, 'atol': 1e-5}


def same(a, b):
    """Whether two tensors are equal, up to rounding."""
    return a.shape == b.shape and torch.allclose(a, b, **ROUNDING)


def assert_shape(tensor, shape, name='the result'):
    found = tuple(tensor.shape) if torch.is_tensor(tensor) else type(tensor).__name__
    assert found == tuple(shape), f'{name}: expected shape {tuple(shape)}, got {found}'


def assert_same(found, right, mistakes=None, name='the result'):
    """`mistakes` is {what is wrong: what would come of it}."""
    assert_shape(found, right.shape, name)
    if not same(found, right):
        for words, outcome in (mistakes or {}).items():
            assert not same(found, outcome), words
        at = tuple((~torch.isclose(found, right, **ROUNDING)).nonzero()[0].tolist())
        where = f'{name} at {list(at)}' if at else name
        raise AssertionError(f'{where}: expected {right[at]:.4g}, got {found[at]:.4g}')


def assert_pair(result, names):
    assert isinstance(result, (tuple, list)) and len(result) == 2, f'return {names}'
    return result


# ----------------------------------------------------------
# The parts. Each check takes the learner's program. The first assertion that fails is the verdict.


def check_get_batch(gpt):
    """On a text of 40 numbers in a row."""
    gpt.batch_size, text = 500, torch.arange(40)
    x, y = assert_pair(gpt.get_batch(text), 'x, y')
    assert_shape(x, (500, T), 'x')
    assert_same(x, x[:, :1] + torch.arange(T), name='x, a piece of the text in each row,')
    assert_same(y, x + 1, {'y is the same as x: shift it by one character': x}, 'y')
    starts = x[:, 0].unique().tolist()
    found = f'{len(starts)} positions from {starts[0]} to {starts[-1]}'
    assert len(starts) == 40 - T, f'start at random from 0 to {39 - T}; yours start at {found}'
    gpt.device = 'meta'
    assert {each.device.type for each in gpt.get_batch(text)} == {'meta'}, 'move x and y to device'


def check_head(gpt):
    """Against torch's own attention. Then with values from which the weights come out, twice."""
    head, x = gpt.Head(HEAD_SIZE).eval(), torch.randn(B, T, C)
    q, k, v = head.query(x), head.key(x), head.value(x)
    attention = functools.partial(F.scaled_dot_product_attention, is_causal=True)
    mistakes = {
        'the scores are not scaled: divide by sqrt(head_size)': attention(q, k, v, scale=1.0),
        'the scores are scaled up: divide by sqrt(head_size)': attention(q, k, v, scale=2.0),
        'query and key are swapped': attention(k, q, v),
        'key and value are swapped': attention(q, v, k),
    }
    result, right = head(x), attention(q, k, v)
    assert_shape(result, right.shape)
    for words, outcome in mistakes.items():
        assert not same(result, outcome), words

    head, x = gpt.Head(2 * T).eval(), torch.randn(20, T, C)
    head.value.forward = lambda x: torch.eye(T).repeat(len(x), 1, 2)
    weights, _ = head(x).split(T, dim=-1)
    later, earlier = [part.nan_to_num().any() for part in (weights.triu(1), weights.tril(-1))]
    assert earlier or not later, 'the mask is the wrong way round: hide the later characters'
    assert not weights.isnan().any(), 'the result has nan: may each character look at itself?'
    assert not later, 'the weights of later characters are not 0: did you mask the scores?'
    columns, rows = [same(weights.sum(dim), torch.ones(20, T)) for dim in (-2, -1)]
    assert not columns, 'softmax goes over the wrong dimension: it must be dim=-1'
    assert rows, 'the weights of a row do not sum to 1: softmax comes after the mask'
    assert_same(result, right)
    dropped, again = head.train()(x).split(T, dim=-1)
    assert not same(dropped, weights), 'in training, dropout must zero some of the weights'
    right = 2 * weights * (dropped != 0)
    assert same(dropped, right) and same(again, right), 'dropout comes right after softmax'


def check_heads(gpt):
    """With linear layers in place of the heads."""
    heads, x = gpt.MultiHeadAttention(HEADS, HEAD_SIZE).eval(), torch.randn(100, T, C)
    heads.heads = nn.ModuleList([nn.Linear(C, HEAD_SIZE) for _ in range(HEADS)])
    side_by_side = torch.cat([head(x) for head in heads.heads], dim=-1)
    assert_same(heads(x), heads.proj(side_by_side), {'proj is missing': side_by_side})
    zeros = (heads.train()(x) == 0).float().mean()
    assert 0.4 < zeros < 0.6, 'in training, self.dropout must zero some of the result'


def check_block(gpt):
    """With linear layers in place of attention and feed-forward."""
    block, x = gpt.Block(C, HEADS), torch.randn(B, T, C)
    block.sa, block.ffwd = sa, ffwd = nn.Linear(C, C), nn.Linear(C, C)
    ln1, ln2 = block.ln1, block.ln2
    ln1.weight.data, ln2.weight.data = torch.randn(2, C)
    first, given = sa(ln1(x)), x.clone()
    result = block(given)
    assert torch.equal(given, x), 'write x = x + ..., for x += ... changes what ln1 has read'
    mistakes = {
        'x + is missing in both lines (the residual connections)': ffwd(ln2(first)),
        'x + is missing before attention (a residual connection)': first + ffwd(ln2(first)),
        'x + is missing before feed-forward (a residual connection)': ffwd(ln2(x + first)),
        'the layer norms are missing': x + sa(x) + ffwd(x + sa(x)),
    }
    assert_same(result, x + first + ffwd(ln2(x + first)), mistakes)


def check_forward(gpt):
    """With linear layers in place of the blocks."""
    model = gpt.GPTLanguageModel()
    model.blocks = blocks = nn.Sequential(nn.Linear(C, C), nn.Linear(C, C))
    ln_f, lm_head = model.ln_f, model.lm_head
    idx, targets = torch.randint(gpt.vocab_size, (2, B, T - 1))
    tok_emb = model.token_embedding_table.weight[idx]
    x = tok_emb + model.position_embedding_table.weight[: T - 1]
    right = lm_head(ln_f(blocks(x)))
    losses = F.cross_entropy(right.mT, targets, reduction='none')
    softmax_twice = F.cross_entropy(right.softmax(dim=-1).mT, targets)
    mistakes = {
        'the positions are missing': lm_head(ln_f(blocks(tok_emb))),
        'the blocks are missing': lm_head(ln_f(x)),
        'ln_f is missing': lm_head(blocks(x)),
        'the loss is a sum: it must be the mean': losses.sum(),
        'softmax comes twice: cross_entropy has it already': softmax_twice,
    }
    logits, loss = assert_pair(model(idx, targets), 'logits, loss')
    assert_same(logits, right, mistakes, 'logits')
    assert_same(loss, losses.mean(), mistakes, 'loss')
    logits, loss = assert_pair(model(idx), 'logits, None if there are no targets')
    assert_same(logits, right, name='logits without targets')
    assert loss is None, 'without targets, the loss must be None'


def check_generate(gpt):
    """With a bigram table in place of the model. First, only the next in the alphabet follows."""
    model, size, contexts = gpt.GPTLanguageModel(), gpt.vocab_size, []
    table, start = 1e9 * torch.eye(size).roll(1, dims=1), torch.tensor([[3, 0], [1, 2]])
    model.forward = lambda idx, targets=None: (contexts.append(idx) or table[idx], None)
    result = model.generate(start, 12)
    longest = max([idx.shape[1] for idx in contexts], default=0)
    assert longest <= T, f'the model got {longest} characters, but it sees at most block_size = {T}'
    assert_shape(result, (2, 14))
    right = [result[:, max(0, n - T) : n] for n in range(2, 14)]
    assert all(map(torch.equal, contexts, right)), 'give the model the last block_size characters'
    right = torch.cat([start, (start[:, 1:] + torch.arange(1, 13)) % size], dim=1)
    assert torch.equal(result, right), 'append what is drawn by the scores at the last position'
    # Then 0, 1, or 2 follows, whatever came before, with these probabilities.
    p = torch.tensor([0.6, 0.3, 0.1] + [0.0] * (size - 3))
    table, state = p.log().expand(size, -1), torch.get_rng_state()
    words = {1.0: 'draw characters by probability', 0.5: 'divide the scores by the temperature'}
    for temperature in words:
        generator = torch.Generator().manual_seed(1)
        result = model.generate(torch.zeros(4000, 1).long(), 1, temperature, generator)
        shares, right = result[:, 1].bincount(minlength=size) / 4000, p ** (1 / temperature)
        assert shares.max() < 1, 'the likeliest is picked every time: use torch.multinomial'
        assert (shares - right / right.sum()).abs().max() < 0.04, words[temperature]  # 5 sigmas
    assert torch.equal(torch.get_rng_state(), state), 'give the generator to multinomial'


def check_learning_rate_at(gpt):
    """With round numbers, and without warm-up."""
    gpt.learning_rate, gpt.warmup_iters, gpt.max_iters = 2.0, 4, 100
    for step, right in {0: 0.4, 1: 0.792, 3: 1.552, 4: 1.92, 50: 1.0, 99: 0.02}.items():
        found = gpt.learning_rate_at(step)
        words = f'at step {step} of 100, with 4 steps of warm-up to 2.0: expected {right:.4g}, got '
        assert abs(found - right) < 1e-6, f'{words}{found:.4g}'
    gpt.warmup_iters = 0
    assert abs(gpt.learning_rate_at(0) - 2.0) < 1e-6, 'warmup_iters = 0 must mean no warm-up'


def check_learn(gpt):
    """Two steps by SGD, which moves each parameter by the learning rate times its gradient."""
    model, modes, parts = nn.PReLU(2, init=0.0).eval(), [], []  # two parameters, both 0
    # Their gradient is idx: first g, of length 5, which is clipped to 0.02 * g, then -0.01 * g.
    model.forward = lambda idx, targets: (modes.append(model.training), (model.weight * idx).sum())
    g = torch.tensor([3.0, 4.0])
    batches = [(-0.01 * g, -g), (g, -g)]  # the second, and the first
    gpt.get_batch = lambda part: parts.append(part is gpt.train_data) or batches[len(parts) % 2]
    gpt.learning_rate_at = lambda step: step + 3.0
    sgd = torch.optim.SGD(model.parameters(), lr=100.0)
    gpt.learn(model, sgd, 0)
    gpt.learn(model, sgd, 1)
    assert parts == [True, True], 'each step must take one batch, get_batch(train_data)'
    assert sgd.param_groups[0]['lr'] == 4.0, 'lr in param_groups must become learning_rate_at(step)'
    assert all(modes), 'dropout is off: call model.train() first'
    mistakes = {
        'no parameter moves: zero_grad, then backward, then step': 0 * g,
        'the last gradient is added to the new one: call zero_grad': -(3 * 0.02 + 4 * 0.01) * g,
        'the gradient is not clipped between backward and step': -(3 * 1 - 4 * 0.01) * g,
    }
    assert_same(model.weight, -(3 * 0.02 - 4 * 0.01) * g, mistakes, 'the parameters after 2 steps')


def check_mean_loss(gpt):
    """On 11 pieces, in batches of 4, so the last has 3. Then on every third piece."""
    model, modes, part = nn.Embedding(5, 5), [], torch.randint(5, (11 * T + 4,))
    table, gpt.batch_size = model.weight, 4
    model.forward = lambda idx, targets: (modes.append(model.training), table[idx, targets].mean())
    x, y = part[: 11 * T].view(11, T), part[1 : 11 * T + 1].view(11, T)
    losses = table[x, y].mean(dim=1)
    batches = torch.stack([batch.mean() for batch in losses.split(4)])
    mistakes = {
        'the last batch has fewer pieces and must count less': batches.mean(),
        'the loss is a sum: it must be the mean': losses.sum(),
        'a part longer than eval_size: take pieces at equal distances': losses[:4].mean(),
        'a part longer than eval_size: take only every second piece, or third': losses.mean(),
    }
    for name, size, right in [('all 11 pieces', 11, losses), ('every third piece', 4, losses[::3])]:
        gpt.eval_size = size * T
        result = gpt.mean_loss(model, part)
        assert isinstance(result, float), 'return a float: .item() makes one of a tensor'
        assert not any(modes), 'dropout is on: call model.eval() first'
        assert_same(torch.tensor(result), right.mean(), mistakes, f'the mean loss of {name}')


CHECKS = [check_get_batch, check_head, check_heads, check_block, check_forward, check_generate]
CHECKS = dict(zip(PARTS, CHECKS + [check_learning_rate_at, check_learn, check_mean_loss]))


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
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f'line {frame.lineno}: ' for frame in frames if frame.filename == str(path)]
        if isinstance(error, NotImplementedError) and frames[-1].filename == str(path):
            return 'still empty'
        if isinstance(error, AssertionError) and not lines:  # of a check above
            return f'wrong: {error}'
        message = str(error).partition('\n')[0]
        return f'wrong: {"".join(lines[-1:])}{type(error).__name__}: {message}'


def main():
    path = read_path(__doc__)
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
