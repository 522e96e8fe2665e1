"""A run is never lost, ends as if nothing had happened, and never costs another file."""
import io
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib

import pytest
import torch

import kills
import mistakes
import program
from mistakes import TEXT, call_patch, equal, kill_patch, load

if os.name != 'posix':
    pytest.skip('signals and limits of POSIX', allow_module_level=True)

SETTINGS = dict(program.TINY, dropout=0.1, max_iters=30, eval_interval=10)
BACKWARD, SAVE, RENAME = 'torch.Tensor.backward', 'torch.save', 'os.replace'
HALF = 'os.truncate(args[1], os.path.getsize(args[1]) // 2)'  # what a kill in mid-write leaves


def make(folder, text=TEXT, **settings):
    return program.copy(folder, text=text, **{**SETTINGS, **settings})


def set_lines(path, **settings):
    """Edit the program at `path` once more."""
    path.write_text(program.edit(path.read_text(encoding='utf-8'), **settings), encoding='utf-8')
    return path


def steps(done):
    """The steps at which a program evaluated."""
    return [int(step) for step in re.findall(r'^step (\d+): train loss', done.stdout, re.MULTILINE)]


def one_line(done, *words):
    assert len(done.stderr.splitlines()) == 1 and 'Traceback' not in done.stderr, done.stderr
    assert all(word in done.stderr for word in words), (words, done.stderr)


