"""`python gpt.py` from start to end, as a user runs it, with lines at its top edited."""
import contextlib
import io
import os
import re
import runpy
import signal
import struct
import subprocess
import sys
import unicodedata
from unittest import mock

import pytest

import program

FIRST = r'cpu: N parameters\D+N\D+N\D*'.replace('N', r'(\d[\d,]*\b)')  # and characters of text and alphabet
STEP = r'step (\d+): train loss (\d+\.\d{4}), val loss (\d+\.\d{4})'
LAST = r'best val loss (\d+\.\d{4}) at step (\d+), \d+ seconds'
GREEK = 'Μῆνιν ἄειδε, θεά,\nΠηληϊάδεω Ἀχιλῆος\nἣ μυρί’ ἄλγε’\n' * 30
CHINESE = '道可道,非常道。名可名,非常名。\n無名天地之始;有名萬物之母。\n' * 30
ENGLISH = 'Speak, friend, and enter.\n\nWho is there? Nobody, my lord.\n' * 30


def columns(line):
    return sum(2 if unicodedata.east_asian_width(char) in 'WF' else 1 for char in line)


def numbers(stdout):
    """Parameters, characters and alphabet, from the first line."""
    return tuple(int(number.replace(',', '')) for number in re.match(FIRST, stdout).groups())


def without_seconds(text):
    return re.sub(r'\d+ seconds', 'N seconds', text)


def parse(stdout, steps=(0, 10, 20), prompt='', length=20):
    """Check that this is all that a run of TINY has to print; {step: (train loss, val loss)}."""
    *head, sample = stdout.split('\n', 2 + 2 * len(steps))
    assert re.fullmatch(FIRST, head[0])
    losses = {}
    for line, text in zip(head[1:-1:2], head[2:-1:2], strict=True):
        step, train, val = re.fullmatch(STEP, line).groups()
        losses[int(step)] = float(train), float(val)
        assert 0 < len(text) and columns(text) <= 80
    assert tuple(losses) == steps
    best = min(losses, key=lambda step: losses[step][1])
    assert re.fullmatch(LAST, head[-1]).groups() == (f'{losses[best][1]:.4f}', str(best))
    assert sample.startswith(prompt) and sample.endswith('\n') and len(sample) == len(prompt) + length + 1
    return losses


def run(folder, text=None, cwd=None, env=None, **settings):
    """The standard output of a run of TINY, with `settings`, on 80 columns into a pipe; it must have no errors."""
    done = program.run(program.copy(folder, 'gpt.py', text, **program.TINY | settings), cwd=cwd,
                       env={'COLUMNS': '80', **(env or {})})
    assert done.stderr == ''
    return done.stdout


@pytest.fixture(scope='module')
def stdout(tmp_path_factory):
    """A run on input.txt, begun in its folder."""
    folder = tmp_path_factory.mktemp('run')
    output = run(folder, cwd=folder)
    assert (folder / 'gpt.pt').exists()
    return output


def test_it_trains_and_samples(stdout):
    losses = parse(stdout)
    assert numbers(stdout)[1:] == (1_162_807, 65)
    for part in (0, 1):
        assert losses[20][part] < losses[10][part] < losses[0][part] < 4.5
    assert losses[20][0] < 3.7


def test_the_parameters_are_counted(stdout):
    V, T, C, L = 65, 16, 32, 2
    block = 3 * C * C + (C * C + C) + (C * 4 * C + 4 * C) + (4 * C * C + C) + 4 * C
    assert numbers(stdout)[0] == V * C + T * C + L * block + 2 * C + C * V + V


def test_the_same_seed_from_another_folder_gives_the_same(stdout, tmp_path):
    folder, elsewhere = tmp_path / 'a folder', tmp_path / 'elsewhere'
    folder.mkdir(), elsewhere.mkdir()
    assert without_seconds(run(folder, cwd=elsewhere)) == without_seconds(stdout)
    assert not any(elsewhere.iterdir())
    assert {path.name for path in folder.iterdir()} == {'gpt.py', 'input.txt', 'gpt.pt'}


def test_another_seed_with_a_prompt(stdout, tmp_path):
    output = run(tmp_path, seed=7, prompt='Speak, ')
    losses, others = parse(output, prompt='Speak, '), parse(stdout)
    assert all(losses[step] != others[step] for step in losses)
    assert output.split('\n')[-2] != stdout.split('\n')[-2]


def test_the_formula_gives_the_same_losses(stdout, tmp_path):
    losses, others = parse(run(tmp_path, fast_attention=False)), parse(stdout)
    for step in others:
        assert losses[step] == pytest.approx(others[step], abs=1e-3)


