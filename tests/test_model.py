"""The model. Attention is held to torch's own, and the whole of it to numpy, in float64."""

import math
import re
import sys

import numpy as np
import pytest
import torch
import torch.nn as nn
from torch.nn import functional as F
from torch.testing import assert_close


def randomized(module):
    """The module with all parameters random, layer norms and biases too. In float64, eval mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.double().eval()


@pytest.fixture(scope='module')
def model(gpt):
    return randomized(gpt.GPTLanguageModel())


def tokens(*shape, seed=0):
    """Random characters."""
    return torch.randint(65, shape, generator=torch.Generator().manual_seed(seed))


def softmax(scores):
    """In numpy: scores (..., n) -> probabilities (..., n)."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def forward(model, idx, n_head):
    """In numpy, from the formulas: the logits (T, vocab_size) for characters idx (T,)."""
    p = {name: parameter.numpy() for name, parameter in model.state_dict().items()}

    def linear(x, name):
        return x @ p[f'{name}.weight'].T + p.get(f'{name}.bias', 0)

    def norm(x, name):
        centered = x - x.mean(-1, keepdims=True)
        normed = centered / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return normed * p[f'{name}.weight'] + p[f'{name}.bias']

    def attention(x, name):
        """Position t averages the values up to its own."""
        q, k, v = [linear(x, f'{name}.{part}') for part in ('query', 'key', 'value')]
        scores = [k[: t + 1] @ q[t] / math.sqrt(q.shape[1]) for t in range(len(x))]
        return np.stack([softmax(row) @ v[: len(row)] for row in scores])

    x = p['token_embedding_table.weight'][idx] + p['position_embedding_table.weight'][: len(idx)]
    for at in [f'blocks.{layer}' for layer in range(len(model.blocks))]:
        normed = norm(x, f'{at}.ln1')
        heads = [attention(normed, f'{at}.sa.heads.{head}') for head in range(n_head)]
        x = x + linear(np.concatenate(heads, -1), f'{at}.sa.proj')
        hidden = linear(norm(x, f'{at}.ln2'), f'{at}.ffwd.net.0')
        x = x + linear(np.maximum(hidden, 0), f'{at}.ffwd.net.2')
    return linear(norm(x, 'ln_f'), 'lm_head')


@pytest.mark.parametrize('n_embd, head_size', [(32, 16), (24, 8), (16, 16), (20, 6)])
def test_a_head_is_torchs_own_attention(gpt, monkeypatch, n_embd, head_size):
    monkeypatch.setattr(gpt, 'n_embd', n_embd)
    head = randomized(gpt.Head(head_size))
    x = torch.randn(3, 9, n_embd, dtype=torch.float64)
    q, k, v = head.query(x), head.key(x), head.value(x)
    assert_close(head(x), F.scaled_dot_product_attention(q, k, v, is_causal=True))
    assert len(list(head.parameters())) == 3  # no biases


def test_heads_of_any_size_stand_side_by_side(gpt):
    heads = randomized(gpt.MultiHeadAttention(3, 5))
    x = torch.randn(2, 4, 32, dtype=torch.float64)
    assert_close(heads(x), heads.proj(torch.cat([head(x) for head in heads.heads], dim=-1)))


@pytest.mark.parametrize('length', [1, 7, 16])
def test_the_model_is_the_formulas_in_numpy(gpt, model, length):
    """A longer text than the context is refused (rkfg/gpt-2 10)."""
    idx, targets = tokens(2, length), tokens(2, length, seed=1)
    logits, loss = model(idx, targets)
    expected = np.stack([forward(model, row.numpy(), gpt.n_head) for row in idx])
    assert_close(logits, torch.from_numpy(expected))
    probs = np.take_along_axis(softmax(expected), targets[..., None].numpy(), -1)
    assert loss.item() == pytest.approx(-np.log(probs).mean())
    without, no_loss = model(idx)
    assert torch.equal(without, logits) and no_loss is None
    with pytest.raises(AssertionError, match='17 characters are more than block_size=16'):
        model(tokens(1, 17))


def test_initial_parameters(gpt):
    """Small and random, and then the model knows nothing."""
    torch.manual_seed(0)
    model = gpt.GPTLanguageModel()
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2]
    stds = [matrix.std().item() for matrix in matrices]
    assert stds == pytest.approx([0.5 / math.sqrt(32)] * len(stds), rel=0.15)
    losses = [model(*gpt.get_batch(gpt.train_data))[1].item() for _ in range(5)]
    assert np.mean(losses) == pytest.approx(math.log(65), abs=0.25)