def written(model_folder, length=SETTINGS['max_new_tokens']):
    """What the best weights in a folder's checkpoint write, and what the last ones do."""
    module = program.load(model_folder / 'gpt.py')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = module.load_model()
        best = module.sample(model, length)
        model.load_state_dict(load(model_folder / 'gpt.pt')['model'])
        return best, module.sample(model, length)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The folder of a run never interrupted."""
    folder = tmp_path_factory.mktemp('whole')
    done = mistakes.run(make(folder))
    assert steps(done) == [0, 10, 20, 30]
    return folder


@pytest.fixture(scope='module')
def expected(whole):
    return load(whole / 'gpt.pt')


@pytest.fixture(scope='module')
def part(tmp_path_factory):
    """The folder of a run that was killed after its step 16."""
    folder = tmp_path_factory.mktemp('part')
    mistakes.run(make(folder), patches=[kill_patch(BACKWARD, 16, signal.SIGKILL)], code=-signal.SIGKILL)
    assert load(folder / 'gpt.pt')['iteration'] == 10
    return folder


def take(source, target, **settings):
    """A copy of the program and of the checkpoint in the folder `source`."""
    shutil.copy(source / 'gpt.pt', target / 'gpt.pt')
    return make(target, **{'resume': True, **settings})


def ends_as_expected(path, expected):
    """Resume the run at `path`; it has to end as the one never interrupted."""
    done = mistakes.run(set_lines(path, resume=True))
    assert not done.stderr and equal(load(path.parent / 'gpt.pt'), expected)
    return done


# ---- What is saved ----
def test_contents(expected):
    assert expected.keys() >= {'model', 'optimizer', 'scheduler', 'iteration', 'best', 'random', 'settings', 'seconds'}
    assert expected['best'].keys() == {'loss', 'step', 'model'} and expected['iteration'] == 30
    assert expected['best']['model'].keys() == expected['model'].keys()
    settings = {re.sub('^# ', '', name): value for name, value in expected['settings'].items()}
    assert settings['alphabet'] == ''.join(sorted(set(TEXT))) and settings['characters'] == len(TEXT)
    assert settings['crc32'] == zlib.crc32(TEXT.encode())
    for name in ('block_size', 'n_embd', 'n_head', 'n_layer', 'dropout', 'batch_size', 'max_iters', 'learning_rate',
                 'seed', 'warmup_iters', 'beta2', 'weight_decay', 'grad_clip', 'eval_interval', 'eval_iters'):
        assert settings[name] == SETTINGS.get(name, settings[name])


def test_equal_notices_any_bit(expected, part):
    """The comparison that the tests below rely on."""
    assert equal(expected, load(torch_bytes(expected))) and not equal(expected, load(part / 'gpt.pt'))
    for place in ('model', 'best', 'optimizer', 'random'):
        other = load(torch_bytes(expected))
        value = other[place]
        while not torch.is_tensor(value):
            value = list(value.values() if isinstance(value, dict) else value)[-1 if place == 'best' else 0]
        value.view(-1).view(torch.uint8)[0] ^= 1
        assert not equal(expected, other), place


def torch_bytes(state):
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path, expected):
    mistakes.run(make(tmp_path))
    assert equal(load(tmp_path / 'gpt.pt'), expected)
    mistakes.run(make(tmp_path, seed=1))
    assert not equal(load(tmp_path / 'gpt.pt')['model'], expected['model'])


# ---- Kills ----
@pytest.fixture(scope='module')
def long_run(tmp_path_factory):
    return kills.whole_run(tmp_path_factory.mktemp('long'))


@pytest.mark.parametrize('seed', [1, 2, 3])
def test_killed_at_random(tmp_path, long_run, seed):
    state, _ = kills.killed_run(tmp_path, random.Random(seed), long_run[1])
    assert equal(state, long_run[0])


@pytest.mark.parametrize('patch, iteration', [
    (kill_patch(SAVE, 0, signal.SIGKILL), None),  # written, without its name
    (kill_patch(RENAME, 0, signal.SIGKILL), 0),
    (kill_patch(SAVE, 1, signal.SIGKILL, action=HALF), 0),  # written in part
    (kill_patch(RENAME, ~1, signal.SIGKILL), 0),
    (kill_patch(BACKWARD, 14, signal.SIGKILL), 10),
    (kill_patch(SAVE, 3, signal.SIGKILL, action=HALF), 20),
    (kill_patch(RENAME, 3, signal.SIGKILL), 30)], ids=[
        'first write', 'first save', 'mid-write', 'before the renaming', 'training', 'last write', 'before the sample'])
def test_killed_at(tmp_path, expected, patch, iteration):
    path = make(tmp_path)
    mistakes.run(path, patches=[patch], code=-signal.SIGKILL)
    if iteration is None:
        assert not (tmp_path / 'gpt.pt').exists()
    else:
        assert load(tmp_path / 'gpt.pt')['iteration'] == iteration
    done = ends_as_expected(path, expected)
    assert steps(done) == ([] if iteration == 30 else list(range(iteration or 0, 31, 10)))


@pytest.mark.parametrize('patch', [
    kill_patch(SAVE, 0, signal.SIGKILL, action=HALF), kill_patch(RENAME, ~0, signal.SIGKILL),
    kill_patch(RENAME, 0, signal.SIGKILL), kill_patch(RENAME, 1, signal.SIGKILL)])
def test_new_run_killed_at_its_first_save(tmp_path, whole, expected, patch):
    """The run before it is still there, under one name or the other."""
    path = take(whole, tmp_path, resume=False)
    mistakes.run(path, patches=[patch], code=-signal.SIGKILL)
    files = [load(file) for file in tmp_path.glob('gpt*.pt')]
    assert any(equal(file, expected) for file in files) and len(files) in (1, 2)
    mistakes.run(path)
    assert equal(load(tmp_path / 'gpt.pt'), expected)


# ---- Ctrl-C and SIGTERM ----
def test_ctrl_c(tmp_path, expected):
    """Stops within the step, evaluates nothing, saves, and samples the weights as they are."""
    path = make(tmp_path)
    done = mistakes.run(path, patches=[kill_patch(BACKWARD, 13, signal.SIGINT)], code=130)
    assert steps(done) == [0, 10] and not done.stderr and 'resume = True' in done.stdout
    state = load(tmp_path / 'gpt.pt')
    assert state['iteration'] == 14 and state['best']['step'] == 10
    best, last = written(tmp_path)
    assert done.stdout.endswith(f'{last}\n') and best != last
    ends_as_expected(path, expected)


@pytest.mark.parametrize('patches, code', [
    ([kill_patch(BACKWARD, 13, signal.SIGINT, signal.SIGINT)], 130),
    ([kill_patch(BACKWARD, 13, signal.SIGINT), kill_patch(SAVE, 2, signal.SIGINT, action=HALF)], 130),
    ([kill_patch(BACKWARD, 13, signal.SIGTERM, signal.SIGTERM)], 143)], ids=['in a step', 'in mid-write', 'SIGTERM'])
def test_second_ctrl_c_ends_at_once(tmp_path, expected, patches, code):
    path = make(tmp_path)
    done = mistakes.run(path, patches=patches, code=code)
    assert steps(done) == [0, 10] and 'stopped' not in done.stdout and not done.stderr
    assert load(tmp_path / 'gpt.pt')['iteration'] == 10
    ends_as_expected(path, expected)


def test_sigterm(tmp_path, expected):
    path = make(tmp_path, prompt='First')
    done = mistakes.run(path, patches=[kill_patch(BACKWARD, 13, signal.SIGTERM)], code=143)
    assert load(tmp_path / 'gpt.pt')['iteration'] == 14 and not done.stderr
    assert done.stdout.splitlines()[-1].startswith('stopped at step 14') and 'First' not in done.stdout  # no sample
    ends_as_expected(path, expected)


def test_ctrl_c_while_torch_loads(tmp_path):
    patch = '''
import builtins, os, signal
real = builtins.__import__
def patched(name, namespace=None, *args, **kwargs):
    if name == 'torch' and (namespace or {}).get('__name__') == '__main__':
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, namespace, *args, **kwargs)
builtins.__import__ = patched'''
    done = mistakes.run(make(tmp_path), patches=[patch], code=130)
    assert not done.stdout and not done.stderr


@pytest.mark.parametrize('finished', [False, True])
def test_ctrl_c_in_the_sample(tmp_path, whole, finished):
    """When nothing is left to be saved, one Ctrl-C is enough."""
    path = take(whole, tmp_path, resume=finished, max_new_tokens=10**6)
    running = mistakes.Running(path)
    running.wait(lambda: re.search('only samples' if finished else 'best val loss', running.output()))
    running.wait(iter([False] * 100 + [True]).__next__)  # some tenths of a second
    os.kill(running.process.pid, signal.SIGINT)
    done = running.end(130, timeout=20)
    assert not done.stderr and load(tmp_path / 'gpt.pt')['iteration'] == 30


# ---- resume ----
def test_resume_without_a_checkpoint_starts_afresh(tmp_path, expected):
    done = mistakes.run(make(tmp_path, resume=True))
    assert re.match(r'gpt\.pt: .*(afresh|new run)', done.stdout) and steps(done) == [0, 10, 20, 30]
    assert equal(load(tmp_path / 'gpt.pt'), expected)


def test_finished_run_only_samples(tmp_path, whole):
    """Each prompt has its sample, also where a user starts the program, and the checkpoint stays as it is."""
    path, samples = take(whole, tmp_path, max_new_tokens=60), []
    for settings in ({}, {'prompt': 'First'}, {'prompt': 'Citizen', 'temperature': 0}):
        done = (mistakes.run if settings else program.run)(set_lines(path, **settings))
        assert not steps(done) and not done.stderr and 'finished' in done.stdout
        samples.append(done.stdout.split('\n', 1)[1])
        assert samples[-1].startswith(settings.get('prompt', ''))
    assert len({text.removeprefix('First').removeprefix('Citizen') for text in samples}) == 3
    assert (tmp_path / 'gpt.pt').read_bytes() == (whole / 'gpt.pt').read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ['gpt.pt', 'gpt.py', 'input.txt']


def test_import_loads_the_model(tmp_path, whole):
    take(whole, tmp_path)
    program_text = '''import sys, gpt, torch
torch.set_num_threads(1)
model = gpt.load_model()
assert not model.training
print(gpt.decode_list(model.generate(torch.tensor([gpt.encode_string('First')]), 30)[0].tolist()))'''
    done = subprocess.run([sys.executable, '-c', program_text], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and done.stdout.startswith('First'), (done.stdout, done.stderr)
    assert len(done.stdout) == 5 + 30 + 1


# ---- The best weights ----
def test_overfitting_run_samples_its_best_weights(tmp_path):
    """And so does a resumed one that is finished, and one that was stopped before the end and resumed."""
    settings = dict(text=TEXT[:400], learning_rate=0.02, max_iters=60, max_new_tokens=100, warmup_iters=5)
    path = make(tmp_path, **settings)
    done = mistakes.run(path)
    state = load(tmp_path / 'gpt.pt')
    losses = dict(re.findall(r'^step (\d+): .*val loss (.*)$', done.stdout, re.MULTILINE))
    best_step = min(losses, key=lambda step: float(losses[step]))
    assert 0 < int(best_step) < 60 and float(losses['60']) > float(losses[best_step])
    assert state['best']['step'] == int(best_step) and f"{state['best']['loss']:.4f}" == losses[best_step]
    best, last = written(tmp_path, 100)
    assert done.stdout.endswith(f'{best}\n') and best != last
    assert f'best val loss {losses[best_step]} at step {best_step}' in done.stdout
    done = mistakes.run(set_lines(path, resume=True))
    assert done.stdout.endswith(f'{best}\n') and not steps(done)
    stop = [kill_patch(BACKWARD, 55, signal.SIGTERM)]
    mistakes.run(set_lines(path, resume=False), patches=stop, code=143)
    done = mistakes.run(set_lines(path, resume=True))
    assert done.stdout.endswith(f'{best}\n') and steps(done) == [60] and equal(load(tmp_path / 'gpt.pt'), state)


# ---- The last run, and other people's files ----
def test_new_run_keeps_the_last_one(tmp_path, whole, expected):
    path = take(whole, tmp_path, resume=False, seed=1)
    done = mistakes.run(path)
    assert 'gpt-previous.pt' in done.stdout and equal(load(tmp_path / 'gpt-previous.pt'), expected)
    assert load(tmp_path / 'gpt.pt')['settings']['seed'] == 1
    mistakes.run(set_lines(path, seed=2))
    assert load(tmp_path / 'gpt-previous.pt')['settings']['seed'] == 1
    assert sorted(file.name for file in tmp_path.glob('*.pt*')) == ['gpt-previous.pt', 'gpt.pt']


class Malicious:
    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def foreign(name, good, folder):
    """Bytes that are no checkpoint of the program."""
    thing, buffer = Malicious(), bytearray(good)
    thing.path = folder / 'touched'
    if name == 'malicious':
        return torch_bytes({'settings': {}, 'program': 'gpt.py', 'model': thing})
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        tensors = [info for info in archive.infolist() if '/data/' in info.filename]
        entry = max(tensors, key=lambda info: info.file_size)
        start = entry.header_offset + 200
    buffer[start + entry.file_size // 2] ^= 16
    return {'malicious pickle': pickle.dumps(thing), 'text': TEXT.encode(), 'empty': b'', 'cut': good[:len(good) // 2],
            'cut by a byte': good[:-1], 'start missing': good[64:], 'zeros': bytes(len(good)), 'flipped': bytes(buffer),
            'weights only': torch_bytes(load(good)['model']), 'a number': torch_bytes(5)}[name]


@pytest.mark.parametrize('name', ['malicious', 'malicious pickle', 'text', 'empty', 'cut', 'cut by a byte',
                                  'start missing', 'zeros', 'flipped', 'weights only', 'a number'])
@pytest.mark.parametrize('resume', [True, False])
def test_foreign_or_damaged_file_is_refused_and_left(tmp_path, whole, name, resume):
    path = make(tmp_path, resume=resume)
    data = foreign(name, (whole / 'gpt.pt').read_bytes(), tmp_path)
    for target in ['gpt.pt'] if resume else ['gpt.pt', 'gpt-previous.pt']:
        (tmp_path / target).write_bytes(data)
        done = mistakes.run(path, code=1)
        one_line(done, target, 'no checkpoint of this program')
        assert (tmp_path / target).read_bytes() == data and not done.stdout
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(['gpt.py', 'input.txt', target])
        (tmp_path / target).unlink()


def test_damage_is_also_found_where_python_skips_asserts(tmp_path, whole):
    path = make(tmp_path, resume=True)
    (tmp_path / 'gpt.pt').write_bytes(foreign('flipped', (whole / 'gpt.pt').read_bytes(), tmp_path))
    one_line(program.run(path, code=1, env={'PYTHONOPTIMIZE': '1'}), 'no checkpoint of this program')


def test_malicious_file_would_have_worked(tmp_path, whole):
    (tmp_path / 'evil').write_bytes(foreign('malicious', (whole / 'gpt.pt').read_bytes(), tmp_path))
    torch.load(tmp_path / 'evil', weights_only=False)
    assert (tmp_path / 'touched').exists()


# ---- Other hyperparameters, another text, another model ----
OTHERS = dict(n_embd=48, n_head=4, n_layer=1, block_size=8, batch_size=5, max_iters=25, learning_rate=1e-4, dropout=0.3,
              seed=3, beta2=0.9, weight_decay=0.0, grad_clip=0.5, warmup_iters=7, eval_interval=4, eval_iters=3)


def pasted(path, done):
    """Put the lines that the error printed under the last line at the top of the program."""
    lines = re.findall(r'^\w+ = .*$', done.stderr, re.MULTILINE)
    source = path.read_text(encoding='utf-8')
    last = re.search(r'^top_k = .*$', source, re.MULTILINE).group()
    path.write_text(program.replace(source, last, '\n'.join([last, *lines])), encoding='utf-8')
    return lines


def test_other_hyperparameters(tmp_path, part, expected):
    path = take(part, tmp_path, **OTHERS)
    before = (tmp_path / 'gpt.pt').read_bytes()
    done = mistakes.run(path, code=2)
    assert 'Traceback' not in done.stderr and (tmp_path / 'gpt.pt').read_bytes() == before
    there = load(part / 'gpt.pt')['settings']
    for name, value in OTHERS.items():
        assert re.search(rf'^{name} = {there[name]!r} .*{value!r}', done.stderr, re.MULTILINE), (name, done.stderr)
    assert len(pasted(path, done)) == len(OTHERS)
    done = mistakes.run(path)
    assert steps(done) == [10, 20, 30] and equal(load(tmp_path / 'gpt.pt'), expected)


@pytest.mark.parametrize('settings', [dict(prompt='First'), dict(temperature=0, top_k=3), dict(max_new_tokens=3)],
                         ids=lambda s: ' '.join(s))
def test_unfinished_run_may_be_sampled_otherwise(tmp_path, part, expected, settings):
    assert steps(mistakes.run(take(part, tmp_path, **settings))) == [10, 20, 30]
    assert equal(load(tmp_path / 'gpt.pt'), expected)


def test_finished_run_of_another_shape(tmp_path, whole):
    """Only the shape matters: the lines are those, and when they are pasted the program samples."""
    path = take(whole, tmp_path, **OTHERS)
    done = mistakes.run(path, code=2)
    assert len(pasted(path, done)) == 4
    assert 'finished' in mistakes.run(path).stdout


@pytest.mark.parametrize('text, finished, says', [
    (TEXT + 'ü', False, ['alphabet', 'ü']), (TEXT + 'ü', True, ['alphabet', 'ü']),
    (TEXT.replace('First', 'Fisrt', 1), False, ['crc32']), (TEXT[:-1], False, [str(len(TEXT)), str(len(TEXT) - 1)]),
    (TEXT[::-1], True, None)], ids=['alphabet', 'alphabet, finished', 'text', 'length', 'text, finished'])
def test_other_text(tmp_path, whole, part, text, finished, says):
    path = take(whole if finished else part, tmp_path, text=text)
    before = (tmp_path / 'gpt.pt').read_bytes()
    done = mistakes.run(path, code=2 if says else 0)
    assert 'Traceback' not in done.stderr and (tmp_path / 'gpt.pt').read_bytes() == before
    assert all(word in done.stderr for word in says) if says else not steps(done) and not done.stderr


@pytest.mark.parametrize('finished', [True, False])
def test_edited_model_and_the_checkpoint_of_the_old_one(tmp_path, whole, part, finished):
    path = take(whole if finished else part, tmp_path)
    source = path.read_text(encoding='utf-8')
    line = re.search(r'^ +self\.ln_f = .*$', source, re.MULTILINE).group()
    path.write_text(program.replace(source, line, f'{line}\n{line.replace("ln_f", "another")}'), encoding='utf-8')
    before = (tmp_path / 'gpt.pt').read_bytes()
    one_line(mistakes.run(path, code=1), 'gpt.pt', 'model')
    assert (tmp_path / 'gpt.pt').read_bytes() == before
    assert 'step 30' in mistakes.run(set_lines(path, resume=False)).stdout


# ---- Files that cannot be written ----
@pytest.mark.parametrize('checkpoint_path', ['missing/gpt.pt', '.', 'folder', 'input.txt/gpt.pt', 'a' * 300, '\ud800'])
@pytest.mark.parametrize('resume', [True, False])
def test_checkpoint_that_cannot_be_written(tmp_path, checkpoint_path, resume):
    (tmp_path / 'folder').mkdir()
    done = mistakes.run(make(tmp_path, checkpoint_path=checkpoint_path, resume=resume), code=1)
    one_line(done, 'checkpoint')
    assert not steps(done) and sorted(file.name for file in tmp_path.iterdir()) == ['folder', 'gpt.py', 'input.txt']


def test_checkpoint_path_with_a_nul(tmp_path):
    """What writes files in C ends a name there, so it would write into the text."""
    done = mistakes.run(make(tmp_path, checkpoint_path='input.txt\0.pt'), code=None)
    assert done.returncode in (0, 1, 2) and 'Traceback' not in done.stderr, done.stderr
    assert (tmp_path / 'input.txt').read_text() == TEXT


def limit(size):
    """A statement: files can become no larger than `size` bytes, as if the disk were full."""
    return f'import resource as r; r.setrlimit(r.RLIMIT_FSIZE, ({size}, r.getrlimit(r.RLIMIT_FSIZE)[1]))'


FULL, EMPTIED = limit(100_000), limit(10**12)


def test_disk_full_at_the_start(tmp_path, whole):
    path = take(whole, tmp_path, resume=False)
    one_line(mistakes.run(path, patches=[FULL], code=1), 'gpt.pt', 'cannot be written')
    assert (tmp_path / 'gpt.pt').read_bytes() == (whole / 'gpt.pt').read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ['gpt.pt', 'gpt.py', 'input.txt']


def test_disk_full_until_the_end(tmp_path, expected):
    path = make(tmp_path)
    done = mistakes.run(path, patches=[call_patch(BACKWARD, 13, FULL)], code=1)
    assert steps(done) == [0, 10, 20, 30] and 'best val loss' in done.stdout
    warnings = done.stderr.splitlines()
    assert len(warnings) == 2 and all('warning' in line and 'gpt.pt' in line for line in warnings), done.stderr
    assert load(tmp_path / 'gpt.pt')['iteration'] == 10 and not list(tmp_path.glob('*.tmp'))
    ends_as_expected(path, expected)


def test_disk_full_for_a_while(tmp_path, expected):
    patches = [call_patch(BACKWARD, 13, FULL), call_patch(BACKWARD, 23, EMPTIED)]
    done = mistakes.run(make(tmp_path), patches=patches)
    assert steps(done) == [0, 10, 20, 30] and len(done.stderr.splitlines()) == 1 and 'warning' in done.stderr
    assert equal(load(tmp_path / 'gpt.pt'), expected)


def test_disk_full_at_ctrl_c(tmp_path, expected):
    """It must not say that the run goes on from there."""
    path = make(tmp_path)
    done = mistakes.run(path, patches=[kill_patch(BACKWARD, 13, signal.SIGINT, action=FULL)], code=1)
    assert 'warning' in done.stderr and 'resume = True' not in done.stdout
    assert load(tmp_path / 'gpt.pt')['iteration'] == 10
    ends_as_expected(path, expected)


# ---- A loss that is not finite ----
@pytest.mark.parametrize('how', ['weights', 'learning rate', 'Ctrl-C'])
def test_loss_no_longer_finite(tmp_path, how):
    """One line with the step and the learning rate; the last good checkpoint stays."""
    settings, patches = {}, []
    if how == 'learning rate':
        settings = dict(learning_rate=10.0, weight_decay=100.0, warmup_iters=0, max_iters=300, eval_interval=100)
    else:
        spoil = 'args = [list(args[0]), *args[1:]]; [parameter.data.fill_(float("nan")) for parameter in args[0]]'
        patches = [call_patch('torch.nn.utils.clip_grad_norm_', ~13, spoil)]
        if how == 'Ctrl-C':
            patches += [kill_patch(BACKWARD, 15, signal.SIGINT)]
    path = make(tmp_path, **settings)
    done = mistakes.run(path, patches=patches, code=1)
    one_line(done, 'step', 'finite', 'learning_rate', str(settings.get('learning_rate', '')))
    state = load(tmp_path / 'gpt.pt')
    step = int(re.search(r'step (\d+)', done.stderr).group(1))
    assert steps(done)[-1] == state['iteration'] < step
    assert all(parameter.isfinite().all() for parameter in state['model'].values())
