"""A run is never lost. Stopped or killed at any moment, it goes on as if nothing had happened."""

import io
import os
import pickle
import shutil
import signal
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch

import helpers
from helpers import CHECKPOINT, PREVIOUS, at_call, equal, kill_at, quick, read_checkpoint, steps

# It saves at steps 10, 20 and 30. With dropout, a wrong random state would show.
SETTINGS = {**helpers.TINY, 'dropout': 0.1, 'max_iters': 30}

# What the tests interfere with, see helpers.at_call(). The first two are called once in each
# step, the others once in each save. All happen in this order.
BACKWARD, UPDATE = 'torch.Tensor.backward', 'torch.optim.AdamW.step'
FLUSH, RENAME = 'os.fsync', 'pathlib.Path.replace'

posix = pytest.mark.skipif(os.name != 'posix', reason='needs POSIX signals and permissions')


def make(folder, **settings):
    """The program in `folder`, with SETTINGS."""
    return helpers.copy(folder, **{**SETTINGS, **settings})


def take(source, target, **settings):
    """The program in `target`, set to resume, with the checkpoint from the folder `source`."""
    shutil.copy(source / CHECKPOINT, target)
    return make(target, **{'resume': True, **settings})


def names(folder):
    """The files in `folder`, without the program and its text."""
    return {path.name for path in folder.iterdir()} - {'gpt.py', 'input.txt', '__pycache__'}


def assert_resumes_to(path, expected):
    """Resume the run at `path`. Its end has to be `expected`, bit for bit."""
    done = quick(helpers.change(path, resume=True))
    assert done.stderr == '' and equal(read_checkpoint(path.parent), expected)
    assert names(path.parent) == {CHECKPOINT}
    return done


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
    quick(make(folder), patches=[at_call(BACKWARD, 16, 'os._exit(9)')], code=9)
    assert read_checkpoint(folder)['step'] == 10
    return folder


# ----------------------------------------------------------
# Kills

DIE = 'os.kill(os.getpid(), signal.SIGKILL)'
CUT = f'os.ftruncate(args[0], 1000); {DIE}'  # only its beginning has reached the disk
KILLS = {  # the function, the number of its call, what happens there, the step that is on the disk
    'in the first write': (FLUSH, ~0, CUT, None),
    'after the first save': (RENAME, 0, DIE, 10),
    'in training': (BACKWARD, 14, DIE, 10),
    'in a write': (FLUSH, ~1, CUT, 10),
    'before a rename': (RENAME, ~1, DIE, 10),
    'in the last write': (FLUSH, ~2, CUT, 20),
    'before the sample': (RENAME, 2, DIE, 30),
}


@posix
@pytest.mark.parametrize('instant', KILLS)
def test_a_killed_run_ends_as_one_never_interrupted(tmp_path, expected, instant):
    path = make(tmp_path)
    *where, saved = KILLS[instant]
    quick(path, patches=[at_call(*where)], code=-signal.SIGKILL)
    if saved:
        assert read_checkpoint(tmp_path)['step'] == saved
    done = assert_resumes_to(path, expected)
    assert list(steps(done)) == ([] if saved == 30 else list(range(saved or 0, 31, 10)))
    assert ('no gpt.pt to resume: starting a new run' in done.stdout) == (not saved)


@pytest.mark.parametrize('number, name', [(~0, CHECKPOINT), (0, PREVIOUS)])
def test_a_kill_while_the_last_run_is_renamed(tmp_path, whole, expected, number, name):
    """The last run is still there, under one name or the other."""
    path = take(whole, tmp_path, resume=False)
    quick(path, patches=[at_call(RENAME, number, 'os._exit(9)')], code=9)
    assert names(tmp_path) == {name} and equal(read_checkpoint(tmp_path / name), expected)


