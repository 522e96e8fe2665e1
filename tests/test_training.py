"""Training: the recipe, against a plain loop written here, and all that a run prints."""

import contextlib
import os
import re
import struct
import subprocess
import sys
import threading
import time

import pytest
import torch
import torch.nn as nn

import helpers
import textbook
from helpers import TEXT, TINY, copy, quick, read_checkpoint, steps

GREEK = 'Μῆνιν ἄειδε, θεά,\n' * 100


def losses_of(gpt, model, split):
    """The losses of the batches that estimate_loss() takes, one by one."""
    generator = torch.Generator().manual_seed(gpt.seed)
    with torch.no_grad():
        batches = [gpt.get_batch(split, generator) for _ in range(gpt.eval_iters)]
        return [model(x, y)[1].item() for x, y in batches]


# ----------------------------------------------------------
# The recipe


def test_20_steps_are_those_of_a_plain_loop(tmp_path):
    """The textbook model, a schedule written out, and torch's clipping and AdamW.

    Each number is such that a wrong one would show: gradients are longer than grad_clip, and the
    weight decay is large.
    """
    recipe = {'learning_rate': 0.01, 'warmup_iters': 5, 'weight_decay': 2.0, 'grad_clip': 0.3}
    path = copy(tmp_path, dropout=0.0, **{**TINY, **recipe})
    quick(path)
    theirs = read_checkpoint(tmp_path)['model']

    gpt = helpers.load(path)
    model = textbook.GPTLanguageModel(gpt.vocab_size, 16, 32, 2, 2)
    torch.manual_seed(1337)
    initial = gpt.GPTLanguageModel().state_dict()
    model.load_state_dict(initial, strict=False)
    chars = sorted(set(TEXT))
    data = torch.tensor([chars.index(char) for char in TEXT[:18000]])
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=2.0)
    for step in range(20):
        starts = torch.randint(18000 - 16, (8,)).tolist()
        batch = torch.stack([data[start : start + 17] for start in starts])
        _, loss = model(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        assert nn.utils.clip_grad_norm_(model.parameters(), 0.3) > 0.4
        warmup = (step + 1) / 6 if step < 5 else 1  # 6: the sixth step is the first full one
        optimizer.param_groups[0]['lr'] = 0.01 * warmup * (20 - step) / 20
        optimizer.step()

    for name, parameter in theirs.items():
        torch.testing.assert_close(parameter, model.state_dict()[name], rtol=0, atol=5e-5)
        assert (parameter - initial[name]).abs().max() > 1e-3


def test_estimate_loss_is_the_mean_over_its_batches(tmp_path):
    """They are the same every time. Dropout is off, and torch's random state stays as it is."""
    gpt = helpers.load(copy(tmp_path, dropout=0.4, **{**TINY, 'eval_iters': 5}))
    model, seen = gpt.GPTLanguageModel().train(), []
    model.register_forward_hook(lambda module, _, output: seen.append(output[1].requires_grad))
    before = torch.get_rng_state()
    losses = gpt.estimate_loss(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert seen == [False] * 10 and losses == gpt.estimate_loss(model)
    for split in ('train', 'val'):
        expected = losses_of(gpt, model.eval(), split)
        assert len(set(expected)) == 5 and losses[split] == pytest.approx(sum(expected) / 5)


def test_a_step_after_an_evaluation_has_dropout_again(tmp_path):
    gpt = helpers.load(copy(tmp_path, **TINY))
    model, seen = gpt.GPTLanguageModel(), []
    gpt.estimate_loss(model)
    for module in model.modules():
        module.register_forward_hook(lambda module, *_: seen.append(module.training))
    gpt.learn(model, torch.optim.SGD(model.parameters()), 0)
    assert len(seen) > 20 and all(seen)


def test_the_validation_text_is_never_learned_from(tmp_path):
    """Another text in its place, of the same characters, changes its loss and nothing else."""
    text, weights, losses = TEXT[:2000] + TEXT[:2000], [], []
    for val in (text[3600:], text[3600:][::-1]):
        path = copy(tmp_path, text=text[:3600] + val, **TINY)
        losses.append(steps(quick(path))[20])
        weights.append(read_checkpoint(tmp_path)['model'])
    assert helpers.equal(*weights)
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]


@pytest.fixture(scope='module')
def overfitting(tmp_path_factory):
    """The folder of a run that memorizes 400 characters, its output, and {step: its sample}."""
    folder = tmp_path_factory.mktemp('overfitting')
    settings = {'max_iters': 200, 'eval_interval': 40, 'eval_iters': 10, 'max_new_tokens': 60}
    path = copy(folder, text=TEXT[:400], warmup_iters=0, **{**TINY, **settings})
    done = quick(path)
    return folder, done, dict(re.findall(r"^step (\d+):.*\n    (['\"].*['\"])$", done.stdout, re.M))


def test_the_best_weights_are_kept_and_write_the_sample(overfitting):
    folder, done, samples = overfitting
    losses = {step: val for step, (_, val) in steps(done).items()}
    best = min(losses, key=losses.get)
    assert 0 < best < 200 and losses[200] > losses[best] + 0.1
    assert f'\nbest val loss {losses[best]:.4f} at step {best}, ' in done.stdout
    sample = done.stdout.partition('seconds\n\n')[2][:-1]
    assert repr(sample) == samples[str(best)] != samples['200']

    gpt, kept = helpers.load(folder / 'gpt.py'), read_checkpoint(folder)['best']
    model = gpt.load_model()
    assert kept['step'] == best and kept['loss'] == pytest.approx(losses[best], abs=1e-4)
    assert gpt.estimate_loss(model)['val'] == pytest.approx(losses[best], abs=1e-4)


# ----------------------------------------------------------
# What a run prints

SMALL = {**TINY, 'max_iters': 7, 'eval_interval': 3}
RUN = r"""learning from input.txt: 20,000 characters, 59 distinct
model: 29,627 parameters, 32-bit math on cpu
(?:step \d: train loss \d\.\d{4}, val loss \d\.\d{4}  \(\d+%, \d+ s\)
    (?:'.*'|".*")
){4}best val loss \d\.\d{4} at step \d, \d+ seconds

"""


def without_seconds(text):
    return re.sub(r'\d+ s\b|\d+ seconds', '', text)


def test_a_run_prints_its_losses_and_samples_and_the_same_seed_repeats_it(tmp_path):
    path = copy(tmp_path, prompt='First', **SMALL)
    done = quick(path)
    start = re.match(RUN, done.stdout)
    assert start and done.stderr == ''
    sample = done.stdout[start.end() :]
    assert sample.startswith('First') and len(sample) == 5 + 20 + 1
    assert list(steps(done)) == [0, 3, 6, 7]
    assert re.findall(r'\((\d+)%', done.stdout) == ['0', '43', '86', '100']
    assert steps(done)[7] < steps(done)[0]

    state = read_checkpoint(tmp_path)
    (tmp_path / helpers.CHECKPOINT).unlink()
    assert without_seconds(quick(path).stdout) == without_seconds(done.stdout)
    assert helpers.equal(read_checkpoint(tmp_path), state)
    other = quick(helpers.change(path, seed=7)).stdout
    assert other.partition('seconds\n\n')[2] != sample
    assert not helpers.equal(read_checkpoint(tmp_path)['model'], state['model'])


def started(path, stdout, **options):
    """The program as a real process of its own, without PYTHONUNBUFFERED."""
    environment = helpers.environment(**options)
    command = [sys.executable, str(path)]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=environment)