def test_evaluations_come_at_their_intervals_and_at_the_end(tmp_path):
    parse(run(tmp_path, ENGLISH, max_iters=7, eval_interval=3, max_new_tokens=0), (0, 3, 6, 7), length=0)


def test_greek_into_a_pipe_that_is_ascii(tmp_path):
    settings = dict(prompt='Μῆνιν', temperature=1.0)
    output = run(tmp_path, GREEK, env={'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0', 'LC_ALL': 'C'}, **settings)
    parse(output, prompt='Μῆνιν')
    assert numbers(output)[1:] == (len(GREEK), len(set(GREEK)))
    assert set(output.split(' seconds\n')[1]) <= set(GREEK)


def test_chinese_stays_within_the_terminal(tmp_path):
    output = run(tmp_path, CHINESE, temperature=1.0)
    parse(output)
    assert max(columns(line) for line in output.split('\n')[:7]) > 60  # and uses it


def test_windows_line_ends_and_bom_make_no_difference(tmp_path):
    outputs = []
    windows = b'\xef\xbb\xbf' + ENGLISH.replace('\n', '\r\n').encode()
    for name, text in (('unix', ENGLISH.encode()), ('windows', windows)):
        folder = tmp_path / name
        folder.mkdir()
        outputs.append(run(folder, text))
    parse(outputs[0])
    assert without_seconds(outputs[0]) == without_seconds(outputs[1])


def test_help_is_the_docstring(tmp_path):
    path = program.copy(tmp_path, text=ENGLISH, **program.TINY)
    done = program.run(path, '--help')
    assert done.stdout.strip() == re.match('"""(.*?)"""', path.read_text(encoding='utf-8'), flags=re.DOTALL)[1].strip()
    assert done.stderr == '' and not (tmp_path / 'gpt.pt').exists()


def test_other_arguments_are_refused(tmp_path):
    done = program.run(program.copy(tmp_path, text=ENGLISH, **program.TINY), '--max_iters=5', code=2)
    assert done.stdout == ''
    assert re.fullmatch(r'[^\n]*--max_iters=5[^\n]*edit[^\n]*top of the file[^\n]*\n', done.stderr)


def screen(output, width):
    """The lines that a terminal shows in the end: \r goes back to the line's start, what follows overwrites."""
    lines, column = [[]], 0
    output = output.replace('\r\n', '\n\r')
    for char in output:
        if char == '\n':
            lines.append([])
        elif char == '\r':
            column = 0
        else:
            assert char != '\x1b', 'nothing moves the cursor otherwise'
            assert column < width, 'no line runs over'
            lines[-1][column:column + 1] = [char]
            column += 1
    return [''.join(line).rstrip(' ') for line in lines]


@pytest.mark.skipif(sys.platform == 'win32', reason='needs pseudo-terminals')
def test_a_terminal_shows_the_bar_and_is_left_clean(tmp_path):
    import fcntl
    import pty
    import termios
    path = program.copy(tmp_path, text=ENGLISH, **program.TINY | dict(max_iters=40, eval_interval=20, temperature=1.0))
    program.run(path)  # so that the next run has one to keep
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ('COLUMNS', 'LINES')}
    process = subprocess.Popen([sys.executable, str(path)], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    pieces = []
    with contextlib.suppress(OSError):  # Linux's end of the output
        while piece := os.read(ours, 4096):
            pieces.append(piece)
    os.close(ours)
    assert process.wait(60) == 0
    output = b''.join(pieces).decode()
    assert re.search(r'\d+%\|.*characters', output)
    lines = screen(output, 80)[:9]
    assert lines.pop(1) == 'the last run is kept as gpt-previous.pt'
    parse('\n'.join(lines) + '\n\n', (0, 20, 40), length=0)
    assert not any(re.search(r'%\||characters/s', line) for line in screen(output, 80))


def test_in_a_notebook(tmp_path):
    """Standard output that is no file, as under %run; and the names are there afterwards."""
    path = program.copy(tmp_path, text=ENGLISH, **program.TINY)
    out, errors, numbers = io.StringIO(), io.StringIO(), (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        with (contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors),
              mock.patch.object(sys, 'argv', [str(path)]), mock.patch.dict(os.environ, COLUMNS='80')):
            with pytest.raises(SystemExit) as end:
                runpy.run_path(str(path), run_name='__main__')
    finally:
        for number, handler in zip(numbers, handlers):
            signal.signal(number, handler)
    assert not end.value.code and errors.getvalue() == ''
    parse(out.getvalue())
