"""torchrun: several processes train as one does."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

import helpers
from helpers import CHECKPOINT, equal, quick, read_checkpoint, steps

pytestmark = pytest.mark.skipif(
    os.name != 'posix' or not torch.distributed.is_gloo_available(),
    reason='needs POSIX, and gloo to connect the processes',
)
SETTINGS = {**helpers.TINY, 'max_iters': 60, 'eval_interval': 20}
TWO = ('--standalone', '--nproc-per-node=2')


def start(folder, *options, edits=(), **settings):
    """Start torchrun with the program in a folder, with SETTINGS and others."""
    path = helpers.copy(folder, edits=edits, **{**SETTINGS, **settings})
    return subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', *options, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding='utf-8',
        env=helpers.environment(OMP_NUM_THREADS='1'),
        start_new_session=True,
    )


def finish(process, code=0):
    """Wait for its end. Its exit code has to be `code`. Nothing of it is left running."""
    try:
        out, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends its processes, after 30 seconds by force
        process.communicate(timeout=60)
        raise
    assert process.returncode == code, (process.returncode, out, err)
    return subprocess.CompletedProcess(process.args, code, out, err)


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """A run with two processes: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp('two')
    return folder, finish(start(folder, *TWO))


def test_two_processes_have_the_losses_of_one(tmp_path, two):
    """Only the rounding differs. And only one of them prints."""
    one = quick(helpers.copy(tmp_path, **SETTINGS))
    losses, others = steps(one), steps(two[1])
    assert list(losses) == list(others) == [0, 20, 40, 60]
    for step in losses:
        assert others[step] == pytest.approx(losses[step], abs=2e-4)
    lines = [re.findall(r'^\w+', done.stdout.split('\n\n')[0], re.M) for done in (one, two[1])]
    assert lines[0] == lines[1]


def test_each_process_learns_from_its_share_of_the_batch(tmp_path, monkeypatch):
    """If each learned from all of it, the losses would be right, and nothing would be won."""
    path, seen = helpers.copy(tmp_path, **SETTINGS), []
    parallel = torch.nn.parallel.DistributedDataParallel
    monkeypatch.setattr(parallel, 'forward', lambda self, x, y: seen.append(torch.cat((x, y), 1)))
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank in ['0', '1']:
        monkeypatch.setenv('RANK', rank)
        module = helpers.load(path)
        torch.manual_seed(0)
        x, y = module.get_batch(module.train_data)
        module.Parallel.__new__(module.Parallel).forward(x, y)
    assert len(seen[0]) == len(seen[1]) == 4
    assert sorted(torch.cat(seen).tolist()) == sorted(torch.cat((x, y), dim=1).tolist())


def test_two_machines(tmp_path, two):
    """Two agents of torchrun find each other by an address. They share a folder."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    options = ['--nnodes=2', '--nproc-per-node=1', '--rdzv-backend=c10d', '--rdzv-id=1']
    options += [f'--rdzv-endpoint={address}', '--local-addr=localhost']
    machines = [start(tmp_path, *options) for _ in range(2)]
    try:
        printed = [steps(finish(machine)) for machine in machines]
    finally:
        for machine in machines:  # if the other one failed
            machine.terminate()
    assert sorted(printed, key=len) == [{}, steps(two[1])]
    assert equal(read_checkpoint(tmp_path), read_checkpoint(two[0]))


def test_a_killed_process_ends_the_job_and_the_run_can_be_resumed(tmp_path, two):
    call = '            learn(network, optimizer, step)\n'
    die = f'            step == 30 and rank == 1 and os.kill(os.getpid(), {int(signal.SIGKILL)})\n'
    done = finish(start(tmp_path, *TWO, edits=[(call, call + die)]), code=1)
    assert '(exitcode: -9)' in done.stderr and list(steps(done)) == [0, 20]
    assert list(steps(finish(start(tmp_path, *TWO, resume=True)))) == [20, 40, 60]
    assert equal(read_checkpoint(tmp_path), read_checkpoint(two[0]))


def test_ctrl_c(tmp_path):
    """A terminal sends it to all processes."""
    process = start(tmp_path, *TWO, max_iters=10**6)
    while not (tmp_path / CHECKPOINT).exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0].count('Stopped. ') == 1 and process.returncode != 0
    assert read_checkpoint(tmp_path)['step'] % 20 == 0


def test_mistakes_are_said_and_end_the_job(tmp_path):
    """Also an edit that leaves parameters unused, which the end of gpt.py suggests."""
    done = finish(start(tmp_path, *TWO, batch_size=7), code=1)
    assert 'batch_size=7 cannot be shared by 2\n' in done.stderr and done.stdout == ''
    edit = ('x = tok_emb + pos_emb  #', 'x = tok_emb  #')
    done = finish(start(tmp_path, *TWO, edits=[edit]), code=1)
    assert 'find_unused_parameters=True' in done.stderr and list(steps(done)) == [0]
