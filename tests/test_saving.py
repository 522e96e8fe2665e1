"""A run is never lost. Killed at any moment, it goes on as if nothing had happened."""

import io
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch

import helpers
from helpers import CHECKPOINT, PREVIOUS, at_call, equal, quick, read_checkpoint, steps

posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX')

# It saves at steps 10, 20 and 30. With dropout, a wrong random state would show.
SETTINGS = {**helpers.TINY, 'dropout': 0.1, 'max_iters': 30}

# What the tests interfere with, see helpers.at_call(). The first is called once in each step, the
# others once in each save, in this order. (The first save of a run that follows another renames
# that one first.)
BACKWARD, WRITE, FLUSH, RENAME = 'torch.Tensor.backward', 'torch.save', 'os.fsync', 'os.replace'
DIE, CTRL_C = 'os._exit(9)', 'os.kill(os.getpid(), signal.SIGINT)'
CUT = f'open(args[1], "r+b").truncate(1000); {DIE}'  # only its beginning has reached the disk


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


@pytest.fixture(scope='module')
def expected(whole):
    """What that run has saved in the end."""
    return read_checkpoint(whole)


@pytest.fixture(scope='module')
def part(tmp_path_factory):
    """The folder of a run that broke off in step 16. It had saved at step 10."""
    folder = tmp_path_factory.mktemp('part')
    quick(make(folder), patches=[at_call(BACKWARD, 16, DIE)], code=9)
    return folder


# ----------------------------------------------------------
# Kills

KILLS = {  # the function, the number of its call, what happens there, the step that is on the disk
    'in the first write': (WRITE, 0, CUT, None),
    'before the first rename': (RENAME, ~0, DIE, None),
    'after the first save': (RENAME, 0, DIE, 10),
    'in training': (BACKWARD, 14, DIE, 10),
    'in a write': (WRITE, 1, CUT, 10),
    'before a flush': (FLUSH, ~1, DIE, 10),
    'before a rename': (RENAME, ~1, DIE, 10),
    'before the sample': (RENAME, 2, DIE, 30),
}


@pytest.mark.parametrize('instant', KILLS)
def test_a_killed_run_ends_as_one_never_interrupted(tmp_path, expected, instant):
    path = make(tmp_path)
    *where, saved = KILLS[instant]
    quick(path, patches=[at_call(*where)], code=9)
    if not saved:  # there is nothing to resume, and that is said
        done = quick(helpers.change(path, resume=True), code=1)
        helpers.last_line(done, 'FileNotFoundError', CHECKPOINT)
    done = quick(helpers.change(path, resume=saved is not None))
    assert list(steps(done)) == list(range(saved or 0, 31, 10))
    assert (f'resuming gpt.pt at step {saved}\n' in done.stdout) == bool(saved)
    assert equal(read_checkpoint(tmp_path), expected) and names(tmp_path) == {CHECKPOINT}


@posix
@pytest.mark.parametrize('seed', range(2))
def test_kills_at_random_instants(tmp_path, expected, seed):
    """It saves as often as it can, and is stopped by SIGKILL or by Ctrl-C, again and again."""
    rng, path, stops = random.Random(seed), make(tmp_path, eval_interval=3), 0
    while True:
        running = helpers.Running(path)
        running.wait_for('step ')
        time.sleep(rng.uniform(0, 0.2 if stops < 5 else 60))
        if running.process.is_alive():
            os.kill(running.process.pid, rng.choice([signal.SIGKILL, signal.SIGINT]))
        done = running.end(code=None)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL or 'Stopped' in done.stdout, done
        stops += 1
        helpers.change(path, resume=(tmp_path / CHECKPOINT).exists())
    assert equal(read_checkpoint(tmp_path), expected)


def test_the_file_is_flushed_then_renamed_then_announced(tmp_path):
    """A power cut must not leave an empty file under the checkpoint's name."""
    flushed = at_call(FLUSH, 0, "print('flushed', os.fstat(args[0]).st_size)")
    renames = at_call(RENAME, ~0, "print('renames', os.path.basename(args[0]))")
    done = quick(make(tmp_path), patches=[flushed, renames])
    size = (tmp_path / CHECKPOINT).stat().st_size
    events = [f'flushed {size}\n', 'renames gpt.pt.new\n', 'step 10:']
    places = [done.stdout.find(event) for event in events]
    assert -1 not in places and places == sorted(places), done.stdout


