"""Running it as its users do: terminals, pipes, notebooks, other folders, other texts, mistakes."""

import os
import re
import sys
import time

import pytest

from test_training import RUN, SMALL

import helpers
from helpers import CHECKPOINT, TINY, change, copy, quick, steps

BIGRAM = {'device': 'cpu', 'max_iters': 20}


@pytest.mark.parametrize('program', ['gpt.py', 'bigram.py'])
def test_greek_lines_reach_a_pipe_of_a_console_without_greek_as_they_come(tmp_path, program):
    """gpt-2 52, gpt-2-simple 295. In a folder with a foreign name. Python would hold 8 KB."""
    folder = tmp_path / 'my Übung'
    folder.mkdir()
    settings = {**TINY, 'max_iters': 10**6} if program == 'gpt.py' else BIGRAM
    path = copy(folder, program, text='Μῆνιν ἄειδε, θεά,\n' * 100, **settings)
    process = helpers.start(path, cwd=tmp_path, env={'PYTHONIOENCODING': 'cp1252'})
    while process.poll() is None and not (folder / CHECKPOINT).exists():
        time.sleep(0.05)
    process.kill()
    stdout, stderr = process.communicate()
    assert stderr == '' and set(stdout) & set('ἄειδε')
    assert program == 'bigram.py' or re.match(r'[\d,]+ param.*\nstep 0: .*\n    .*\n', stdout)


def in_a_terminal(path):
    """All that a program writes into a terminal of 80 columns, and what stands there then."""
    pexpect, pyte = pytest.importorskip('pexpect'), pytest.importorskip('pyte')
    options = {'dimensions': (24, 80), 'encoding': 'utf-8', 'timeout': 60}
    options['env'] = helpers.environment()
    child = pexpect.spawn(sys.executable, [str(path)], **options)
    output, screen = child.read(), pyte.Screen(80, 24)
    pyte.Stream(screen).feed(output)
    return output, ''.join(f'{line.rstrip()}\n' for line in screen.display)


@pytest.mark.skipif(os.name != 'posix', reason='needs POSIX')
def test_a_terminal_shows_the_bar_and_keeps_the_lines(tmp_path):
    """Also on resume, where the bar goes on from the step of the checkpoint."""
    path = copy(tmp_path, **SMALL)
    output, shown = in_a_terminal(path)
    assert re.search(r' \d+%\|.*\| [1-7]/7 ', output) and re.match(RUN, shown) and '%|' not in shown
    output, shown = in_a_terminal(change(path, resume=True, max_iters=9))
    assert '| 7/9 ' in output and '| 0/9' not in output and '10/9' not in output
    assert 'step 9: ' in shown and '%|' not in shown


SESSION = """
%run gpt.py
import gpt
print('eval mode', not gpt.load_model().training)
%run bigram.py
"""


def test_in_ipython(tmp_path):
    """Pasted into a cell, it would have no __file__ (muzero-general 125). The page says %run."""
    pytest.importorskip('IPython')
    copy(tmp_path, 'bigram.py', **BIGRAM)
    copy(tmp_path, **SMALL)
    (tmp_path / 'session.ipy').write_text(SESSION, encoding='utf-8')
    options = {'cwd': tmp_path, 'env': {'IPYTHONDIR': str(tmp_path / 'ipython')}}
    done = helpers.finish(helpers.start('-m', 'IPython', 'session.ipy', **options))
    assert re.match(RUN, done.stdout) and done.stderr == '', done
    assert '\neval mode True\ninput.txt: 20,000 characters' in done.stdout
    assert done.stdout.count('step 0') == 1  # to import it trains nothing


def test_a_text_of_one_character_only(tmp_path):
    done = quick(copy(tmp_path, text='a' * 400, **TINY))
    assert steps(done)[20] == (0.0, 0.0) and done.stdout.endswith('\n' + 'a' * 20 + '\n')


def test_an_older_pytorch_runs_in_32_bits(tmp_path):
    """PyTorchStepByStep 61: code for one PyTorch only. (This is missing before 2.11.)"""
    older = 'import torch; vars(torch.cpu).pop("get_capabilities", 0)'
    done = quick(copy(tmp_path, **{**TINY, 'bfloat16': True}), patches=[older])
    assert steps(done) == steps(quick(copy(tmp_path, **TINY)))


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
    'no checkpoint': ({'checkpoint_path': ''}, "checkpoint_path='' must end in .pt"),
    'a folder': ({'checkpoint_path': 'out/'}, "checkpoint_path='out/' must end in .pt"),
    'no such folder': ({'checkpoint_path': 'missing/gpt.pt'}, 'cannot write to'),
    'an argument': ({}, 'gpt.py takes no arguments. Edit the settings at its top.'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_named_in_the_last_line(tmp_path, mistake):
    """LLMs-from-scratch 444, ml4a 3, nanoGPT 60 and 233, char-rnn 107. A folder was renamed."""
    options, words = MISTAKES[mistake]
    (tmp_path / 'out').mkdir()
    arguments = ['--max_iters=5'] if mistake == 'an argument' else []
    done = quick(copy(tmp_path, **{**TINY, **options}), *arguments, code=1)
    helpers.last_line(done, words)
    assert not steps(done) and sorted(os.listdir(tmp_path)) == ['gpt.py', 'input.txt', 'out']
