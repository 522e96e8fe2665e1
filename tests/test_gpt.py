"""What gpt.py computes, piece by piece, against other ways to compute it."""
import hashlib
import math

import numpy as np
import pytest
import torch
import torch.nn as nn
from torch.nn import functional as F

import program
import textbook

SIZES = [(32, 2, 16), (24, 3, 8), (16, 1, 16), (12, 3, 5), (20, 4, 5)]  # n_embd, heads, head_size


@pytest.fixture(scope='session')
def gpt(tmp_path_factory):
    """gpt.py with a tiny model."""
    return program.load(program.copy(tmp_path_factory.mktemp('tiny'), **program.TINY))


@pytest.fixture(scope='session')
def cpu_gpt(tmp_path_factory):
    """gpt.py with the CPU's values."""
    return program.load(program.copy(tmp_path_factory.mktemp('cpu'), device='cpu'))


@pytest.fixture(scope='session')
def numbered(tmp_path_factory):
    """gpt.py on a text of 400 different characters in order, some beyond 16 bits: each one's number is its place."""
    text = ''.join(map(chr, [*range(0x20, 0x7f), *range(0x400, 0x500), *range(0x1f600, 0x1f600 + 49)]))
    assert len(text) == 400
    settings = program.TINY | dict(block_size=7, batch_size=64)
    return program.load(program.copy(tmp_path_factory.mktemp('numbered'), text=text, **settings))


@pytest.fixture(params=[True, False], ids=['fast', 'formula'])
def fast(request, gpt, monkeypatch):
    monkeypatch.setattr(gpt, 'fast_attention', request.param)
    return request.param


def randomise(module, std=0.3):
    """Every parameter random (layer norms and biases too, which begin as ones and zeros), in float64, in eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module.double().eval()


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens(gpt, *shape, seed=0):
    return torch.randint(gpt.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


# ---- numpy, float64: written from the papers, place by place ----
def numpy_softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def numpy_attention(q, k, v):
    """(T, head_size) each -> (T, head_size)."""
    out = np.zeros_like(v)
    for t in range(len(q)):
        scores = np.array([q[t] @ k[j] / math.sqrt(q.shape[-1]) for j in range(t + 1)])
        out[t] = numpy_softmax(scores) @ v[:t + 1]
    return out


def numpy_layer_norm(x, weight, bias):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def numpy_model(state, idx, n_head, n_layer):
    """The logits (T, vocab_size) for the characters' numbers idx (T,), from the parameters by name."""
    p = {name: parameter.numpy() for name, parameter in state.items()}
    x = p['token_embedding_table.weight'][idx] + p['position_embedding_table.weight'][:len(idx)]
    for b in (f'blocks.{layer}.' for layer in range(n_layer)):
        normed = numpy_layer_norm(x, p[b + 'ln1.weight'], p[b + 'ln1.bias'])
        heads = [numpy_attention(*(normed @ p[f'{b}sa.heads.{head}.{name}.weight'].T
                                   for name in ('query', 'key', 'value')))
                 for head in range(n_head)]
        x = x + np.concatenate(heads, -1) @ p[b + 'sa.proj.weight'].T + p[b + 'sa.proj.bias']
        normed = numpy_layer_norm(x, p[b + 'ln2.weight'], p[b + 'ln2.bias'])
        hidden = np.maximum(normed @ p[b + 'ffwd.net.0.weight'].T + p[b + 'ffwd.net.0.bias'], 0)
        x = x + hidden @ p[b + 'ffwd.net.2.weight'].T + p[b + 'ffwd.net.2.bias']
    return numpy_layer_norm(x, p['ln_f.weight'], p['ln_f.bias']) @ p['lm_head.weight'].T + p['lm_head.bias']


# ---- Text to numbers ----
def test_the_articles_worked_examples(gpt):
    assert gpt.encode_string('hello') == [46, 43, 50, 50, 53]
    assert gpt.decode_list([46, 43, 50, 50, 53]) == 'hello'
    assert gpt.data[:9].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58]