@posix
@pytest.mark.parametrize(
    'function, call, saved',
    [(BACKWARD, 13, 10), (WRITE, 1, 10), ('torch.multinomial', 4 * 60 + 5, 30)],
    ids=['in a step', 'in a save', 'in the last sample'],
)
def test_ctrl_c_says_how_to_go_on(tmp_path, expected, function, call, saved):
    path = make(tmp_path)
    done = quick(path, patches=[at_call(function, call, CTRL_C)], code=1)
    assert done.stderr == '' and done.stdout.endswith('is saved: set resume = True.\n')
    assert read_checkpoint(tmp_path)['step'] == saved == max(steps(done))
    quick(helpers.change(path, resume=True))
    assert equal(read_checkpoint(tmp_path), expected)


# ----------------------------------------------------------
# The run before


@posix
def test_a_start_by_mistake_costs_nothing(tmp_path, whole, expected):
    """nanoGPT 60, stylegan2-pytorch 37. What is resumed then is said, with its step."""
    path = make(tmp_path, whole, resume=False, seed=7)
    done = quick(path, patches=[at_call(BACKWARD, 4, CTRL_C)], code=1)
    assert 'The last step above is saved, unless it is 0' in done.stdout
    assert names(tmp_path) == {CHECKPOINT} and equal(read_checkpoint(tmp_path), expected)
    assert 'resuming gpt.pt at step 30\n' in quick(helpers.change(path, resume=True)).stdout


@pytest.mark.parametrize('call', [~0, 0, ~1])
def test_a_kill_while_the_last_run_is_renamed(tmp_path, whole, expected, call):
    """The last run is still there, under one name or the other."""
    path = make(tmp_path, whole, resume=False)
    quick(path, patches=[at_call(RENAME, call, DIE)], code=9)
    kept = CHECKPOINT if call == ~0 else PREVIOUS
    assert names(tmp_path) == {kept, 'gpt.pt.new'}
    assert equal(read_checkpoint(tmp_path / kept), expected)


@pytest.mark.parametrize('interval', [2, 10, 1000])
def test_a_new_run_keeps_the_one_before(tmp_path, whole, expected, interval):
    """Also when it is resumed with another interval: the second save overwrote the run before."""
    path = make(tmp_path, whole, resume=False, seed=1)
    quick(path, patches=[at_call(BACKWARD, 13, DIE)], code=9)
    assert equal(read_checkpoint(tmp_path / PREVIOUS), expected)
    quick(helpers.change(path, resume=True, eval_interval=interval))
    assert equal(read_checkpoint(tmp_path / PREVIOUS), expected)
    assert read_checkpoint(tmp_path)['step'] == 30


# ----------------------------------------------------------
# Resuming


def test_a_finished_run_only_samples_or_trains_on(tmp_path, whole):
    path = make(tmp_path, whole, prompt='First')
    done = quick(path)
    assert list(steps(done)) == [30] and '\n\nFirst' in done.stdout and not done.stderr
    assert (tmp_path / CHECKPOINT).read_bytes() == (whole / CHECKPOINT).read_bytes()
    done = quick(helpers.change(path, max_iters=20), code=1)
    helpers.last_line(done, 'gpt.pt is at step 30, beyond max_iters=20')
    assert list(steps(quick(helpers.change(path, max_iters=40)))) == [30, 40]


def test_the_settings_of_the_optimizer_are_the_files(tmp_path, part):
    """Loading its state brings back the old ones, unless that is prevented."""
    betas = ('betas=(0.9, 0.99)', 'betas=(0.8, 0.98)')
    quick(make(tmp_path, part, edits=[betas], learning_rate=0.01, weight_decay=0.5))
    (group,) = read_checkpoint(tmp_path)['optimizer']['param_groups']
    assert group['betas'] == (0.8, 0.98) and group['weight_decay'] == 0.5
    assert group['lr'] == pytest.approx(0.01 * 30 / 101 * (1 - 29 / 30))  # still warming up


