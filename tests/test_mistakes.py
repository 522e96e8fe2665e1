"""Each mistake of a user gets one clear line and its exit code, before anything is written."""
import os
import subprocess
import sys

import pytest
import torch

import mistakes
import program
from mistakes import SMALL, TEXT, Source

LINUX = sys.platform == 'linux'


def answer(folder, code, *arguments, text=TEXT, patches=(), **settings):
    """The line that a mistake gets on standard error."""
    path = program.copy(folder, text=text, **{**SMALL, **settings})
    before = sorted(folder.iterdir())
    done = mistakes.run(path, *arguments, patches=patches, code=code)
    assert len(done.stderr.splitlines()) == 1 and 'Traceback' not in done.stderr, done.stderr
    assert not done.stdout and sorted(folder.iterdir()) == before
    return done.stderr


def works(folder, text=TEXT, **settings):
    """What a run prints that must not be taken for a mistake."""
    done = mistakes.run(program.copy(folder, text=text, **{**SMALL, **settings}))
    assert not done.stderr
    return done.stdout


# ---- The text ----
@pytest.mark.parametrize('path, says', [
    ('missing.txt', 'No such file'), ('.', 'directory' if os.name == 'posix' else ''), ('', ''), ('a\0b', 'null')])
def test_no_text(tmp_path, path, says):
    line = answer(tmp_path, 1, text_path=path)
    assert says in line and 'text_path' in line and str(tmp_path) in line


@pytest.mark.skipif(os.name != 'posix', reason='permissions of POSIX')
def test_unreadable_text(tmp_path):
    path = program.copy(tmp_path, text=TEXT, **SMALL)
    (tmp_path / 'input.txt').chmod(0)
    patches = []
    if os.geteuid() == 0:  # root may read everything, so another user has to read
        patches = ['''
import os
import pathlib
read_bytes = pathlib.Path.read_bytes
def as_nobody(path):
    os.seteuid(65534)
    try:
        return read_bytes(path)
    finally:
        os.seteuid(0)
pathlib.Path.read_bytes = as_nobody''']
    done = mistakes.run(path, patches=patches, code=1)
    assert len(done.stderr.splitlines()) == 1 and 'Permission denied' in done.stderr and 'input.txt' in done.stderr


@pytest.mark.parametrize('text', [b'', b'\xef\xbb\xbf'])
def test_empty_text(tmp_path, text):
    assert 'input.txt: empty' in answer(tmp_path, 1, text=text)


@pytest.mark.parametrize('characters, block_size', [(1, 1), (9, 1), (10, 1), (10, 16), (160, 16), (100, 90)])
def test_short_text(tmp_path, characters, block_size):
    """Both parts, of which the second is the shorter, need block_size characters and the one that follows these."""
    line = answer(tmp_path, 1, text=TEXT[:characters], block_size=block_size)
    assert 'input.txt is too short' in line and f'block_size = {block_size}' in line


@pytest.mark.parametrize('characters, block_size', [(11, 1), (161, 16)])
def test_text_just_long_enough(tmp_path, characters, block_size):
    assert 'step 4' in works(tmp_path, text=TEXT[:characters], block_size=block_size)


@pytest.mark.parametrize('text, position', [
    (b'abc\xffdef', 3), (b'\xef\xbb\xbfabc\xff', 6), (TEXT.encode() + b'\xed\xa0\x80', len(TEXT.encode())),
    ('aé'.encode('latin-1'), 1), ('abc€'.encode()[:-1], 3), (TEXT.encode('utf-16'), 0)])
def test_text_not_utf8(tmp_path, text, position):
    line = answer(tmp_path, 1, text=text)
    assert f'position {position}' in line and 'UTF-8' in line and 'input.txt' in line


@pytest.mark.parametrize('text', [
    'a' * 200, '\0' * 200, '\ufeff' + TEXT, TEXT.replace('\n', '\r\n'), 'Привет, мир! 你好 🙂\n' * 30,
    '\U0010ffff!' * 100])