@pytest.mark.parametrize('where', ['pipe', 'file'])
def test_lines_arrive_as_they_come(tmp_path, where):
    """They can be watched, and they are there after a kill. (Python would hold 8 KB back.)"""
    settings = {**TINY, 'max_iters': 10**6, 'eval_interval': 10**6}  # it stays alive, and silent
    path, log = copy(tmp_path, **settings), tmp_path / 'log'
    with open(log, 'wb') as file:
        process = started(path, subprocess.PIPE if where == 'pipe' else file)
    limit, lines = threading.Timer(60, process.kill), b''
    limit.start()
    try:
        while lines.count(b'\n') < 4 and process.poll() is None:
            if where == 'pipe':
                lines += process.stdout.readline()
            else:
                lines = log.read_bytes()
                time.sleep(0.01)
        assert process.poll() is None
        assert re.match(rb'learning .*\s+model: .*\s+step 0: .*\s+[\'"].*[\'"]\s+$', lines)
    finally:
        limit.cancel()
        process.kill()
        process.communicate()
    if where == 'file':
        assert log.read_bytes() == lines


def test_if_the_reader_of_a_pipe_goes_away_training_goes_on(tmp_path):
    """As with `python gpt.py | head -1`."""
    process = started(copy(tmp_path, **TINY), subprocess.PIPE)
    assert process.stdout.readline().startswith(b'learning from')
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0 and stderr == b''
    assert read_checkpoint(tmp_path)['step'] == 20


