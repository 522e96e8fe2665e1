"""Training: the recipe against a plain loop, evaluations, and runs that go wrong."""

import re

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import helpers
from helpers import CHECKPOINT, TEXT, TINY, copy, quick, read_checkpoint, steps


def test_20_steps_are_those_of_a_plain_loop(tmp_path):
    """From the papers, in float64, with gradients longer than grad_clip and large weight decay."""
    recipe = {'learning_rate': 0.01, 'warmup_iters': 5, 'weight_decay': 2.0, 'grad_clip': 0.3}
    path = copy(tmp_path, **{**TINY, **recipe})
    quick(path)
    gpt = helpers.load(path)
    torch.manual_seed(1337)
    model = gpt.GPTLanguageModel().double()
    p = initial = parameters_to_vector(model.parameters()).detach()
    chars = sorted(set(TEXT))
    data = torch.tensor([chars.index(char) for char in TEXT[:18000]])
    mean = square = torch.zeros_like(p)
    for step in range(20):
        starts = torch.randint(18000 - 16, (8,)).tolist()
        batch = torch.stack([data[start : start + 17] for start in starts])
        logits, _ = model(batch[:, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), batch[:, 1:])
        gradient = parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))
        assert gradient.norm() > 0.4
        g = gradient * 0.3 / gradient.norm()
        mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * g**2
        m, v = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.99 ** (step + 1))
        warmup = (step + 1) / 6 if step < 5 else 1  # 6: the sixth step is the first full one
        rate = 0.01 * warmup * (20 - step) / 20
        p = p - rate * 2.0 * p - rate * m / (v.sqrt() + 1e-8)
        vector_to_parameters(p, model.parameters())

    theirs = list(gpt.load_model().double().parameters())
    torch.testing.assert_close(parameters_to_vector(theirs), p, rtol=0, atol=1e-4)
    vector_to_parameters(initial, model.parameters())
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(theirs, model.parameters()))


@pytest.mark.parametrize('length, every', [(100, 1), (400, 1), (417, 2), (2000, 5)])
def test_mean_loss_is_the_mean_over_the_pieces(tiny, length, every):
    """Or over some at equal distances, with dropout off. The last batch is a smaller one."""
    gpt = tiny(dropout=0.4, batch_size=5)
    model, seen = gpt.GPTLanguageModel().train(), []
    model.register_forward_hook(lambda module, _, output: seen.append(output[1].requires_grad))
    part, before = gpt.data[300 : 301 + length], torch.get_rng_state()
    loss = gpt.mean_loss(model, part)
    assert torch.equal(torch.get_rng_state(), before) and set(seen) == {False}

    model.eval()
    whole = [part[i : i + 17] for i in range(0, len(part) - 16, 16)]
    expected = [model(piece[None, :-1], piece[None, 1:])[1].item() for piece in whole[::every]]
    assert loss == pytest.approx(sum(expected) / len(expected), abs=1e-5)


def test_the_validation_text_is_never_learned_from(tmp_path):
    """Another text in its place, of the same characters, changes its loss and nothing else."""
    text, runs = TEXT[:2000] + TEXT[:2000], []
    for val in (text[3600:], text[3600:][::-1]):
        train_loss, val_loss = steps(quick(copy(tmp_path, text=text[:3600] + val, **TINY)))[20]
        runs.append((train_loss, read_checkpoint(tmp_path)['model'], val_loss))
    assert helpers.equal(runs[0][:2], runs[1][:2]) and runs[0][2] != runs[1][2]


@pytest.mark.parametrize('wanted, able', [(True, True), (True, False), (False, True)])
def test_16_bits_if_the_hardware_has_them_and_dropout_in_steps(tiny, monkeypatch, wanted, able):
    able = {'avx512_bf16': able}
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: able, raising=False)
    gpt, seen = tiny(bfloat16=wanted), []
    model = gpt.GPTLanguageModel()
    for module in model.modules():
        module.register_forward_hook(lambda module, *_: seen.append(module.training))
    model.lm_head.register_forward_hook(lambda module, _, output: seen.append(output.dtype))
    bits = torch.bfloat16 if wanted and able['avx512_bf16'] else torch.float32
    gpt.mean_loss(model, gpt.val_data)
    assert set(seen) == {False, bits}
    seen.clear()
    gpt.learn(model, torch.optim.SGD(model.parameters()), 0)
    assert set(seen) == {True, bits} and {p.dtype for p in model.parameters()} == {torch.float32}


SMALL = {**TINY, 'max_iters': 7, 'eval_interval': 3}
RUN = r"""29,692 parameters learn from [\d,]+ characters, on cpu
(?:step \d: train loss \d\.\d{4}, val loss \d\.\d{4}  \(\d+ s\)
    (?:'.*'|".*")
){4}
"""


def test_a_run_prints_its_losses_and_samples_and_the_same_seed_repeats_it(tmp_path):
    path = copy(tmp_path, prompt='First', **SMALL)
    done = quick(path)
    start = re.match(RUN, done.stdout)
    assert start and done.stderr == '', done
    sample = done.stdout[start.end() :]
    assert sample.startswith('First') and len(sample) == 5 + 20 + 1
    assert list(steps(done)) == [0, 3, 6, 7] and steps(done)[7] < steps(done)[0]

    gpt, state = helpers.load(path), read_checkpoint(tmp_path)
    parts = gpt.data[:18000], gpt.data[18000:]
    losses = [gpt.mean_loss(gpt.load_model(), part) for part in parts]
    assert steps(done)[7] == pytest.approx(losses, abs=1e-4) and losses[0] != losses[1]

    earlier = 'import torch; torch.rand(1)'  # random numbers used before, as in a notebook
    again = quick(path, patches=[earlier])
    assert steps(again) == steps(done) and again.stdout.endswith(sample)
    assert helpers.equal(read_checkpoint(tmp_path), state)
    assert not quick(helpers.change(path, seed=7)).stdout.endswith(sample)
    assert not helpers.equal(read_checkpoint(tmp_path)['model'], state['model'])


def test_overfitting_is_said_in_the_end(tmp_path):
    """nanoGPT 493, gpt-2-simple 184"""
    settings = {'max_iters': 200, 'eval_interval': 40, 'warmup_iters': 0}
    done = quick(copy(tmp_path, text=TEXT[:400], **{**TINY, **settings}))
    loss, best = min((val, step) for step, (_, val) in steps(done).items())
    assert 0 < best < 200 and steps(done)[200][1] > loss + 0.1
    assert f'The lowest val loss above is that of step {best} (not the one saved)\n' in done.stdout


@pytest.mark.parametrize('rate', [40.0, 400.0, 4e3, 1e30])
def test_a_run_that_diverges_stops_before_it_samples_or_saves(tmp_path, rate):
    """nanoGPT 136, 167, 215"""
    path = copy(tmp_path, learning_rate=rate, **{**TINY, 'max_iters': 200, 'eval_interval': 50})
    done = quick(path, code=1)
    helpers.last_line(done, 'training diverged', f'learning_rate={rate}')
    assert list(steps(done)) == [0] and done.stdout.count('\n    ') == 1
    assert not (tmp_path / CHECKPOINT).exists()