@pytest.mark.skipif(not program.TINY_SHAKESPEARE.is_file(), reason="the article's text is not part of the project")
def test_the_articles_text(tmp_path):
    """Tiny Shakespeare, put in as input.txt, gives the numbers that the article prints."""
    module = program.load(program.copy(tmp_path, text=program.TINY_SHAKESPEARE.read_bytes(), device='cpu'))
    assert module.vocab_size == 65 and len(module.text) == 1_115_394
    assert module.encode_string('hello') == [46, 43, 50, 50, 53]
    assert module.data[:9].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58]


def test_the_text_is_the_one_it_should_be(gpt):
    digest = hashlib.sha256((program.ROOT / 'input.txt').read_bytes()).hexdigest()
    assert digest == '99956689838e2d6e51754660cfc8c454d8252c6b4d196e286f05bf2a32c8a9cb'
    assert (len(gpt.text), gpt.vocab_size, len(gpt.data)) == (1_162_807, 65, 1_162_807)
    assert gpt.chars == sorted(set(gpt.text))


@pytest.mark.parametrize('name', ['gpt', 'numbered'])
def test_encode_and_decode(name, request):
    module = request.getfixturevalue(name)
    codes = module.encode_string(module.text)  # input.txt is longer than the pieces that encode_text works in
    assert module.decode_list(codes) == module.text
    assert module.encode_text(module.text).tolist() == codes == module.data.tolist()
    assert sorted(set(codes)) == list(range(module.vocab_size))
    assert module.encode_string('') == [] and module.decode_list([]) == ''


@pytest.mark.parametrize('size', [1, 2, 127, 128, 129, 256, 257])
def test_every_alphabet_fits_its_numbers(size, gpt, monkeypatch):
    """At each size where a smaller type would just do no more."""
    chars = [chr(0x10000 + i) for i in range(size)]
    monkeypatch.setattr(gpt, 'chars', chars)
    monkeypatch.setattr(gpt, 'vocab_size', size)
    assert gpt.encode_text(''.join(chars)).tolist() == list(range(size))


def test_an_unknown_character_is_named(gpt):
    with pytest.raises(ValueError, match='é'):
        gpt.encode_string('café')


# ---- Batches ----
@pytest.mark.parametrize('split', ['train', 'val'])
def test_batches_are_windows_of_their_part_and_reach_its_ends(numbered, split):
    first, last = (0, 359) if split == 'train' else (360, 399)
    generator = torch.Generator().manual_seed(0)
    starts = set()
    for _ in range(60):
        x, y = numbered.get_batch(split, generator)
        assert x.shape == y.shape == (64, 7) and x.dtype == y.dtype == torch.int64
        assert torch.equal(x, x[:, :1] + torch.arange(7))  # the text counts upwards: a window is its first and on
        assert torch.equal(y, x + 1)
        starts.update(x[:, 0].tolist())
    assert starts == set(range(first, last - 7 + 1))  # y of the last window ends at the last character


def test_batches_come_from_the_generator_alone(gpt):
    def batch(seed):
        return gpt.get_batch('train', torch.Generator().manual_seed(seed))[0]
    before = torch.get_rng_state()
    assert torch.equal(batch(1), batch(1)) and not torch.equal(batch(1), batch(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(gpt.get_batch('train')[0], gpt.get_batch('train')[0])


# ---- Attention ----
@pytest.mark.parametrize('shape', [(1, 4), (7, 1), (2, 5, 8), (2, 3, 9, 16)])
def test_attention_is_the_formula(gpt, fast, shape):
    q, k, v = (normal(*shape, seed=i) * 2 for i in range(3))
    out = gpt.attention(q, k, v)
    flat = [t.reshape(-1, *shape[-2:]).numpy() for t in (q, k, v)]
    expected = np.stack([numpy_attention(*qkv) for qkv in zip(*flat)]).reshape(shape)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, is_causal=True), rtol=0, atol=1e-12)


def test_fast_attention_chooses_the_way(gpt, fast, monkeypatch):
    calls = []
    monkeypatch.setattr(F, 'scaled_dot_product_attention', lambda q, k, v, **options: calls.append(options) or v)
    gpt.attention(normal(1, 4, 8), normal(1, 4, 8), normal(1, 4, 8))
    assert len(calls) == fast


