"""torchrun: many processes train as one does, and neither a kill nor a signal harms the run."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import program

pytestmark = pytest.mark.skipif(
    sys.platform == 'win32' or not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason='needs gloo and POSIX signals')
SETTINGS = {**program.TINY, 'max_iters': 60, 'eval_interval': 20}


def make(folder, slow=True, **settings):
    """A copy in `folder`; a step of a slow one lasts long enough to be hit by a signal."""
    folder.mkdir()
    path = program.copy(folder, **{**SETTINGS, **settings})
    if slow:
        source = path.read_text(encoding='utf-8')
        line = '        scheduler.step()\n'
        path.write_text(program.replace(source, line, f'{line}        time.sleep(0.04)\n'), encoding='utf-8')
    return path


def start(path, processes, *options):
    """torchrun, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}', *options,
         str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding='utf-8',
        start_new_session=True, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'})


def finish(process, code=0, timeout=60):
    """Wait for its end: (stdout, stderr). None as the code: any but 0. Nothing of it is left running."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun kills its processes 30 seconds later
        process.communicate(timeout=60)
        raise
    assert process.returncode == code if code is not None else process.returncode != 0, (process.returncode, out, err)
    return out, err


def wait_for(process, beginning):
    """Read its output up to a line that begins so."""
    for line in process.stdout:
        if line.startswith(beginning):
            return
    pytest.fail(f'it ended before {beginning!r}: {process.stderr.read()}')


def state(path):
    """The checkpoint, which has to be whole."""
    assert not list(path.parent.glob('*.tmp'))
    return torch.load(path.parent / 'gpt.pt', weights_only=True)


def assert_same_end(path, other):
    """Both runs are finished, with the same weights bit for bit."""
    ends = [state(path), state(other)]
    assert [end['iteration'] for end in ends] == [60, 60]
    assert ends[0]['best']['loss'] == ends[1]['best']['loss']
    for name, weights in ends[0]['model'].items():
        assert torch.equal(weights, ends[1]['model'][name]), name


def losses(out):
    """[(step, train loss, validation loss)] of the lines printed."""
    return [(int(step), float(train), float(val))
            for step, train, val in re.findall(r'^step (\d+): train loss ([\d.]+), val loss ([\d.]+)$', out, re.M)]


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """An uninterrupted run of two processes: its path and what it printed."""
    path = make(tmp_path_factory.mktemp('two') / 'run', slow=False)
    return path, finish(start(path, 2))[0]


def test_two_processes_have_the_losses_of_one(two, tmp_path):
    path = make(tmp_path / 'one', slow=False)
    one = losses(finish(start(path, 1))[0])
    assert [step for step, *_ in one] == [0, 20, 40, 60]  # each once: the first process alone prints
    assert [step for step, *_ in losses(two[1])] == [0, 20, 40, 60]
    for ours, theirs in zip(one, losses(two[1])):
        assert ours == pytest.approx(theirs, abs=1e-3)
    assert one[-1][1] < one[0][1] - 0.3
    assert two[1].count('best val loss') == two[1].count(' parameters') == 1


def test_a_batch_that_cannot_be_shared_is_one_line(tmp_path):
    path = make(tmp_path / 'odd', slow=False, batch_size=7)
    out, err = finish(start(path, 2), code=None)
    assert len(re.findall(r'^gpt\.py: batch_size = 7 .*$', err, re.M)) == 1
    assert f'File "{path}"' not in err and out == '' and not (path.parent / 'gpt.pt').exists()


@pytest.mark.skipif(not shutil.which('pgrep'), reason='needs pgrep')
def test_killing_a_worker_only_costs_time(two, tmp_path):
    path = make(tmp_path / 'killed', resume=True)
    process = start(path, 2, '--max-restarts=1')
    wait_for(process, 'step 20:')
    time.sleep(0.3)
    workers = subprocess.run(['pgrep', '-f', '-P', str(process.pid), str(path)], capture_output=True, text=True)
    os.kill(int(workers.stdout.split()[-1]), signal.SIGKILL)
    out, _ = finish(process)
    assert [step for step, *_ in losses(out)] == [20, 40, 60]  # from the checkpoint on
    assert_same_end(path, two[0])


def test_signals_stop_a_run_that_goes_on_to_the_same_end(two, tmp_path):
    path = make(tmp_path / 'stopped', resume=True)
    last = 0
    for line, send in (('step 0:', lambda process: process.send_signal(signal.SIGINT)),
                       ('step 20:', lambda process: os.killpg(process.pid, signal.SIGINT)),
                       ('step 40:', lambda process: process.send_signal(signal.SIGTERM))):
        process = start(path, 2)
        wait_for(process, line)
        time.sleep(0.2)
        began = time.time()
        send(process)
        out, err = finish(process, code=None, timeout=40)
        assert time.time() - began < 25, 'torchrun had to kill the processes'  # which it does after 30 seconds
        stopped = state(path)['iteration']
        assert last < stopped < 60 and f'stopped at step {stopped};' in out, (out, err)
        assert f'File "{path}"' not in err
        last = stopped
    finish(start(path, 2))
    assert_same_end(path, two[0])
