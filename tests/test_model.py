"""The model. Each part is held to torch's own, and to numpy, written position by position.

At the end: what is read is what runs. Comments about shapes are true, and no edit is ignored.
"""

import contextlib
import io
import math
import re
import sys
import tokenize
import zlib
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn as nn
from torch.nn import functional as F

import helpers
import textbook
from helpers import TINY

WAYS = {  # of computing attention in MultiHeadAttention
    'heads as written': {'fast_attention': False},
    'all at once': {'fast_attention': True},
    'all at once, on a GPU': {'fast_attention': True, 'gpu': True},
}
SIZES = [(32, 2, 16), (24, 3, 8), (16, 1, 16), (12, 3, 5), (20, 4, 6)]  # n_embd, heads, head_size


@pytest.fixture(params=WAYS)
def way(request, gpt, monkeypatch):
    """The test is run three times, once in each way."""
    for name, value in WAYS[request.param].items():
        monkeypatch.setattr(gpt, name, value)


@pytest.fixture(scope='module')
def model(gpt):
    """A model with random parameters, in float64."""
    return randomized(gpt.GPTLanguageModel())


def randomized(module):
    """The module with all parameters random, layer norms and biases too. In float64, eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.double().eval()


def normal(*shape, seed=0):
    """Random numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(gpt, *shape, seed=0):
    """Random characters."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(gpt.vocab_size, shape, generator=generator)


def assert_close(ours, theirs, tolerance=1e-11):
    """The largest difference of two tensors, or of two lists of them, is at most `tolerance`."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


# ----------------------------------------------------------
# In numpy


def numpy_softmax(scores):
    """Scores (..., n) -> probabilities (..., n)."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_attention(q, k, v):
    """(T, head_size) each -> (T, head_size). Position t averages the values up to its own."""
    out = np.zeros_like(v)
    for t in range(len(q)):
        scores = np.array([q[t] @ k[i] / math.sqrt(q.shape[-1]) for i in range(t + 1)])
        out[t] = numpy_softmax(scores) @ v[: t + 1]
    return out


def numpy_layer_norm(x, weight, bias):
    """(T, n_embd) -> (T, n_embd)."""
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight + bias


def numpy_model(model, idx, n_head):
    """The logits (T, vocab_size) for characters idx (T,), from the parameters by their names."""
    p = {name: parameter.numpy() for name, parameter in model.state_dict().items()}
    x = p['token_embedding_table.weight'][idx] + p['position_embedding_table.weight'][: len(idx)]
    for layer in range(len(model.blocks)):
        at = f'blocks.{layer}.'
        normed = numpy_layer_norm(x, p[at + 'ln1.weight'], p[at + 'ln1.bias'])
        heads = []
        for head in range(n_head):
            names = [f'{at}sa.heads.{head}.{name}.weight' for name in ('query', 'key', 'value')]
            heads.append(numpy_attention(*[normed @ p[name].T for name in names]))
        x = x + np.concatenate(heads, -1) @ p[at + 'sa.proj.weight'].T + p[at + 'sa.proj.bias']
        normed = numpy_layer_norm(x, p[at + 'ln2.weight'], p[at + 'ln2.bias'])
        hidden = normed @ p[at + 'ffwd.net.0.weight'].T + p[at + 'ffwd.net.0.bias']
        x = x + np.maximum(hidden, 0) @ p[at + 'ffwd.net.2.weight'].T + p[at + 'ffwd.net.2.bias']
    x = numpy_layer_norm(x, p['ln_f.weight'], p['ln_f.bias'])
    return x @ p['lm_head.weight'].T + p['lm_head.bias']


# ----------------------------------------------------------
# Attention


@pytest.mark.parametrize('shape', [(1, 4), (7, 1), (2, 5, 8), (2, 3, 9, 16)])
def test_attention_is_the_formula_and_torchs_own(gpt, shape):
    q, k, v = (normal(*shape, seed=seed) * 2 for seed in range(3))
    out = gpt.attention(q, k, v)
    pieces = zip(*[each.reshape(-1, *shape[-2:]).numpy() for each in (q, k, v)], strict=True)
    expected = np.stack([numpy_attention(*piece) for piece in pieces]).reshape(shape)
    assert_close(out.numpy(), expected)
    assert_close(out, F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_head_is_the_formula(gpt):
    head, x = randomized(gpt.Head(8)), normal(3, 10, gpt.n_embd)
    weights = [getattr(head, name).weight.detach().numpy() for name in ('query', 'key', 'value')]
    expected = [numpy_attention(*[row @ weight.T for weight in weights]) for row in x.numpy()]
    assert_close(head(x).detach().numpy(), np.stack(expected))
    assert sum(p.numel() for p in head.parameters()) == 3 * 8 * gpt.n_embd  # no biases


def test_multi_head_attention_is_its_heads_side_by_side(gpt, way, monkeypatch):
    """Values, and the gradients of x and of every parameter."""
    for n_embd, num_heads, head_size in SIZES:
        monkeypatch.setattr(gpt, 'n_embd', n_embd)
        heads = randomized(gpt.MultiHeadAttention(num_heads, head_size))
        x, direction = normal(2, 9, n_embd).requires_grad_(), normal(2, 9, n_embd, seed=1)
        one_by_one = heads.proj(torch.cat([head(x) for head in heads.heads], dim=-1))
        inputs = [x, *heads.parameters()]
        expected = torch.autograd.grad((one_by_one * direction).sum(), inputs)
        assert min(gradient.abs().max() for gradient in expected) > 1e-3
        assert_close(heads(x), one_by_one)
        assert_close(torch.autograd.grad((heads(x) * direction).sum(), inputs), expected)


def test_multi_head_attention_is_torchs_own(gpt, way):
    ours = randomized(gpt.MultiHeadAttention(4, 8))
    theirs = nn.MultiheadAttention(32, 4, batch_first=True, dtype=torch.float64).eval()
    parts = [getattr(head, name) for name in ('query', 'key', 'value') for head in ours.heads]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x, later = normal(2, 9, 32), torch.ones(9, 9, dtype=torch.bool).triu(1)
    assert_close(ours(x), theirs(x, x, x, attn_mask=later, need_weights=False)[0])


def test_no_position_sees_a_later_one(gpt, way, model):
    """A changed character changes no module's output before its own position."""
    idx, outputs = tokens(gpt, 1, 16), {}

    def keep(module, _, output):
        logits = output[0] if module is model else output
        outputs.setdefault(module, []).append(logits)

    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    model(idx)
    for t in range(16):
        changed = idx.clone()
        changed[:, t] = (idx[:, t] + 1) % gpt.vocab_size
        model(changed)
        for module, (before, *_, after) in outputs.items():
            difference = (after - before).abs().sum(-1).flatten()  # (T,)
            assert difference[:t].sum() == 0, f'{module} looks ahead'
            positions = isinstance(module, nn.Embedding) and module.num_embeddings == 16
            assert positions or difference[t] > 1e-6
    for hook in hooks:
        hook.remove()