def test_any_text_will_do(tmp_path, text):
    assert 'step 4' in works(tmp_path, text=text)


# ---- The settings ----
@pytest.mark.parametrize('prompt, named', [
    ('To be ä', 'ä'), ('\0', '\\x00'), ('€uro', '€'), ('\U0010ffff', '\\U0010ffff'), ('\ud800', 'd800')])
def test_prompt_with_a_new_character(tmp_path, prompt, named):
    line = answer(tmp_path, 2, prompt=prompt)
    assert 'prompt' in line and named in line


def test_heads_must_share_evenly(tmp_path):
    line = answer(tmp_path, 2, n_embd=33, n_head=4)
    assert 'n_embd = 33' in line and 'n_head = 4' in line


COUNTS = ['block_size', 'n_embd', 'n_head', 'n_layer', 'batch_size', 'max_iters', 'eval_interval', 'eval_iters']
WRONG = [(name, value) for name in COUNTS for value in ('0', '-1')] + [
    ('n_embd', '32.0'), ('batch_size', 'True'), ('n_layer', "'2'"), ('eval_iters', 'None'), ('block_size', '10**12'),
    ('block_size', '[16]'), ('max_iters', '1e999'), ('max_iters', '1e999-1e999'), ('max_iters', "'100'"),
    ('warmup_iters', '-1'), ('warmup_iters', '0.5'), ('seed', '-1'), ('seed', 'None'), ('seed', '1.0'),
    ('seed', '10**30'),
    ('dropout', '1.0'), ('dropout', '-0.1'), ('dropout', 'True'), ('dropout', '1e999-1e999'), ('dropout', "'0.1'"),
    ('beta2', '1'), ('beta2', '-1e-9'), ('beta2', 'None'), ('learning_rate', '0'), ('learning_rate', '-1e-3'),
    ('learning_rate', '1e999'), ('learning_rate', '1e999-1e999'), ('learning_rate', 'False'),
    ('learning_rate', "'1e-3'"),
    ('weight_decay', '-0.1'), ('weight_decay', '1e999'), ('grad_clip', '0'), ('grad_clip', '-1.0'), ('grad_clip', '1j'),
    ('temperature', '-0.1'), ('temperature', '1e999'), ('temperature', '1e999-1e999'), ('temperature', 'None'),
    ('top_k', '-1'), ('top_k', '5.0'), ('top_k', 'True'), ('max_new_tokens', '-1'), ('max_new_tokens', '1e3'),
    ('fast_attention', '1'), ('fast_attention', "'no'"), ('resume', '1'), ('resume', 'None'), ('prompt', '5'),
    ('prompt', 'None'), ('prompt', "b'a'"), ('checkpoint_path', '5'), ('checkpoint_path', 'None')]


@pytest.mark.parametrize('name, value', WRONG)
def test_setting_out_of_range_or_of_the_wrong_type(tmp_path, name, value):
    line = answer(tmp_path, 2, **{name: Source(value)})
    if name == 'n_head':
        assert 'n_head' in line
    else:
        assert f'{name} = {eval(value)!r}' in line and ' must be ' in line


@pytest.mark.parametrize('value, right', [('1e4', '10000'), ('5e3', '5000'), ('20.0', '20')])
def test_whole_number_written_as_a_float(tmp_path, value, right):
    line = answer(tmp_path, 2, max_iters=Source(value))
    assert 'max_iters' in line and f'write {right}' in line


@pytest.mark.parametrize('value', ['1e999', '1e999-1e999', '1.5'])
def test_no_advice_that_would_not_work(tmp_path, value):
    """To write inf, nan, or another number than was meant."""
    assert 'write' not in answer(tmp_path, 2, max_iters=Source(value))


