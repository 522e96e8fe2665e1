"""A run is never lost. Stopped at any moment, it goes on as if nothing had happened."""

import os
import random
import re
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import helpers
from helpers import CHECKPOINT, PREVIOUS, at_call, change, equal, quick, read_checkpoint, steps

posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX')

# It saves at steps 10, 20 and 30. With dropout, a wrong random state would show.
SETTINGS = {**helpers.TINY, 'dropout': 0.1, 'max_iters': 30}

# What the tests interfere with: called once in each step, three in each save (but the first save of
# a run that follows another renames that one first), and one for each character of a sample.
BACKWARD, WRITE, FLUSH, RENAME = 'torch.Tensor.backward', 'torch.save', 'os.fsync', 'os.replace'
DRAW, CLOSE = 'torch.multinomial', 'sys.stdout.close()'
DIE, CTRL_C = 'os._exit(9)', 'os.kill(os.getpid(), signal.SIGINT)'
CUT = f'open(args[1], "r+b").truncate(1000); {DIE}'  # only its beginning has reached the disk
FULL = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))'  # in bytes


def make(folder, source=None, **settings):
    """The program in `folder`, with SETTINGS. It resumes the checkpoint from a folder `source`."""
    if source:
        shutil.copy(source / CHECKPOINT, folder)
    return helpers.copy(folder, **{**SETTINGS, 'resume': source is not None, **settings})


def names(folder):
    """The files in `folder`, without the program and its text."""
    return {path.name for path in folder.iterdir()} - {'gpt.py', 'input.txt', '__pycache__'}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp('whole')
    assert list(steps(quick(make(folder)))) == [0, 10, 20, 30]
    return folder


STOPS = {  # the function, the number of its call, what happens there, the step that is on the disk
    'killed in the first write': (WRITE, 0, CUT, None),
    'killed before the first rename': (RENAME, ~0, DIE, None),
    'killed after the first save': (RENAME, 0, DIE, 10),
    'killed in training': (BACKWARD, 14, DIE, 10),
    'killed in a write': (WRITE, 1, CUT, 10),
    'killed before a flush': (FLUSH, ~1, DIE, 10),
    'killed before a rename': (RENAME, ~1, DIE, 10),
    'killed before the sample': (RENAME, 2, DIE, 30),
    'Ctrl-C in training': (BACKWARD, 13, CTRL_C, 10),
    'Ctrl-C in a save': (WRITE, 1, CTRL_C, 10),
    'Ctrl-C in the sample': (DRAW, 4 * 60 + 5, CTRL_C, 30),
    'the disk is full': (BACKWARD, 13, FULL, 10),
    'its reader goes away': (WRITE, 0, CLOSE, 10),  # nanochat 446: it failed before the save
}


@pytest.mark.parametrize('instant', STOPS)
def test_a_stopped_run_ends_as_one_never_interrupted(tmp_path, whole, instant):
    *where, action, saved = STOPS[instant]
    if os.name != 'posix' and action in (CTRL_C, FULL):
        pytest.skip('needs POSIX')
    path = make(tmp_path)
    done = quick(path, patches=[at_call(*where, action)], code=9 if DIE in action else 1)
    if action == CTRL_C:  # it says how to go on
        assert done.stderr == '' and max(steps(done)) == saved
        assert '\nStopped. ' in done.stdout and done.stdout.endswith('set resume = True.\n')
    if not saved:  # there is nothing to resume, and that is said
        done = quick(change(path, resume=True), code=1)
        helpers.last_line(done, 'FileNotFoundError', CHECKPOINT)
    done = quick(change(path, resume=saved is not None))
    assert list(steps(done)) == list(range(saved or 0, 31, 10))
    assert (f'resuming gpt.pt at step {saved}\n' in done.stdout) == bool(saved)
    assert equal(read_checkpoint(tmp_path), read_checkpoint(whole)) and names(tmp_path) == {
        CHECKPOINT
    }


@posix
def test_stops_at_random_instants(tmp_path, whole):
    """It saves as often as it can. To stop it more than ten times: STOPS=1000 pytest ..."""
    path = make(tmp_path, eval_interval=3)
    for number in range(int(os.environ.get('STOPS', 10))):
        running = helpers.Running(path)
        while 'step ' not in running.output() and running.process.is_alive():
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.25))
        with suppress(ProcessLookupError):  # it has ended
            os.kill(running.process.pid, (signal.SIGKILL, signal.SIGINT)[number % 2])
        done = running.end(code=None)
        saved = (tmp_path / CHECKPOINT).exists() and read_checkpoint(tmp_path)['step']
        if saved == 30:  # the next one starts anew
            assert equal(read_checkpoint(tmp_path), read_checkpoint(whole))
            (tmp_path / CHECKPOINT).unlink()
        elif number % 2:
            assert done.returncode == 1 and done.stderr == '' and '\nStopped. ' in done.stdout
        change(path, resume=0 < saved < 30)
    quick(path)
    assert equal(read_checkpoint(tmp_path), read_checkpoint(whole))


def test_the_file_is_flushed_then_renamed_then_announced(tmp_path):
    """A power cut must not leave an empty file under the checkpoint's name."""
    flushed = at_call(FLUSH, 0, "print('flushed', os.fstat(args[0]).st_size)")
    renames = at_call(RENAME, ~0, "print('renames', os.path.basename(args[0]))")
    done = quick(make(tmp_path, max_iters=10), patches=[flushed, renames])
    size = (tmp_path / CHECKPOINT).stat().st_size
    assert f'flushed {size}\nrenames gpt.pt.new\nstep 10: ' in done.stdout