# ----------------------------------------------------------
# The whole model


def test_the_model_is_that_in_numpy(gpt, way, model):
    for length in (1, 9, 16):
        idx, targets = tokens(gpt, 3, length), tokens(gpt, 3, length, seed=1)
        logits, loss = model(idx, targets)
        expected = np.stack([numpy_model(model, row.numpy(), gpt.n_head) for row in idx])
        assert_close(logits.detach().numpy(), expected)
        right = np.take_along_axis(numpy_softmax(expected), targets.numpy()[..., None], -1)
        assert loss.item() == pytest.approx(-np.log(right).mean(), abs=1e-11)
        assert torch.equal(model(idx)[0], logits) and model(idx)[1] is None


def test_the_textbook_models_parameters_load_and_give_the_same(gpt, way, model):
    """So the names are the article's. Logits, loss and gradients are compared."""
    plain = randomized(textbook.GPTLanguageModel(gpt.vocab_size, 16, 32, 2, 2)).double()
    state = {name: value for name, value in plain.state_dict().items() if 'tril' not in name}
    model = gpt.GPTLanguageModel().double().eval()
    model.load_state_dict(state)
    batch = tokens(gpt, 3, 16), tokens(gpt, 3, 16, seed=1)
    (logits, loss), (plain_logits, plain_loss) = model(*batch), plain(*batch)
    assert_close([logits, loss], [plain_logits, plain_loss])
    loss.backward()
    plain_loss.backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    assert_close({name: parameter.grad for name, parameter in model.named_parameters()}, gradients)