@pytest.mark.parametrize('settings', [
    dict(top_k=10**6), dict(top_k=1, temperature=0), dict(temperature=1e-300), dict(temperature=1000),
    dict(warmup_iters=10**6), dict(warmup_iters=0), dict(eval_interval=10**6), dict(dropout=0), dict(max_new_tokens=0),
    dict(weight_decay=0), dict(beta2=0.001), dict(learning_rate=1e-9, grad_clip=1e9), dict(fast_attention=False),
    dict(n_head=1, n_layer=1, n_embd=1, block_size=1, batch_size=1, max_iters=1, eval_interval=1)],
    ids=lambda s: ' '.join(s))
def test_settings_at_their_limits(tmp_path, settings):
    assert 'best val loss' in works(tmp_path, **settings)


def test_top_k_over_the_alphabet_means_all_and_temperature_0_the_likeliest(tmp_path):
    samples = []
    for settings in (dict(top_k=0), dict(top_k=10**6), dict(top_k=1), dict(temperature=0)):
        samples.append(works(tmp_path, max_new_tokens=40, **settings).splitlines()[-1])
        (tmp_path / 'gpt.pt').unlink()
    assert samples[0] == samples[1] != samples[2] == samples[3]


# ---- Devices, arguments, memory ----
@pytest.mark.parametrize('device', [
    "'cpuu'", "''", "'cuda:99'", "'cuda'", "'meta'", "'CPU!'", "'xla'", '5', '1e4', '-1', '[]', 'None'])
def test_device_that_cannot_be_used(tmp_path, device):
    if device == "'cuda'" and torch.cuda.is_available():
        pytest.skip('there is a GPU')
    line = answer(tmp_path, 1, device=Source(device))
    assert 'device' in line and "'cpu'" in line and str(eval(device)) in line


@pytest.mark.parametrize('arguments', [['100'], ['--max_iters=5'], ['--help', 'me'], ['']])
def test_arguments(tmp_path, arguments):
    line = answer(tmp_path, 2, *arguments)
    assert repr(arguments[0]) in line and 'top' in line


@pytest.mark.parametrize('argument', ['--help', '-h'])
def test_help(tmp_path, argument):
    done = mistakes.run(program.copy(tmp_path, text=TEXT, **SMALL), argument)
    assert 'python gpt.py' in done.stdout and not done.stderr and not (tmp_path / 'gpt.pt').exists()


@pytest.mark.skipif(not LINUX, reason='limits the memory as Linux does')
@pytest.mark.parametrize('settings', [
    dict(batch_size=10**9), dict(n_embd=10**6), dict(batch_size=10**6, block_size=1000)], ids=lambda s: ' '.join(s))
def test_out_of_memory(tmp_path, settings):
    path = program.copy(tmp_path, text=TEXT, **{**SMALL, **settings})
    done = mistakes.run(path, patches=[mistakes.memory_patch()], code=1)
    assert len(done.stderr.splitlines()) == 1 and 'out of memory' in done.stderr and not (tmp_path / 'gpt.pt').exists()
    assert all(name in done.stderr for name in ('batch_size', 'block_size', 'n_embd', 'n_layer'))


# ---- Generated mistakes ----
@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    return mistakes.make_checkpoints(tmp_path_factory.mktemp('checkpoints'))


@pytest.mark.parametrize('first', range(0, 40, 10))
def test_generated_mistakes(checkpoints, first):
    wrong = [mistakes.mistake(seed, checkpoints)[2] for seed in range(first, first + 10)]
    assert not any(wrong), '\n'.join(filter(None, wrong))


def test_what_counts_as_a_good_answer():
    """complaint() finds fault with each of these."""
    for code, stderr in ((1, ''), (2, 'a\nb\n'), (1, 'Traceback (most recent call last):'), (0, 'a warning\n'),
                         (-9, ''), ('hang', ''), (3, 'a\n'), (1, '\n')):
        assert mistakes.complaint(subprocess.CompletedProcess([], code, '', stderr)), (code, stderr)
    assert not mistakes.complaint(subprocess.CompletedProcess([], 2, '', 'one line\n'))