def test_the_file_is_flushed_then_renamed_then_announced(tmp_path):
    """A power cut must not leave an empty file under the checkpoint's name."""
    flushed = at_call(FLUSH, 0, "print('flushed', os.fstat(args[0]).st_size)")
    renames = at_call(RENAME, ~0, "print('renames', args[0].name)")
    done = quick(make(tmp_path), patches=[flushed, renames])
    size = (tmp_path / CHECKPOINT).stat().st_size
    events = [f'flushed {size}\n', 'renames gpt.pt.tmp\n', 'step 10:']
    places = [done.stdout.find(event) for event in events]
    assert -1 not in places and places == sorted(places), done.stdout


# ----------------------------------------------------------
# Ctrl-C and SIGTERM


@posix
@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_after_the_step_and_stops(tmp_path, expected, number, code):
    path = make(tmp_path)
    done = quick(path, patches=[kill_at(BACKWARD, 13, number)], code=code)
    assert done.stderr == '' and list(steps(done)) == [0, 10]
    assert 'stopped at step 14: to resume, set resume = True\n' in done.stdout
    assert read_checkpoint(tmp_path)['step'] == 14 and names(tmp_path) == {CHECKPOINT}
    assert_resumes_to(path, expected)


@posix
@pytest.mark.parametrize(
    'function, call, number, code',
    [(UPDATE, 13, signal.SIGINT, 130), (FLUSH, 1, signal.SIGTERM, 143)],
    ids=['in the step', 'in the save'],
)
def test_the_second_signal_quits_at_once(tmp_path, expected, function, call, number, code):
    path = make(tmp_path)
    patches = [kill_at(BACKWARD, 13, signal.SIGINT), kill_at(function, call, number)]
    done = quick(path, patches=patches, code=code)
    assert done.stderr == '' and 'stopped' not in done.stdout
    assert read_checkpoint(tmp_path)['step'] == 10 and names(tmp_path) == {CHECKPOINT}
    assert_resumes_to(path, expected)


@posix
def test_two_accidental_starts_do_not_cost_the_long_run(tmp_path, whole, expected):
    """A run that has learned next to nothing is not saved, so the next one has none to rename."""
    path = take(whole, tmp_path, resume=False)
    for _ in range(2):
        done = quick(path, patches=[kill_at(BACKWARD, 4, signal.SIGINT)], code=130)
        assert 'stopped at step 5: not saved\n' in done.stdout
        assert names(tmp_path) == {PREVIOUS}
        assert equal(read_checkpoint(tmp_path / PREVIOUS), expected)


@posix
def test_ctrl_c_in_the_last_sample(tmp_path):
    """Four evaluations come before it, each with a sample of 60 characters."""
    # A background job of a shell would ignore it.
    heed = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)'
    ctrl_c = kill_at('torch.multinomial', 4 * 60 + 5, signal.SIGINT)
    done = quick(make(tmp_path), patches=[heed, ctrl_c], code=130)
    assert 'best val loss' in done.stdout and done.stderr == ''
    assert read_checkpoint(tmp_path)['step'] == 30


NOTEBOOK = """
import signal, sys
sys.path.insert(0, {folder!r})
import gpt

def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

def fails(*arguments):
    assert before != handlers()
    raise ZeroDivisionError

before = handlers()
gpt.main()
assert before == handlers()
gpt.learn = fails
try:
    gpt.main()
except ZeroDivisionError:
    assert before == handlers()
    print('restored')
"""


def test_the_signal_handlers_are_restored(tmp_path):
    """In a notebook, Ctrl-C then works as before: after training, and after an error in it."""
    make(tmp_path)
    notebook = tmp_path / 'notebook.py'
    notebook.write_text(NOTEBOOK.format(folder=str(tmp_path)), encoding='utf-8')
    assert 'restored' in quick(notebook).stdout


# ----------------------------------------------------------
# Resuming


def test_a_short_run_is_saved_at_its_end(tmp_path):
    quick(make(tmp_path, max_iters=5, eval_interval=250))
    assert read_checkpoint(tmp_path)['step'] == 5