OTHERS = {'block_size': 8, 'n_embd': 48, 'n_head': 4, 'n_layer': 1, 'text': helpers.TEXT + 'ü'}


@pytest.mark.parametrize('name', OTHERS)
def test_a_model_that_does_not_fit_is_refused_and_named(tmp_path, whole, name):
    done = quick(make(tmp_path, whole, **{name: OTHERS[name]}), code=1)
    helpers.last_line(done, f'gpt.pt was made with {name.replace("text", "chars")} = ')
    assert (tmp_path / CHECKPOINT).read_bytes() == (whole / CHECKPOINT).read_bytes()


def test_load_model_is_the_last_save(tmp_path, part):
    """nanoGPT 159: it was the untrained model."""
    model = helpers.load(make(tmp_path, part)).load_model()
    assert equal(dict(model.state_dict()), dict(read_checkpoint(part)['model']))
    assert not model.training


# ----------------------------------------------------------
# Files that are no checkpoint, and folders that cannot be written


class Malicious:
    """Unpickling this creates the file gpt-touched."""

    def __init__(self, folder):
        self.path = folder / 'gpt-touched'

    def __reduce__(self):
        return Path.touch, (self.path,)


def packed(state):
    """What torch.save writes."""
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()


BAD = {  # what is there instead of a checkpoint: its bytes
    'cut': lambda good, _: good[: len(good) // 2],
    'empty': lambda good, _: b'',
    'only weights': lambda good, _: packed({'lm_head.bias': torch.zeros(65)}),
    'malicious': lambda good, here: packed(Malicious(here)),
}


@pytest.mark.parametrize('kind', BAD)
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_no_code(tmp_path, whole, kind):
    path = make(tmp_path, whole)
    data = BAD[kind]((tmp_path / CHECKPOINT).read_bytes(), tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(data)
    done = quick(path, code=1)
    assert 'torch.load(checkpoint' in done.stderr or 'was made with' in helpers.last_line(done)
    assert names(tmp_path) == {CHECKPOINT} and (tmp_path / CHECKPOINT).read_bytes() == data
    if kind == 'malicious':  # its code would have run
        torch.load(tmp_path / CHECKPOINT, weights_only=False)
        assert (tmp_path / 'gpt-touched').exists()


# Root may do anything. So before it looks at its files, the program becomes another user.
NOBODY = at_call('torch.manual_seed', 0, 'os.getuid() == 0 and os.setuid(65534)')


@posix
@pytest.mark.parametrize('where', ['missing/gpt.pt', 'gpt.pt'])
def test_where_it_cannot_write_it_says_so_before_training(where):
    """char-rnn 107"""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        path = make(name, checkpoint_path=where)
        os.chmod(name, 0o555)
        done = quick(path, patches=[NOBODY], code=1)
        helpers.last_line(done, 'cannot write into', (Path(name) / where).parent)
        os.chmod(name, 0o755)
        assert not steps(done) and not names(Path(name))


@pytest.mark.parametrize('where', ['', 'out/'])
def test_a_folder_is_no_checkpoint(tmp_path, where):
    """nanoGPT's out_dir: a sketch of this program renamed the whole folder."""
    (tmp_path / 'out').mkdir()
    done = quick(make(tmp_path, checkpoint_path=where), code=1)
    helpers.last_line(done, f'checkpoint_path={where!r} must end in .pt')
    assert names(tmp_path) == {'out'}


@posix
def test_on_a_full_disk_the_last_good_file_stays(tmp_path, expected):
    """From step 13 on, no file can grow beyond 5,000 bytes."""
    path = make(tmp_path)
    full = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))'
    quick(path, patches=[at_call(BACKWARD, 13, full)], code=1)
    assert read_checkpoint(tmp_path)['step'] == 10
    quick(helpers.change(path, resume=True))
    assert equal(read_checkpoint(tmp_path), expected) and names(tmp_path) == {CHECKPOINT}