def test_a_console_without_greek_does_not_end_the_run(tmp_path):
    path = copy(tmp_path, text=GREEK, prompt='Μῆνιν', **SMALL)
    done = helpers.run(path, env={'PYTHONIOENCODING': 'cp1252'})
    sample = done.stdout.partition('seconds\n\n')[2]
    assert sample.startswith('Μῆνιν') and len(sample) == 5 + 20 + 1 and done.stderr == ''


def screen(output, width):
    """What a terminal shows in the end. A carriage return goes back to the start of the line."""
    lines, column = [[]], 0
    for char in output.replace('\r\n', '\n\r'):
        assert char != '\x1b', 'nothing else moves the cursor'
        if char == '\n':
            lines.append([])
        elif char == '\r':
            column = 0
        else:
            assert column < width, 'a line runs over'
            lines[-1][column : column + 1] = [char]
            column += 1
    return ''.join(''.join(line).rstrip(' ') + '\n' for line in lines)


@pytest.mark.skipif(os.name != 'posix', reason='needs a pseudo-terminal')
def test_a_terminal_shows_the_bar_and_is_left_clean(tmp_path):
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    command = [sys.executable, str(copy(tmp_path, **SMALL))]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=helpers.environment(TERM='xterm')
    )
    os.close(theirs)
    pieces = []
    with contextlib.suppress(OSError):  # the end, on Linux
        while piece := os.read(ours, 4096):
            pieces.append(piece)
    os.close(ours)
    output = b''.join(pieces).decode()
    assert process.wait(60) == 0
    assert re.search(r' \d+%\|.*\| \d/7 ', output)
    shown = screen(output, 80)
    assert re.match(RUN, shown) and '%|' not in shown


SESSION = """
import signal
numbers = signal.SIGINT, signal.SIGTERM
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
before = [signal.getsignal(number) for number in numbers]
%run gpt.py
print('handlers', before == [signal.getsignal(number) for number in numbers])
import gpt
print('eval mode', not gpt.load_model().training)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print('Ctrl-C works')
"""


def test_in_ipython(tmp_path):
    copy(tmp_path, **SMALL)
    (tmp_path / 'session.ipy').write_text(SESSION, encoding='utf-8')
    done = subprocess.run(
        [sys.executable, '-m', 'IPython', '--no-banner', 'session.ipy'],
        cwd=tmp_path,
        env=helpers.environment(IPYTHONDIR=str(tmp_path / 'ipython')),
        capture_output=True,
        timeout=120,
        encoding='utf-8',
    )
    start = re.match(RUN, done.stdout)
    assert start and done.returncode == 0, done
    assert done.stdout.endswith('\nhandlers True\neval mode True\nCtrl-C works\n')
    assert done.stderr == ''
