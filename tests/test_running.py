"""Running it as its users do: terminals, pipes, notebooks, other folders, other texts, mistakes."""

import contextlib
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest

from test_training import RUN, SMALL

import helpers
from helpers import CHECKPOINT, TINY, copy, quick, read_checkpoint, steps

posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX')

GREEK = 'Μῆνιν ἄειδε, θεά,\n' * 100


def started(path, stdout=subprocess.PIPE, **options):
    """The program as a real process of its own, without PYTHONUNBUFFERED."""
    command, env = [sys.executable, str(path)], helpers.environment(**options)
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env=env)


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
        while lines.count(b'\n') < 3 and process.poll() is None:
            if where == 'pipe':
                lines += process.stdout.readline()
            else:
                lines = log.read_bytes()
                time.sleep(0.01)
        assert process.poll() is None
        assert re.match(rb'29,692 .*\s+step 0: .*\s+[\'"].*[\'"]\s+$', lines)
    finally:
        limit.cancel()
        process.kill()
        process.communicate()


def test_a_reader_that_goes_away_costs_nothing_that_it_has_seen(tmp_path):
    """As with `python gpt.py | head -3`: what is printed has been saved. (nanochat 446)"""
    process = started(copy(tmp_path, **{**TINY, 'eval_interval': 2}))
    for _ in range(5):
        line = process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) != 0 and b'BrokenPipeError' in process.stderr.read()
    process.stderr.close()
    printed = int(re.search(rb'step (\d+)|$', line)[1] or 2)
    assert read_checkpoint(tmp_path)['step'] >= printed


@pytest.mark.parametrize('program', ['gpt.py', 'bigram.py'])
def test_greek_on_a_console_without_greek(tmp_path, program):
    """gpt-2 52, gpt-2-simple 295. Started from another folder, whose name is no ASCII either."""
    folder = tmp_path / 'my Übung'
    folder.mkdir()
    settings = SMALL if program == 'gpt.py' else {'device': 'cpu', 'max_iters': 20}
    path = copy(folder, program, text=GREEK, **settings)
    done = helpers.run(path, cwd=tmp_path, env={'PYTHONIOENCODING': 'cp1252'})
    assert done.stderr == '' and set(done.stdout) & set('ἄειδε')
    assert program == 'bigram.py' or {path.name for path in folder.iterdir()} >= {CHECKPOINT}


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


def in_a_terminal(path):
    """All that `python path` writes into a terminal 80 columns wide, and its exit code."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    env = helpers.environment(TERM='xterm')
    command = [sys.executable, str(path)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    pieces = []
    with contextlib.suppress(OSError):  # the end, on Linux
        while piece := os.read(ours, 4096):
            pieces.append(piece)
    os.close(ours)
    return b''.join(pieces).decode(), process.wait(60)


@posix
def test_a_terminal_shows_the_bar_and_keeps_the_lines(tmp_path):
    """Also on resume, where the bar goes on from the step of the checkpoint."""
    path = copy(tmp_path, **SMALL)
    output, code = in_a_terminal(path)
    shown = screen(output, 80)
    assert code == 0 and re.search(r' \d+%\|.*\| [1-7]/7 ', output)
    assert re.match(RUN, shown) and '%|' not in shown
    output, code = in_a_terminal(helpers.change(path, resume=True, max_iters=9))
    assert code == 0 and re.search(r'\| 7/9 ', output) and '| 0/9' not in output
    assert '10/9' not in output and '%|' not in screen(output, 80)


SESSION = """
%run gpt.py
import gpt
print('eval mode', not gpt.load_model().training)
%run bigram.py
"""


def test_in_ipython(tmp_path):
    """Pasted into a cell, it would have no __file__ (muzero-general 125). The page says %run."""
    pytest.importorskip('IPython')
    copy(tmp_path, 'bigram.py', device='cpu', max_iters=20)
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
    assert re.match(RUN, done.stdout) and done.returncode == 0 and done.stderr == '', done
    assert '\neval mode True\ninput.txt: 20,000 characters' in done.stdout


def test_importing_trains_and_prints_nothing(tmp_path, capsys):
    gpt = helpers.load(copy(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} - {'__pycache__'} == {'gpt.py', 'input.txt'}
    assert capsys.readouterr() == ('', '') and gpt.text == helpers.TEXT


@posix
@pytest.mark.parametrize('seed', range(3))
def test_ctrl_c_at_a_random_instant(tmp_path, seed):
    running = helpers.Running(copy(tmp_path, **{**TINY, 'max_iters': 10**6}))
    running.wait_for('step ')
    time.sleep(seed * 0.13)
    os.kill(running.process.pid, signal.SIGINT)
    done = running.end(code=1)
    assert done.stderr == '' and '\nStopped. ' in done.stdout


def test_a_text_of_one_character_only(tmp_path):
    done = quick(copy(tmp_path, text='a' * 400, **TINY))
    assert steps(done)[20] == (0.0, 0.0) and done.stdout.endswith('\n' + 'a' * 20 + '\n')


MISTAKES = {  # settings or a text, and words of the last line
    'a text that is too short': ({'text': helpers.TEXT[:160]}, 'input.txt is too short'),
    'an empty text': ({'text': ''}, 'input.txt is too short for block_size=16'),
    'no text': ({'text_path': 'missing.txt'}, 'missing.txt'),
    'not UTF-8': ({'text': b'\xff\xfe' * 999}, "'utf-8' codec can't decode"),
    'a foreign prompt': ({'prompt': 'Käse'}, "prompt='Käse' has characters that do not occur"),
    'heads that do not divide': ({'n_head': 64}, 'n_embd=32 must be a multiple of n_head=64'),
    'temperature 0': ({'temperature': 0.0}, 'temperature=0.0 must be above 0'),
    'clipping to nothing': ({'grad_clip': 0.0}, 'grad_clip=0.0'),
    'a device that is not there': ({'device': 'nonsense'}, 'nonsense'),
    'not a number': ({'n_embd': '32'}, 'TypeError'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_named_in_the_last_line(tmp_path, mistake):
    """LLMs-from-scratch 444 (heads), ml4a 3 and nanoGPT 233 (temperature)"""
    options, words = MISTAKES[mistake]
    done = quick(copy(tmp_path, **{**TINY, **options}), code=1)
    helpers.last_line(done, words)
    assert not steps(done) and not (tmp_path / CHECKPOINT).exists()


def test_arguments_are_refused(tmp_path):
    """nanoGPT 60"""
    done = quick(copy(tmp_path, **TINY), '--max_iters=5', code=1)
    assert done.stderr == 'gpt.py takes no arguments. Edit the settings at its top.\n'


def test_an_older_pytorch_runs_in_32_bits(tmp_path):
    """PyTorchStepByStep 61: code for one PyTorch only. (This is missing before 2.11.)"""
    older = 'import torch; vars(torch.cpu).pop("get_capabilities", 0)'
    options = {**TINY, 'bfloat16': True}
    done = quick(copy(tmp_path, **options), patches=[older])
    assert steps(done) == steps(quick(copy(tmp_path, **TINY)))