def test_a_new_run_keeps_the_last_one(tmp_path, whole, expected):
    done = quick(take(whole, tmp_path, resume=False, seed=1))
    assert 'the last run is now gpt-previous.pt\n' in done.stdout
    assert equal(read_checkpoint(tmp_path / PREVIOUS), expected)
    assert not equal(read_checkpoint(tmp_path)['model'], expected['model'])


def test_a_finished_run_only_samples(tmp_path, whole):
    done = quick(take(whole, tmp_path, prompt='First'))
    first, sample = done.stdout.split('\n\n', 1)
    assert first == 'gpt.pt has 30 steps. To train further, raise max_iters=30'
    assert sample.startswith('First') and len(sample) == len('First') + 20 + 1 and not done.stderr
    assert (tmp_path / CHECKPOINT).read_bytes() == (whole / CHECKPOINT).read_bytes()
    assert names(tmp_path) == {CHECKPOINT}


def test_a_finished_run_trains_on_with_more_steps(tmp_path, whole, expected):
    done = quick(take(whole, tmp_path, max_iters=40))
    assert list(steps(done)) == [30, 40] and 'resuming gpt.pt at step 30\n' in done.stdout
    state = read_checkpoint(tmp_path)
    assert state['step'] == 40 and not equal(state['model'], expected['model'])


def test_changed_settings_of_the_optimizer_count(tmp_path, part):
    """Loading the optimizer's state brings back its old settings, unless that is prevented."""
    betas = ('betas=(0.9, 0.99)', 'betas=(0.8, 0.98)')
    quick(take(part, tmp_path, edits=[betas], learning_rate=0.01, weight_decay=0.5))
    (group,) = read_checkpoint(tmp_path)['optimizer']['param_groups']
    assert group['betas'] == (0.8, 0.98) and group['weight_decay'] == 0.5
    assert group['lr'] == pytest.approx(0.01 * 30 / 101 * (1 - 29 / 30))  # still warming up


@pytest.mark.parametrize(
    'settings', [{}, {'text': helpers.TEXT[::-1]}, {'seed': 1}, {'eval_iters': 3}], ids=' '.join
)
def test_the_best_loss_counts_only_if_it_was_measured_in_the_same_way(tmp_path, part, settings):
    """A learning rate of 0 shows that a resumed run goes on from what was learned, in any case."""
    path, before = take(part, tmp_path, learning_rate=0.0, **settings), read_checkpoint(part)
    before['best']['loss'] = 0.5
    torch.save(before, tmp_path / CHECKPOINT)
    done, after = quick(path), read_checkpoint(tmp_path)
    assert after['step'] == 30 and equal(after['model'], before['model'])
    measured = steps(done)[10][1] if settings else 0.5
    assert after['best']['loss'] == pytest.approx(measured, abs=1e-4)


ALPHABET = ''.join(sorted(set(helpers.TEXT)))
SHAPE = {'block_size': 8, 'n_embd': 48, 'n_head': 4, 'n_layer': 1}
THEIRS = ['block_size = 16', 'n_embd = 32', 'n_head = 2', 'n_layer = 2']


@pytest.mark.parametrize(
    'settings, words',
    [(SHAPE, THEIRS), ({'text': helpers.TEXT + 'ü'}, [f'alphabet = {ALPHABET!r}'])],
    ids=['shape', 'alphabet'],
)
def test_a_model_that_does_not_fit_is_refused_and_named(tmp_path, whole, settings, words):
    done = quick(take(whole, tmp_path, **settings), code=1)
    line = helpers.one_line(done, CHECKPOINT, *words)
    assert line.count(' = ') == len(words) and done.stdout == ''
    assert (tmp_path / CHECKPOINT).read_bytes() == (whole / CHECKPOINT).read_bytes()