def test_head_is_the_formula(gpt, fast):
    head = randomise(gpt.Head(8))
    x = normal(3, 10, gpt.n_embd)
    q, k, v = (x.numpy() @ getattr(head, name).weight.detach().numpy().T for name in ('query', 'key', 'value'))
    expected = np.stack([numpy_attention(*qkv) for qkv in zip(q, k, v)])
    np.testing.assert_allclose(head(x).detach().numpy(), expected, rtol=0, atol=1e-12)
    assert sum(p.numel() for p in head.parameters()) == 3 * 8 * gpt.n_embd  # no biases


@pytest.mark.parametrize('size', SIZES, ids=str)
def test_multi_head_attention_is_its_heads_side_by_side(gpt, fast, size, monkeypatch):
    n_embd, num_heads, head_size = size
    monkeypatch.setattr(gpt, 'n_embd', n_embd)
    attention = randomise(gpt.MultiHeadAttention(num_heads, head_size))
    x, weight = normal(2, 9, n_embd).requires_grad_(), normal(2, 9, n_embd, seed=1)
    inputs = [x, *attention.parameters()]
    one_by_one = attention.proj(torch.cat([head(x) for head in attention.heads], dim=-1))
    at_once = attention(x)
    torch.testing.assert_close(at_once, one_by_one, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad((at_once * weight).sum(), inputs)
    expected = torch.autograd.grad((one_by_one * weight).sum(), inputs)
    for gradient, other in zip(gradients, expected, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-11)


@pytest.mark.parametrize('size', [s for s in SIZES if s[0] == s[1] * s[2]], ids=str)
def test_multi_head_attention_is_torchs(gpt, fast, size, monkeypatch):
    n_embd, num_heads, head_size = size
    monkeypatch.setattr(gpt, 'n_embd', n_embd)
    attention = randomise(gpt.MultiHeadAttention(num_heads, head_size))
    theirs = nn.MultiheadAttention(n_embd, num_heads, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat(
            [getattr(head, name).weight for name in ('query', 'key', 'value') for head in attention.heads]))
        theirs.in_proj_bias.zero_()
        theirs.out_proj.load_state_dict(attention.proj.state_dict())
    x = normal(2, 9, n_embd)
    later = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=later, need_weights=False)
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-12)


def test_every_head_runs_the_attention_that_one_reads(gpt, monkeypatch):
    """Who edits attention() changes both Head and MultiHeadAttention."""
    monkeypatch.setattr(gpt, 'attention', lambda q, k, v, p=0.0: q * 0 + 1)
    head, heads = randomise(gpt.Head(16)), randomise(gpt.MultiHeadAttention(2, 16))
    x = normal(1, 4, gpt.n_embd)
    assert torch.equal(head(x), torch.ones(1, 4, 16, dtype=torch.float64))
    torch.testing.assert_close(heads(x), heads.proj(torch.ones_like(x)))


# ---- Causality ----
@pytest.mark.parametrize('part', ['Head', 'MultiHeadAttention', 'Block'])
def test_no_place_sees_a_later_one(gpt, fast, part):
    module = randomise({'Head': lambda: gpt.Head(8), 'MultiHeadAttention': lambda: gpt.MultiHeadAttention(2, 16),
                        'Block': lambda: gpt.Block(gpt.n_embd, 2)}[part]())
    x = normal(1, 10, gpt.n_embd)
    for t in range(10):
        changed = x.clone()
        changed[:, t] += normal(gpt.n_embd, seed=1)
        difference = (module(changed) - module(x)).abs().amax((0, 2))  # (T,)
        assert difference[:t].sum() == 0 and (difference[t:] > 1e-6).all()


def test_no_prediction_sees_a_later_character(gpt, fast):
    model = randomise(gpt.GPTLanguageModel())
    idx = tokens(gpt, 1, gpt.block_size)
    for t in range(gpt.block_size):
        changed = idx.clone()
        changed[:, t] = (idx[:, t] + 1) % gpt.vocab_size
        difference = (model(changed)[0] - model(idx)[0]).abs().amax((0, 2))
        assert difference[:t].sum() == 0 and (difference[t:] > 1e-6).all()


# ---- The model ----
@pytest.mark.parametrize('length', [1, 9, 16])
def test_model_is_the_independent_one(gpt, fast, length):
    model = randomise(gpt.GPTLanguageModel())
    idx, targets = tokens(gpt, 3, length), tokens(gpt, 3, length, seed=1)
    logits, loss = model(idx, targets)
    expected = np.stack([numpy_model(model.state_dict(), row.numpy(), gpt.n_head, gpt.n_layer) for row in idx])
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=0, atol=1e-10)
    chosen = np.take_along_axis(numpy_softmax(expected), targets.numpy()[..., None], -1)
    assert loss.item() == pytest.approx(-np.log(chosen).mean(), abs=1e-10)
    without, none = model(idx)
    assert torch.equal(without, logits) and none is None