@posix
def test_a_start_by_mistake_costs_nothing(tmp_path, whole):
    """nanoGPT 60, stylegan2-pytorch 37. What is resumed then is said, with its step."""
    path = make(tmp_path, whole, resume=False, seed=7)
    done = quick(path, patches=[at_call(BACKWARD, 4, CTRL_C)], code=1)
    assert re.search(r'\nStopped\. .*\b0\b', done.stdout)  # if that is the last, nothing is saved
    assert names(tmp_path) == {CHECKPOINT} and equal(
        read_checkpoint(tmp_path), read_checkpoint(whole)
    )
    assert 'resuming gpt.pt at step 30\n' in quick(change(path, resume=True)).stdout


@pytest.mark.parametrize('call', [~0, 0, ~1])
def test_a_kill_while_the_last_run_is_renamed(tmp_path, whole, call):
    """The last run is still there, under one name or the other."""
    quick(make(tmp_path, whole, resume=False), patches=[at_call(RENAME, call, DIE)], code=9)
    kept = CHECKPOINT if call == ~0 else PREVIOUS
    assert names(tmp_path) == {kept, 'gpt.pt.new'}
    assert equal(read_checkpoint(tmp_path, kept), read_checkpoint(whole))


@pytest.mark.parametrize('interval', [2, 10, 1000])
def test_a_new_run_keeps_the_one_before(tmp_path, whole, interval):
    """Also when it is resumed with another interval: the second save overwrote the run before."""
    path = make(tmp_path, whole, resume=False, seed=1)
    quick(path, patches=[at_call(BACKWARD, 13, DIE)], code=9)
    quick(change(path, resume=True, eval_interval=interval))
    assert equal(read_checkpoint(tmp_path, PREVIOUS), read_checkpoint(whole))
    assert read_checkpoint(tmp_path)['step'] == 30


def test_a_finished_run_only_samples_or_trains_on(tmp_path, whole):
    """With the program's settings, not the old ones. nanoGPT 159: it loaded the untrained model."""
    path = make(tmp_path, whole, prompt='First')
    model = helpers.load(path).load_model()
    assert (
        equal(dict(model.state_dict()), dict(read_checkpoint(whole)['model']))
        and not model.training
    )
    done = quick(path)
    assert list(steps(done)) == [30] and '\n\nFirst' in done.stdout and not done.stderr
    assert (tmp_path / CHECKPOINT).read_bytes() == (whole / CHECKPOINT).read_bytes()
    done = quick(change(path, max_iters=20), code=1)
    helpers.last_line(done, 'gpt.pt is at step 30, beyond max_iters=20')
    betas = ('betas=(0.9, 0.99)', 'betas=(0.8, 0.98)')
    change(path, betas, learning_rate=0.01, weight_decay=0.5, max_iters=40)
    assert list(steps(quick(path))) == [30, 40]
    (group,) = read_checkpoint(tmp_path)['optimizer']['param_groups']
    assert group['betas'] == (0.8, 0.98) and group['weight_decay'] == 0.5
    assert group['lr'] == pytest.approx(0.01 * 40 / 101 * (1 - 39 / 40))  # still warming up


class Malicious:
    """Unpickling this runs code."""

    def __reduce__(self):
        return exec, ('1 / 0',)


OTHERS = {'block_size': 8, 'n_embd': 48, 'n_head': 4, 'n_layer': 1, 'text': helpers.TEXT + 'ü'}
BAD = {  # what happens to a checkpoint
    'cut': lambda path: os.truncate(path, 1000),
    'empty': lambda path: os.truncate(path, 0),
    'only weights': lambda path: torch.save({'lm_head.bias': torch.zeros(65)}, path),
    'malicious': lambda path: torch.save(Malicious(), path),
}


@pytest.mark.parametrize('kind', [*OTHERS, *BAD])
def test_a_checkpoint_that_does_not_fit_is_refused_and_runs_no_code(tmp_path, whole, kind):
    path = make(tmp_path, whole, **{name: OTHERS[name] for name in OTHERS if name == kind})
    BAD.get(kind, lambda path: None)(tmp_path / CHECKPOINT)
    data = (tmp_path / CHECKPOINT).read_bytes()
    done = quick(path, code=1)
    if kind in OTHERS:
        helpers.last_line(done, f'gpt.pt was made with {kind.replace("text", "chars")} = ')
    assert 'torch.load(checkpoint' in done.stderr or 'was made with' in helpers.last_line(done)
    assert names(tmp_path) == {CHECKPOINT} and (tmp_path / CHECKPOINT).read_bytes() == data
    assert 'ZeroDivisionError' not in done.stderr  # of the malicious one


# Root may do anything. So before it looks at its files, the program becomes another user.
NOBODY = at_call('torch.manual_seed', 0, 'os.getuid() == 0 and os.setuid(65534)')


@posix
def test_where_it_cannot_write_it_says_so_before_training():
    """char-rnn 107"""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        path = make(name)
        os.chmod(name, 0o555)
        done = quick(path, patches=[NOBODY], code=1)
        helpers.last_line(done, 'cannot write to', name)
        assert not steps(done) and not names(Path(name))
        os.chmod(name, 0o755)