def test_in_16_bits_the_ways_agree_as_far_as_16_bits_go(gpt, tmp_path, monkeypatch):
    """Logits and all gradients, with those of 32 bits, too."""
    torch.manual_seed(0)
    gpt16 = helpers.load(helpers.copy(tmp_path, text=helpers.INPUT, **{**TINY, 'bfloat16': True}))
    model16, model = gpt16.GPTLanguageModel(), gpt.GPTLanguageModel()
    model.load_state_dict(model16.state_dict())
    batch = tokens(gpt, 8, 16), tokens(gpt, 8, 16, seed=1)

    def results(model, dtype):
        logits, loss = model(*batch)
        assert logits.dtype == dtype
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        return torch.cat([logits.float().flatten() / 100, *[each.flatten() for each in gradients]])

    exact, fast = results(model, torch.float32), results(model16, torch.bfloat16)
    monkeypatch.setattr(gpt16, 'fast_attention', False)
    for other in (exact, results(model16, torch.bfloat16)):
        assert (fast - other).norm() < 0.05 * exact.norm()


def test_the_gpus_column_has_the_articles_size(tmp_path):
    path = helpers.copy(tmp_path, text=helpers.INPUT, gpu=True, device='cpu')
    with torch.device('meta'):
        model = helpers.load(path).GPTLanguageModel()
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_788_929


def test_the_gpus_branches_train_to_the_same_losses(tmp_path):
    """On a CPU: all that a GPU runs, apart from its kernels."""
    settings = {**TINY, 'dropout': 0.0, 'learning_rate': 1e-3, 'weight_decay': 0.1}
    expected = helpers.steps(helpers.quick(helpers.copy(tmp_path, **settings)))
    del settings['bfloat16']  # let the program find out
    losses = helpers.steps(helpers.quick(helpers.copy(tmp_path, gpu=True, **settings)))
    assert list(losses) == [0, 10, 20]
    for step in losses:
        assert losses[step] == pytest.approx(expected[step], abs=2e-4)


INITIAL_EDITS = [
    ('self.ln1 = nn', 'self.before = nn'),
    ('self.sa(self.ln1(x))', 'self.sa(self.before(x)) * self.gate'),
    ('self.ln2 = nn', 'self.gate = nn.Parameter(torch.ones(n_embd))\n        self.ln2 = nn'),
]


@pytest.mark.parametrize('edits', [[], INITIAL_EDITS], ids=['as it is', 'other names'])
def test_initial_parameters_go_by_the_kind_of_module(tmp_path, edits):
    """A layer norm under another name, or a new parameter, must not be touched."""
    torch.manual_seed(0)
    model = helpers.load(helpers.copy(tmp_path, edits=edits, **TINY)).GPTLanguageModel()
    kinds = {}
    for module in model.modules():
        kinds.setdefault(type(module), []).append(module)
    assert len(kinds[nn.LayerNorm]) == 5 and len(kinds[nn.Embedding]) == 2
    for norm in kinds[nn.LayerNorm]:
        assert (norm.weight == 1).all() and (norm.bias == 0).all()
    for layer in kinds[nn.Linear] + kinds[nn.Embedding]:
        assert layer.weight.std().item() == pytest.approx(0.5 / math.sqrt(32), rel=0.15)
    gates = [block.gate for block in model.blocks if edits]
    assert all((gate == 1).all() for gate in gates)


def test_untrained_it_knows_nothing(tmp_path):
    gpt = helpers.load(helpers.copy(tmp_path, text=helpers.INPUT, device='cpu', bfloat16=False))
    losses = []
    for seed in range(5):
        torch.manual_seed(seed)
        model = gpt.GPTLanguageModel()
        losses += [model(*gpt.get_batch(split))[1].item() for split in ('train', 'val')]
    assert np.mean(losses) == pytest.approx(math.log(65), abs=0.25)