def test_a_checkpoint_with_other_entries_still_resumes(tmp_path, part, expected):
    """A setting that is new in the file or gone from it, and the random states of two GPUs."""
    path = take(part, tmp_path, edits=[('\n# the sample\n', '\nlucky = 7\n\n# the sample\n')])
    state = read_checkpoint(part)
    state['unknown'] = state['shape']['unknown'] = 7
    state['random_gpus'] = [torch.zeros(16, dtype=torch.uint8)] * 2
    torch.save(state, tmp_path / CHECKPOINT)
    assert_resumes_to(path, expected)


def test_load_model_returns_the_best_weights(tmp_path, whole):
    path, state = take(whole, tmp_path), read_checkpoint(whole)
    for value in state['best']['parameters'].values():
        value += 1
    torch.save(state, tmp_path / CHECKPOINT)
    model = helpers.load(path).load_model()
    assert equal(dict(model.state_dict()), dict(state['best']['parameters'])) and not model.training


# ----------------------------------------------------------
# Files that are no checkpoint


class Malicious:
    """Unpickling this creates the file gpt-touched."""

    def __init__(self, folder):
        self.path = folder / 'gpt-touched'

    def __reduce__(self):
        return Path.touch, (self.path,)


def flip_a_bit(data):
    """Change one bit of the largest tensor in a checkpoint."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    place = largest.header_offset + largest.file_size // 2
    return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def packed(state):
    """What torch.save writes."""
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()


def zipped(text):
    """A zip file with a text in it."""
    with zipfile.ZipFile(buffer := io.BytesIO(), 'w') as archive:
        archive.writestr('hello.txt', text)
    return buffer.getvalue()


BAD = {  # what is there instead of a checkpoint (its bytes, its folder), and the cause to be named
    'a flipped bit': (lambda good, _: flip_a_bit(good), 'is damaged'),
    'cut': (lambda good, _: good[: len(good) // 2], 'not a zip file'),
    'empty': (lambda good, _: b'', 'not a zip file'),
    'text': (lambda good, _: helpers.TEXT.encode(), 'not a zip file'),
    'another zip': (lambda good, _: zipped('hello'), 'Error'),
    'only weights': (lambda good, _: packed({'lm_head.bias': torch.zeros(65)}), "'shape'"),
    'a malicious pickle': (lambda good, here: pickle.dumps(Malicious(here)), 'not a zip file'),
    'a malicious checkpoint': (lambda good, here: packed(Malicious(here)), 'Weights only'),
}


@pytest.mark.parametrize('kind', BAD)
def test_a_file_that_is_no_checkpoint(tmp_path, whole, kind):
    """To resume it is refused: the cause is named, no code runs. A new run sets it aside."""
    path = take(whole, tmp_path)
    make_bad, cause = BAD[kind]
    data = make_bad((tmp_path / CHECKPOINT).read_bytes(), tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(data)
    done = quick(path, code=1)
    helpers.one_line(done, CHECKPOINT, 'cannot be used', cause)
    assert names(tmp_path) == {CHECKPOINT} and (tmp_path / CHECKPOINT).read_bytes() == data

    assert list(steps(quick(helpers.change(path, resume=False)))) == [0, 10, 20, 30]
    assert names(tmp_path) == {CHECKPOINT, PREVIOUS}
    assert (tmp_path / PREVIOUS).read_bytes() == data

    if kind == 'a malicious checkpoint':  # its code would have run
        torch.load(tmp_path / PREVIOUS, weights_only=False)
        assert (tmp_path / 'gpt-touched').exists()


LITTLE_MEMORY = """
import resource
pages = int(open('/proc/self/statm').read().split()[0])
limit = pages * resource.getpagesize() + 2**25
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))"""


@pytest.mark.skipif(sys.platform != 'linux', reason='limits memory as Linux does')
def test_too_little_memory_for_a_checkpoint_is_not_called_damage(tmp_path, whole):
    path, state = take(whole, tmp_path), read_checkpoint(whole)
    state['ballast'] = torch.zeros(2**26, dtype=torch.uint8)
    torch.save(state, tmp_path / CHECKPOINT)
    done = quick(path, patches=[LITTLE_MEMORY], code=1)
    assert 'damaged' not in helpers.one_line(done, CHECKPOINT, 'allocate memory')


# ----------------------------------------------------------
# Files that cannot be read or written

# Root may do anything. So before it looks at its files, the program becomes another user.
NOBODY = at_call('signal.signal', 0, 'os.getuid() == 0 and os.setuid(65534)')
DISK_FULL = "raise OSError(28, 'No space left on device')"


@posix
@pytest.mark.parametrize('resume', [True, False], ids=['unreadable file', 'read-only folder'])
def test_no_permission_is_called_so_before_training(whole, resume):
    """Neither is called damage."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        path = take(whole, Path(name), resume=resume)
        (path.parent / CHECKPOINT).chmod(0)
        path.parent.chmod(0o555)
        done = quick(path, patches=[NOBODY], code=1)
        assert 'damaged' not in helpers.one_line(done, CHECKPOINT, 'Permission denied')
        assert not steps(done) and names(path.parent) == {CHECKPOINT}
        path.parent.chmod(0o755)