def test_parameters_have_the_articles_names(gpt):
    block = ['ln1.weight', 'ln1.bias', 'ln2.weight', 'ln2.bias', 'sa.proj.weight', 'sa.proj.bias', 'ffwd.net.0.weight',
             'ffwd.net.0.bias', 'ffwd.net.2.weight', 'ffwd.net.2.bias',
             *(f'sa.heads.{head}.{name}.weight' for head in range(2) for name in ('key', 'query', 'value'))]
    names = ['token_embedding_table.weight', 'position_embedding_table.weight', 'ln_f.weight', 'ln_f.bias',
             'lm_head.weight', 'lm_head.bias', *(f'blocks.{layer}.{name}' for layer in range(2) for name in block)]
    assert sorted(gpt.GPTLanguageModel().state_dict()) == sorted(names)


def test_a_textbook_models_state_loads(gpt, fast):
    torch.manual_seed(0)
    other = textbook.GPTLanguageModel(gpt.vocab_size, gpt.block_size, gpt.n_embd, gpt.n_head, gpt.n_layer)
    randomise(other)
    model = gpt.GPTLanguageModel().double().eval()
    state = {name: value for name, value in other.state_dict().items() if not name.endswith('tril')}
    model.load_state_dict(state)  # strict: neither a name too few nor one too many
    idx, targets = tokens(gpt, 3, gpt.block_size), tokens(gpt, 3, gpt.block_size, seed=1)
    for ours, theirs in zip(model(idx, targets), other(idx, targets)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    gradients = torch.autograd.grad(model(idx, targets)[1], list(model.parameters()))
    expected = torch.autograd.grad(other(idx, targets)[1], list(other.parameters()))
    names = dict(zip(dict(other.named_parameters()), expected))
    for (name, _), gradient in zip(model.named_parameters(), gradients):
        torch.testing.assert_close(gradient, names[name], rtol=0, atol=1e-11)


def test_untrained_it_knows_nothing(cpu_gpt):
    losses = []
    for seed in (cpu_gpt.seed, 0, 1, 2, 3):
        torch.manual_seed(seed)
        model = cpu_gpt.GPTLanguageModel()
        batches = torch.Generator().manual_seed(0)
        losses.append([model(*cpu_gpt.get_batch(split, batches))[1].item() for split in ('train', 'val')])
    assert np.abs(np.array(losses[0]) - math.log(65)).max() < 0.1
    assert np.abs(np.mean(losses, 0) - math.log(65)).max() < 0.1


def test_the_gpus_model_is_the_articles(tmp_path, monkeypatch):
    """The GPU's column of the hyperparameters, read without a GPU."""
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (0, 0))
    path = program.copy(tmp_path, device='cpu', gpu=True)
    gpt = program.load(path)
    articles = dict(batch_size=64, block_size=256, max_iters=5000, eval_interval=500, learning_rate=3e-4,
                    eval_iters=200, n_embd=384, n_head=6, n_layer=6, dropout=0.2)
    assert {name: getattr(gpt, name) for name in articles} == articles
    with torch.device('meta'):
        model = gpt.GPTLanguageModel()
    assert sum(p.numel() for p in model.parameters()) == 10_788_929