def test_it_can_memorize_one_batch(gpt):
    torch.manual_seed(0)
    model = gpt.GPTLanguageModel()
    x, y = tokens(gpt, 8, 16), tokens(gpt, 8, 16, seed=1)
    x[:, 0] = torch.arange(8)  # no two pieces begin alike, so each target can be known
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(x, y)[1]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_importing_trains_and_prints_nothing(tmp_path, capsys):
    gpt = helpers.load(helpers.copy(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} - {'__pycache__'} == {'gpt.py', 'input.txt'}
    assert capsys.readouterr() == ('', '') and gpt.text == helpers.TEXT


# ----------------------------------------------------------
# Dropout


@pytest.fixture
def dropping(gpt, monkeypatch):
    """gpt.py with dropout."""
    monkeypatch.setattr(gpt, 'dropout', 0.3)
    torch.manual_seed(0)
    return gpt


def assert_drops(module, x):
    """`module(x)` is all ones, apart from dropout, which is there in training only."""
    ones = torch.ones_like(x)
    assert_close(module.eval()(x), ones, 1e-6)
    out = module.train()(x)
    kept = out != 0
    assert_close(out[kept], ones[kept] / 0.7, 1e-6)
    assert 1 - kept.float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_attention_drops_weights(dropping, way):
    """With one character, its only weight is 1. Its value, 1 here, is kept or dropped."""
    heads = dropping.MultiHeadAttention(2, 16)
    heads.dropout.p = 0.0
    with torch.no_grad():
        for head in heads.heads:
            head.value.weight.fill_(1 / 32)
        heads.proj.weight.copy_(torch.eye(32))
        heads.proj.bias.zero_()
    assert_drops(heads, torch.ones(20_000, 1, 32))


def test_multi_head_attention_and_feed_forward_drop_what_they_return(dropping, way):
    heads, ffwd = dropping.MultiHeadAttention(2, 16), dropping.FeedForward(32)
    for module, last in ((heads, heads.proj), (ffwd, ffwd.net[2])):
        with torch.no_grad():
            last.weight.zero_()
            last.bias.fill_(1)
        assert_drops(module, torch.randn(100, 16, 32))


# ----------------------------------------------------------
# Generating text


def likeliest(gpt, model, idx, count):
    """The likeliest character, again and again, each from the last block_size characters."""
    for _ in range(count):
        logits = model(idx[:, -gpt.block_size :])[0][:, -1]
        idx = torch.cat([idx, torch.tensor([[row.argmax().item()] for row in logits])], 1)
    return idx


@pytest.mark.parametrize('length', [1, 40])
def test_generate_continues_the_text_also_past_block_size(gpt, model, length):
    """The same generator, the same text. Torch's own random state stays as it is."""

    def generate(seed, count=30):
        return model.generate(idx, count, generator=torch.Generator().manual_seed(seed))

    idx, before = tokens(gpt, 3, length), torch.get_rng_state()
    out = generate(1)
    assert out.shape == (3, length + 30) and torch.equal(out[:, :length], idx)
    assert torch.equal(out, generate(1)) and not torch.equal(out, generate(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generate(1, 0), idx)


@pytest.mark.parametrize('options', [(0, 0), (0.0, 5), (1.0, 1)], ids=str)
def test_at_temperature_0_or_top_k_1_the_likeliest_comes(gpt, model, options):
    idx = tokens(gpt, 3, 4)
    assert torch.equal(model.generate(idx, 30, *options), likeliest(gpt, model, idx, 30))


@pytest.mark.parametrize('options', [(1.0, 0), (0.5, 0), (2.0, 3), (0.7, 1000)], ids=str)
def test_characters_come_as_often_as_they_should(gpt, model, options):
    temperature, top_k = options
    idx, generator = tokens(gpt, 1, 3), torch.Generator().manual_seed(0)
    out = model.generate(idx.expand(20_000, 3), 1, temperature, top_k, generator)
    shares = np.bincount(out[:, -1].numpy(), minlength=gpt.vocab_size) / 20_000
    logits = numpy_model(model, idx[0].numpy(), gpt.n_head)[-1] / temperature
    if top_k:
        logits[np.argsort(-logits)[top_k:]] = -np.inf
    probs = numpy_softmax(logits)
    assert shares[probs == 0].sum() == 0
    assert np.abs(shares - probs).max() < 5 * 0.5 / math.sqrt(20_000)


def test_generate_computes_no_gradients(gpt):
    model, seen = gpt.GPTLanguageModel(), []
    model.register_forward_hook(lambda module, _, output: seen.append(output[0].requires_grad))
    model.generate(tokens(gpt, 1, 3), 2)
    assert seen == [False, False]


def test_sample_is_the_same_every_time_without_dropout(dropping, monkeypatch):
    """It leaves the model in eval mode, as load_model() does and estimate_loss() too."""
    model = dropping.GPTLanguageModel().train()
    first = dropping.sample(model, 30)
    assert not any(module.training for module in model.modules())
    dropping.estimate_loss(model)
    assert not any(module.training for module in model.modules())
    assert len(first) == 30 and dropping.sample(model, 30) == first
    monkeypatch.setattr(dropping, 'seed', 7)
    assert dropping.sample(model, 30) != first


def test_sample_follows_the_prompt(gpt, model, monkeypatch):
    monkeypatch.setattr(gpt, 'temperature', 0.0)
    for prompt, codes in (('Speak, ', gpt.encode_string('Speak, ')), ('', [0])):
        monkeypatch.setattr(gpt, 'prompt', prompt)
        expected = likeliest(gpt, model, torch.tensor([codes]), 30)[0, len(codes) :]
        assert gpt.encode_string(gpt.sample(model, 30)) == expected.tolist()


# ----------------------------------------------------------
# The comments about shapes


def comments_about_shapes(path):
    """{line number: ('scores', '..., T, T')} of the lines such as `scores = ...  # (..., T, T)`."""
    found = {}
    with open(path, encoding='utf-8') as file:
        for token in tokenize.generate_tokens(file.readline):
            name = re.match(r' +(\w+) (= )?[^=]', token.line)
            shape = re.match(r'# (?:.* -> )?\(([^()]*)\)', token.string)
            if token.type == tokenize.COMMENT and name and shape:
                found[token.start[0]] = (name[1], shape[1])
    return found


def test_comments_about_shapes_are_true(tmp_path):
    """What a line computes is held to the comment behind it, while the program runs."""
    settings = {'block_size': 11, 'n_embd': 28, 'n_head': 4, 'batch_size': 3}
    path = helpers.copy(tmp_path, **{**TINY, **settings})
    gpt, comments, wrong, checked = helpers.load(path), comments_about_shapes(path), [], set()
    sizes = {'B': 3, 'T': 5, 'C': 28, 'head_size': 7, 'n_head': 4, 'k': 9}
    sizes['vocab_size'] = gpt.vocab_size
    assert len(set(sizes.values())) == len(sizes)

    def trace(frame, event, argument):
        """Python calls this for each function, and what it returns for each line of that one."""
        code, line = frame.f_code, None
        if code.co_filename != str(path) or code.co_name.startswith('<'):
            return None

        def trace_lines(frame, event, argument):
            nonlocal line
            if line in comments:
                name, shape = comments[line]
                value = argument if name == 'return' else frame.f_locals[name]
                seen, expected = tuple(value.shape), eval(f'({shape},)', {}, sizes)
                if expected[0] is Ellipsis:
                    expected = seen[: 1 - len(expected)] + expected[1:]
                if seen != expected:
                    wrong.append(f'line {line}: {name} is {seen}, not ({shape})')
                checked.add(line)
            line = frame.f_lineno
            return trace_lines

        return trace_lines

    model, idx, before = gpt.GPTLanguageModel(), tokens(gpt, 3, 5), sys.gettrace()
    sys.settrace(trace)
    try:
        for gpt.fast_attention in (True, False):
            model.generate(idx, 1, top_k=9)
        model.generate(idx, 1, temperature=0)
    finally:
        sys.settrace(before)
    assert wrong == [] and checked == set(comments) and len(checked) >= 20


# ----------------------------------------------------------
# What is read is what runs

SCORES = 'q @ k.transpose(-2, -1) / math.sqrt(head_size)'
MASKED = "scores = scores.masked_fill(later, float('-inf'))"
CALL = 'attention(q, k, v, self.training)'
VALUE = 'self.value = nn.Linear(n_embd, head_size, bias=False)'
CAT = 'torch.cat([head(x) for head in self.heads], dim=-1)  # (B'
HEADS = 'nn.ModuleList([Head(head_size) for'
DISTANCE = 'scores -= (torch.arange(T)[:, None] - torch.arange(T)).abs()'
FAST = 'if fast_attention:\n            out'

EDITS = {
    # attention
    'no scale': [(SCORES, 'q @ k.transpose(-2, -1)')],
    'distances for scores': [(SCORES, '-torch.cdist(q, k)')],
    'no mask': [(MASKED, 'scores = scores')],
    'a mask that is off by one': [('triu(diagonal=1)', 'triu(diagonal=2)')],
    'a bias by distance': [(MASKED, f'{DISTANCE}\n    {MASKED}')],
    'a sharper softmax': [('F.softmax(scores, dim=-1)', 'F.softmax(3 * scores, dim=-1)')],
    'a sigmoid': [('F.softmax(scores, dim=-1)', 'torch.sigmoid(scores)')],
    'no dropout of weights': [('F.dropout(weights, dropout, training)', 'weights')],
    'only a comment': [('# Each character gets a weighted', '# Each of them gets a weighted')],
    # Head
    'a bias': [(VALUE, VALUE.replace('False', 'True'))],
    'ReLU on the values': [('v = self.value(x)', 'v = F.relu(self.value(x))')],
    'no key': [('k = self.key(x)', 'k = self.query(x)')],
    'a constant': [(CALL, 'torch.zeros_like(v)')],
    'more dropout': [(CALL, f'F.dropout({CALL}, 0.5, self.training)')],
    'one more layer': [
        (VALUE, f'{VALUE}\n        self.mix = nn.Linear(head_size, head_size)'),
        (CALL, f'self.mix({CALL})'),
    ],
    'a gate that starts at zero': [
        (VALUE, f'{VALUE}\n        self.gate = nn.Parameter(torch.zeros(1))'),
        (CALL, f'(1 + self.gate) * {CALL}'),
    ],
    'another name': [('self.value = nn', 'self.offer = nn'), ('self.value(x)', 'self.offer(x)')],
    # MultiHeadAttention
    'heads in another order': [(CAT, CAT.replace('self.heads', 'reversed(self.heads)'))],
    'one head for all': [(CAT, CAT.replace('head(x)', 'self.heads[0](x)'))],
    'no proj': [('self.dropout(self.proj(out))', 'self.dropout(out)')],
    'wider heads': [
        (HEADS, HEADS.replace('head_size', '2 * head_size')),
        ('nn.Linear(num_heads * head_size, n', 'nn.Linear(num_heads * 2 * head_size, n'),
    ],
    'no fast way': [(FAST, FAST.replace('fast_attention', 'False'))],
}
SAME = ['only a comment', 'no fast way']  # edits that change no number
SHORT = {**TINY, 'dropout': 0.1, 'max_iters': 3, 'eval_interval': 3, 'eval_iters': 1}
LINE = 'attention, Head or MultiHeadAttention was edited, so the heads run one by one\n'


def train_and_load(folder, fast_attention, edits=()):
    """Train, then load_model(). Returns what was printed, and the parameters and logits of both."""
    path = helpers.copy(folder, edits=edits, fast_attention=fast_attention, **SHORT)
    results = []
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        gpt = helpers.load(path)
        for model in (gpt.train().eval(), gpt.load_model()):
            logits = model(tokens(gpt, 2, 16))[0].detach()
            results.append({**model.state_dict(), 'logits': logits})
    return stdout.getvalue(), results


@pytest.fixture(scope='module')
def unedited(tmp_path_factory):
    return train_and_load(tmp_path_factory.mktemp('unedited'), False)[1]


@pytest.mark.parametrize('name', EDITS)
def test_no_edit_of_the_heads_is_ignored(tmp_path, unedited, name):
    """The run is that of the heads as written, bit for bit. One line says that they are used."""
    said, fast = train_and_load(tmp_path, True, EDITS[name])
    assert said.count(LINE) == 1
    said, as_written = train_and_load(tmp_path, False, EDITS[name])
    assert 'edited' not in said and helpers.equal(fast, as_written)
    assert helpers.equal(fast, unedited) == (name in SAME)


def test_heads_that_were_not_edited_run_all_at_once(tmp_path, capsys, monkeypatch):
    """Also if the file has the line ends of Windows."""
    path = helpers.copy(tmp_path, **TINY)
    path.write_bytes(path.read_bytes().replace(b'\r\n', b'\n').replace(b'\n', b'\r\n'))
    gpt = helpers.load(path)
    monkeypatch.setattr(gpt, 'all_heads_at_once', lambda heads, x: torch.zeros_like(x))
    heads = gpt.MultiHeadAttention(2, 16)
    assert torch.equal(heads(torch.ones(2, 16, 32))[0, 0], heads.proj.bias)
    assert capsys.readouterr() == ('', '')


def test_the_checksum_is_that_of_the_heads(gpt):
    """After a change of attention, Head or MultiHeadAttention, the new one has to be written."""
    with mock.patch('zlib.crc32', wraps=zlib.crc32) as crc32:
        edited = gpt.heads_were_edited()
    assert not edited, f'the checksum is now 0x{zlib.crc32(*crc32.call_args.args):08X}'
