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


def start(path, *options):
    """Start torchrun with the program at `path`."""
    return subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', *options, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding='utf-8',
        env=helpers.environment(OMP_NUM_THREADS='1'),
        start_new_session=True,
    )


def finish(process, code=0, timeout=90):
    """Wait for its end. Its exit code has to be `code`. Nothing of it is left running."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun then ends its processes, after 30 seconds by force
        process.communicate(timeout=60)
        raise
    assert process.returncode == code, (process.returncode, out, err)
    return subprocess.CompletedProcess(process.args, code, out, err)


def in_step_30(action):
    """An edit: run the statement `action` after step 30."""
    call = '            learn(network, optimizer, step)\n'
    return call, f'{call}            if step == 30:\n                {action}\n'


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    """A run without torchrun: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp('one')
    return folder, quick(helpers.copy(folder, **SETTINGS))


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """The same run with two processes."""
    folder = tmp_path_factory.mktemp('two')
    return folder, finish(start(helpers.copy(folder, **SETTINGS), *TWO))


def test_one_process_does_the_same_as_without_torchrun(tmp_path, one):
    done = finish(start(helpers.copy(tmp_path, **SETTINGS), '--standalone'))
    assert steps(done) == steps(one[1])
    assert equal(read_checkpoint(tmp_path), read_checkpoint(one[0]))


def test_two_processes_have_the_losses_of_one(one, two):
    """Only the rounding differs. And only one of them prints."""
    losses, others = steps(one[1]), steps(two[1])
    assert list(losses) == list(others) == [0, 20, 40, 60]
    for step in losses:
        assert others[step] == pytest.approx(losses[step], abs=2e-4)
    lines = [re.findall(r'^\w+', done.stdout.split('\n\n')[0], re.M) for _, done in (one, two)]
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
        module.Copy.__new__(module.Copy).forward(x, y)
    assert len(seen[0]) == len(seen[1]) == 4
    assert sorted(torch.cat(seen).tolist()) == sorted(torch.cat((x, y), dim=1).tolist())


def test_two_machines(tmp_path, two):
    """Two agents of torchrun find each other by an address. They share a folder."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    options = ['--nnodes=2', '--nproc-per-node=1', '--rdzv-backend=c10d', '--rdzv-id=1']
    options += [f'--rdzv-endpoint={address}', '--local-addr=localhost']
    path = helpers.copy(tmp_path, **SETTINGS)
    machines = [start(path, *options) for _ in range(2)]
    try:
        printed = [steps(finish(machine)) for machine in machines]
    finally:
        for machine in machines:  # if the other one failed
            machine.terminate()
    assert sorted(printed, key=len) == [{}, steps(two[1])]
    assert equal(read_checkpoint(tmp_path), read_checkpoint(two[0]))


@pytest.mark.parametrize('rank', [0, 1])
def test_a_killed_process_ends_the_job_and_the_run_can_be_resumed(tmp_path, two, rank):
    die = f'rank == {rank} and os.kill(os.getpid(), {int(signal.SIGKILL)})'
    path = helpers.copy(tmp_path, edits=[in_step_30(die)], **SETTINGS)
    done = finish(start(path, *TWO), code=1)
    assert '(exitcode: -9)' in done.stderr and list(steps(done)) == [0, 20]
    done = finish(start(helpers.copy(tmp_path, resume=True, **SETTINGS), *TWO))
    assert list(steps(done)) == [20, 40, 60]
    assert equal(read_checkpoint(tmp_path), read_checkpoint(two[0]))


def test_ctrl_c(tmp_path):
    """A terminal sends it to all processes."""
    path = helpers.copy(tmp_path, **{**SETTINGS, 'max_iters': 10**6})
    process = start(path, *TWO)
    while not (tmp_path / CHECKPOINT).exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and 'Stopped. ' in err
    assert read_checkpoint(tmp_path)['step'] % 20 == 0


def test_mistakes_are_said_and_end_the_job(tmp_path):
    path = helpers.copy(tmp_path, **{**SETTINGS, 'batch_size': 7})
    done = finish(start(path, *TWO), code=1)
    assert 'batch_size=7 cannot be shared by 2\n' in done.stderr
    assert done.stdout == '' and not (tmp_path / CHECKPOINT).exists()


def test_an_edit_that_leaves_parameters_unused_is_told_what_it_needs(tmp_path):
    """As without positions, which the end of gpt.py suggests. In one process, it just runs."""
    edits = [('x = tok_emb + pos_emb  #', 'x = tok_emb  #')]
    done = finish(start(helpers.copy(tmp_path, edits=edits, **SETTINGS), *TWO), code=1)
    assert 'find_unused_parameters=True' in done.stderr and list(steps(done)) == [0]
    edits.append(('Copy(model) if', 'Copy(model, find_unused_parameters=True) if'))
    done = finish(start(helpers.copy(tmp_path, edits=edits, **SETTINGS), *TWO))
    assert list(steps(done)) == [0, 20, 40, 60]