def test_it_learns_one_batch_by_heart(gpt):
    torch.manual_seed(0)
    model = gpt.GPTLanguageModel()
    x, y = tokens(gpt, 8, 16), tokens(gpt, 8, 16, seed=1)
    x[:, 0] = torch.arange(8)  # so that no two rows begin alike and each target can be known
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(x, y)[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


def test_importing_trains_nothing(tmp_path, capsys):
    path = program.copy(tmp_path, text='to be or not to be\n' * 10, device='cpu')
    gpt = program.load(path)
    assert {p.name for p in tmp_path.iterdir()} - {'__pycache__'} == {'gpt.py', 'input.txt'}
    assert capsys.readouterr() == ('', '')
    assert gpt.chars == sorted(set('to be or not to be\n'))


# ---- Dropout ----
def share_of_zeros(x, p):
    """Each number of x, which is 1 without dropout, has to be 0 or 1 / (1 - p); returns the share of zeros."""
    assert torch.isclose(x, torch.zeros(()).to(x)).logical_or(torch.isclose(x, torch.tensor(1 / (1 - p)).to(x))).all()
    return (x == 0).double().mean().item()


def test_attention_drops_weights(gpt, fast):
    torch.manual_seed(0)
    ones = torch.ones(20_000, 1, 1)  # one place: its only weight is 1
    assert share_of_zeros(gpt.attention(ones, ones, ones, 0.3), 0.3) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(gpt.attention(ones, ones, ones), ones)


@pytest.fixture
def dropping(gpt, monkeypatch):
    monkeypatch.setattr(gpt, 'dropout', 0.4)
    torch.manual_seed(0)
    return gpt


def test_dropout_in_head(dropping, fast):
    head = dropping.Head(8)
    x = torch.randn(2, 16, 32)
    assert torch.equal(head.eval()(x), head(x))
    assert not torch.equal(head.train()(x), head(x))


def test_dropout_in_multi_head_attention(dropping, fast):
    heads = dropping.MultiHeadAttention(2, 16)
    x = torch.randn(8, 16, 32)
    assert torch.equal(heads.eval()(x), heads(x))
    heads.train()
    heads.dropout.p = 0.0  # what is left is the attention's own
    assert not torch.equal(heads(x), heads(x))
    heads.dropout.p = 0.4
    with torch.no_grad():
        heads.proj.weight.zero_()
        heads.proj.bias.fill_(1)
    assert share_of_zeros(heads(x), 0.4) == pytest.approx(0.4, abs=0.04)


def test_dropout_in_feed_forward(dropping):
    net = dropping.FeedForward(32)
    with torch.no_grad():
        net.net[2].weight.zero_()
        net.net[2].bias.fill_(1)
    x = torch.randn(8, 16, 32)
    assert share_of_zeros(net.train()(x), 0.4) == pytest.approx(0.4, abs=0.04)
    assert torch.equal(net.eval()(x), torch.ones_like(x))


def test_dropout_in_the_model(dropping, fast):
    model = dropping.GPTLanguageModel()
    idx = tokens(dropping, 2, 16)
    assert not torch.equal(model(idx)[0], model(idx)[0])
    model.eval()
    assert torch.equal(model(idx)[0], model(idx)[0])


# ---- generate ----
@pytest.fixture(scope='session')
def model(gpt):
    """Random and with firm opinions, so that its characters differ in probability."""
    model = randomise(gpt.GPTLanguageModel())
    with torch.no_grad():
        model.lm_head.weight *= 1.5
    return model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def likeliest(gpt, model, idx, count):
    """The likeliest character, again and again, each from the last block_size characters."""
    for _ in range(count):
        logits = model(idx[:, -gpt.block_size:])[0][:, -1]
        idx = torch.cat([idx, torch.tensor([[row.argmax().item()] for row in logits])], 1)
    return idx


def test_generate_continues_past_block_size(gpt, model):
    for length in (1, 5, 40):
        idx = tokens(gpt, 3, length)
        out = model.generate(idx, 30, generator=generator())
        assert out.shape == (3, length + 30) and out.dtype == torch.int64
        assert torch.equal(out[:, :length], idx)
        assert 0 <= out.min() and out.max() < gpt.vocab_size
    assert torch.equal(model.generate(idx, 0), idx)


def test_generate_by_seed(gpt, model):
    idx = tokens(gpt, 2, 4)
    first = model.generate(idx, 25, generator=generator(1))
    assert torch.equal(model.generate(idx, 25, generator=generator(1)), first)
    assert not torch.equal(model.generate(idx, 25, generator=generator(2)), first)
    before = torch.get_rng_state()
    model.generate(idx, 5, generator=generator(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('length', [1, 40])
def test_at_temperature_0_generate_is_greedy(gpt, model, length):
    idx = tokens(gpt, 3, length)
    expected = likeliest(gpt, model, idx, 30)
    assert torch.equal(model.generate(idx, 30, temperature=0), expected)
    assert torch.equal(model.generate(idx, 30, temperature=0.0, top_k=5), expected)
    assert torch.equal(model.generate(idx, 30, temperature=1.0, top_k=1), expected)
    assert not torch.equal(model.generate(idx, 30, temperature=1.0, generator=generator()), expected)


@pytest.mark.parametrize(
    'temperature, top_k', [(1.0, 0), (0.5, 0), (2.0, 0), (1.0, 3), (0.7, 2), (1.0, 65), (1.0, 1000)])
def test_characters_come_as_often_as_they_should(gpt, model, temperature, top_k):
    draws = 20_000
    idx = tokens(gpt, 1, 3)
    out = model.generate(idx.expand(draws, 3), 1, temperature=temperature, top_k=top_k, generator=generator())
    frequencies = np.bincount(out[:, -1].numpy(), minlength=gpt.vocab_size) / draws
    logits = numpy_model(model.state_dict(), idx[0].numpy(), gpt.n_head, gpt.n_layer)[-1]
    if top_k:
        logits[np.argsort(-logits)[top_k:]] = -np.inf
    probs = numpy_softmax(logits / temperature)
    assert (frequencies[probs == 0] == 0).all()
    assert np.abs(frequencies - probs).max() < 5 * 0.5 / math.sqrt(draws)
    assert np.abs(frequencies - probs).sum() / 2 < 0.05


@pytest.mark.parametrize('training', [True, False])
def test_generate_leaves_the_mode_and_drops_nothing(dropping, training):
    model = dropping.GPTLanguageModel()
    with torch.no_grad():
        model.lm_head.weight *= 30
    idx = tokens(dropping, 4, 3)
    expected = likeliest(dropping, model.eval(), idx, 25)
    model.train(training)
    assert torch.equal(model.generate(idx, 25, temperature=0), expected)
    assert {module.training for module in model.modules()} == {training}


def test_generate_keeps_no_gradients(gpt):
    model, seen = gpt.GPTLanguageModel(), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output[0].requires_grad))
    model.generate(tokens(gpt, 1, 3), 2)
    assert seen == [False, False]


def test_sample_follows_the_prompt(gpt, model, monkeypatch):
    floats = gpt.GPTLanguageModel()
    first = gpt.sample(floats, 30)
    assert len(first) == 30 and set(first) <= set(gpt.chars) and gpt.sample(floats, 30) == first
    monkeypatch.setattr(gpt, 'seed', 7)
    assert gpt.sample(floats, 30) != first
    monkeypatch.setattr(gpt, 'temperature', 0.0)
    for prompt, codes in (('Speak, ', gpt.encode_string('Speak, ')), ('', [0])):
        monkeypatch.setattr(gpt, 'prompt', prompt)
        expected = likeliest(gpt, model, torch.tensor([codes]), 30)[0, len(codes):].tolist()
        assert gpt.encode_string(gpt.sample(model, 30)) == expected


# ---- estimate_loss ----
def test_estimate_loss_is_the_mean_over_its_batches(gpt):
    torch.manual_seed(0)
    model = gpt.GPTLanguageModel()
    losses = gpt.estimate_loss(model)
    model.eval()
    for split in ('train', 'val'):
        batches = torch.Generator().manual_seed(gpt.seed)
        mean = np.mean([model(*gpt.get_batch(split, batches))[1].item() for _ in range(gpt.eval_iters)])
        assert losses[split] == pytest.approx(mean, abs=1e-5)
    assert losses['train'] != losses['val']


def test_estimate_loss_averages_eval_iters_batches(gpt, monkeypatch):
    monkeypatch.setattr(gpt, 'eval_iters', 5)
    calls, get_batch = [], gpt.get_batch
    monkeypatch.setattr(gpt, 'get_batch', lambda split, *rest: calls.append(split) or get_batch(split, *rest))
    gpt.estimate_loss(gpt.GPTLanguageModel())
    assert sorted(calls) == ['train'] * 5 + ['val'] * 5


def test_estimate_loss_changes_nothing(dropping):
    model, seen = dropping.GPTLanguageModel().train(), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    model.register_forward_hook(lambda module, inputs, output: seen.append(output[1].requires_grad))
    first = dropping.estimate_loss(model)
    assert dropping.estimate_loss(model) == first  # so dropout was off
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {module.training for module in model.modules()} == {True}
    assert not any(seen)