@pytest.mark.parametrize('resume', [False, True])
def test_a_missing_folder_is_refused_before_training(tmp_path, resume):
    done = quick(make(tmp_path, checkpoint_path='missing/gpt.pt', resume=resume), code=1)
    helpers.one_line(done, "checkpoint_path='missing/gpt.pt'", 'No such file')
    assert not steps(done) and not names(tmp_path)


def test_after_a_failed_save_training_goes_on(tmp_path, expected):
    done = quick(make(tmp_path), patches=[at_call(FLUSH, 1, DISK_FULL)])
    helpers.one_line(done, 'step 20 could not be saved', 'No space left')
    assert equal(read_checkpoint(tmp_path), expected) and names(tmp_path) == {CHECKPOINT}


@posix
def test_if_the_last_save_failed_the_exit_code_says_so(tmp_path, expected):
    """Here the disk is really full: from step 13 on, no file can grow beyond 5,000 bytes."""
    path = make(tmp_path)
    full = 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))'
    done = quick(path, patches=[at_call(BACKWARD, 13, full)], code=1)
    assert done.stderr.count('could not be saved') == len(done.stderr.splitlines()) == 2
    assert list(steps(done)) == [0, 10, 20, 30]
    assert read_checkpoint(tmp_path)['step'] == 10 and names(tmp_path) == {CHECKPOINT}
    assert_resumes_to(path, expected)


@posix
def test_what_could_not_be_saved_is_not_announced_as_saved(tmp_path):
    patches = [kill_at(BACKWARD, 13, signal.SIGINT), at_call(FLUSH, 1, DISK_FULL)]
    done = quick(make(tmp_path), patches=patches, code=130)
    helpers.one_line(done, 'step 14 could not be saved')
    assert 'stopped at step 14: not saved\n' in done.stdout and names(tmp_path) == {CHECKPOINT}


@pytest.mark.parametrize('ctrl_c', [False, pytest.param(True, marks=posix)])
def test_parameters_that_blew_up_are_not_saved(tmp_path, ctrl_c):
    """One line says so, at the next evaluation or at Ctrl-C. The last good checkpoint stays."""
    blow_up = "args[0].param_groups[0]['params'][0].data.fill_(float('nan'))"
    patches = [at_call(UPDATE, 13, blow_up)]
    if ctrl_c:
        patches.append(kill_at(BACKWARD, 15, signal.SIGINT))
    done = quick(make(tmp_path), patches=patches, code=1)
    helpers.one_line(done, f'by step {16 if ctrl_c else 20}', 'learning_rate=0.004')
    assert list(steps(done)) == [0, 10] and 'stopped' not in done.stdout
    assert read_checkpoint(tmp_path)['step'] == 10 and names(tmp_path) == {CHECKPOINT}