def test_dropout_is_of_weights_and_of_what_attention_and_feed_forward_return(tiny):
    """Each returns ones without it. (A head: for one character, with a weight and values of 1.)"""
    gpt, many = tiny(dropout=0.3), torch.randn(100, 16, 32)
    head, heads, ffwd = gpt.Head(16), gpt.MultiHeadAttention(2, 16), gpt.FeedForward(32)
    nn.init.constant_(head.value.weight, 1 / 32)
    for last in (heads.proj, ffwd.net[2]):
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)
    for module, x in ((head, torch.ones(20_000, 1, 32)), (heads, many), (ffwd, many)):
        out = module.eval()(x)
        assert_close(out, torch.ones_like(out))
        out = module.train()(x)
        kept = out[out != 0]
        assert_close(kept, torch.ones_like(kept) / 0.7)
        assert len(kept) / out.numel() == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize('length', [1, 40])
def test_generate_continues_the_text_also_past_block_size(gpt, model, length):
    """The same generator, the same text. Torch's own random state stays as it is."""

    idx, before, seen = tokens(3, length), torch.get_rng_state(), set()
    hook = model.register_forward_hook(lambda _, __, output: seen.add(output[0].requires_grad))
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    out, again, other = [model.generate(idx, 30, generator=each) for each in generators]
    hook.remove()
    assert out.shape == (3, length + 30) and torch.equal(out[:, :length], idx)
    assert torch.equal(out, again) and not torch.equal(out, other)
    assert torch.equal(torch.get_rng_state(), before) and seen == {False}  # no gradients


@pytest.mark.parametrize('temperature', [1.0, 0.5, 2.0])
def test_characters_come_as_often_as_they_should(gpt, model, temperature):
    idx, generator = tokens(1, 3), torch.Generator().manual_seed(0)
    out = model.generate(idx.expand(20_000, 3), 1, temperature, generator)
    shares = np.bincount(out[:, -1].numpy(), minlength=gpt.vocab_size) / 20_000
    probs = softmax(forward(model, idx[0].numpy(), gpt.n_head)[-1] / temperature)
    assert np.abs(shares - probs).max() < 5 * 0.5 / math.sqrt(20_000)


def test_sample_is_the_same_every_time_without_dropout(tiny):
    gpt = tiny(dropout=0.3)
    model = gpt.GPTLanguageModel()
    nn.init.normal_(model.lm_head.weight, std=5)  # so that dropout would matter
    first, again = [gpt.sample(model.train(), 30) for _ in range(2)]
    assert len(first) == 30 and again == first
    gpt.seed = 7
    assert gpt.sample(model, 30) != first


def test_sample_follows_the_prompt(gpt, model, monkeypatch):
    monkeypatch.setattr(gpt, 'temperature', 1e-6)  # the likeliest, always
    for prompt, codes in (('Speak, ', gpt.encode_string('Speak, ')), ('', [0])):
        monkeypatch.setattr(gpt, 'prompt', prompt)
        idx = torch.tensor([codes])
        for _ in range(30):
            last = model(idx[:, -16:])[0][:, -1].argmax(dim=-1, keepdim=True)
            idx = torch.cat([idx, last], dim=1)
        assert gpt.encode_string(gpt.sample(model, 30)) == idx[0, len(codes) :].tolist()


def test_comments_about_shapes_are_true(tiny, tmp_path):
    """What a line such as `scores = ...  # (B, T, T)` computes, while the program runs."""
    gpt, path = tiny(block_size=11, n_embd=28, n_head=4, batch_size=3), tmp_path / 'gpt.py'
    pattern, lines, wrong = r' +(\w+) (?:= )?[^=].*  # (?:.* -> )?\(([^()]*)\)', {}, []
    found = [re.match(pattern, line) for line in path.read_text(encoding='utf-8').split('\n')]
    comments = {number: match.groups() for number, match in enumerate(found, 1) if match}
    checked = set()
    sizes = {'B': 3, 'T': 5, 'C': 28, 'head_size': 7, 'num_heads': 4, 'vocab_size': gpt.vocab_size}

    def trace(frame, event, argument):
        """Python calls this before each line, and when a function returns."""
        if frame.f_code.co_filename != str(path) or frame.f_code.co_name.startswith('<'):
            return None
        again = event == 'line' and lines.get(frame) == frame.f_lineno  # a comprehension's round
        line = None if again else lines.pop(frame, None)  # the one that has just been computed
        if line in comments:
            name, shape = comments[line]
            seen = tuple((argument if name == 'return' else frame.f_locals[name]).shape)
            if seen != eval(f'({shape},)', {}, sizes):
                wrong.append(f'line {line}: {name} is {seen}, not ({shape})')
            checked.add(line)
        lines[frame] = frame.f_lineno
        return trace

    model, idx, before = gpt.GPTLanguageModel(), tokens(3, 5), sys.gettrace()
    sys.settrace(trace)
    model.generate(idx, 1)
    sys.settrace(before)
    assert wrong == [] and checked == set(comments) and len(checked) >= 15
