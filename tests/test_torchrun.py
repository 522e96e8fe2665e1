"""torchrun: several processes train as one does, and a killed one costs only time."""

import os
import re
import socket
import subprocess
import sys

import pytest
import torch

import helpers
from helpers import CHECKPOINT, PREVIOUS, equal, quick, read_checkpoint, steps

pytestmark = pytest.mark.skipif(
    os.name != 'posix' or not torch.distributed.is_gloo_available(),
    reason='needs POSIX, and gloo to connect the processes',
)

SETTINGS = {**helpers.TINY, 'max_iters': 60, 'eval_interval': 20}
ONE, TWO = ('--standalone', '--nproc-per-node=1'), ('--standalone', '--nproc-per-node=2')


def start(path, *options):
    """Start torchrun with the program at `path`."""
    return subprocess.Popen(
        [sys.executable, '-m', 'torch.distributed.run', *options, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding='utf-8',
        env=helpers.environment(OMP_NUM_THREADS='1'),
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
    step = '        step += 1\n'
    return step, f'{step}        if step == 30:\n            {action}\n'


def own_traceback(done, path):
    """Whether Python has shown a line of the program. (torchrun shows only its own.)"""
    return f'File "{path}"' in done.stderr


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
    folder, without = one
    done = finish(start(helpers.copy(tmp_path, **SETTINGS), *ONE))
    assert steps(done) == steps(without)
    assert equal(read_checkpoint(tmp_path), read_checkpoint(folder))


def test_two_processes_have_the_losses_of_one(one, two):
    """Only the rounding differs."""
    losses, others = steps(one[1]), steps(two[1])
    assert list(losses) == list(others) == [0, 20, 40, 60]
    for step in losses:
        assert others[step] == pytest.approx(losses[step], abs=2e-4)


def test_each_process_learns_from_its_part_of_the_batch(tmp_path, monkeypatch):
    """If each learned from all of it, the losses would be right, and nothing would be won."""
    path, seen = helpers.copy(tmp_path, **SETTINGS), []
    parallel = torch.nn.parallel.DistributedDataParallel
    monkeypatch.setattr(parallel, 'forward', lambda self, x, y: seen.append(torch.cat((x, y), 1)))
    monkeypatch.setenv('WORLD_SIZE', '2')
    for rank in ['0', '1']:
        monkeypatch.setenv('RANK', rank)
        module = helpers.load(path)
        torch.manual_seed(0)
        x, y = module.get_batch('train')
        module.Copy.__new__(module.Copy).forward(x, y)
    assert len(seen[0]) == len(seen[1]) == 4
    assert sorted(torch.cat(seen).tolist()) == sorted(torch.cat((x, y), dim=1).tolist())


def test_only_one_process_prints(one, two):
    """Line by line the same, but for the numbers and the samples."""
    shapes = [re.sub(r'\d+', 'N', done.stdout.split('\n\n')[0]) for _, done in (one, two)]
    lines = [[line for line in shape.splitlines() if line[0] != ' '] for shape in shapes]
    assert lines[0] == lines[1] and len(lines[0]) == 2 + 4 + 1


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


@pytest.mark.parametrize('rank, resume', [(0, False), (1, True)])
def test_a_killed_process_only_costs_time(tmp_path, two, rank, resume):
    """The restart goes on by itself, with either value of resume. An older run is kept."""
    die = f'restarts == 0 and rank == {rank} and os.kill(os.getpid(), signal.SIGKILL)'
    path = helpers.copy(tmp_path, edits=[in_step_30(die)], resume=resume, **SETTINGS)
    if not resume:
        (tmp_path / CHECKPOINT).write_bytes(b'older')
    done = finish(start(path, *TWO, '--max-restarts=1'))
    assert re.findall(r'^step (\d+):', done.stdout, re.M) == ['0', '20', '20', '40', '60']
    assert 'resuming gpt.pt at step 20\n' in done.stdout
    assert equal(read_checkpoint(tmp_path), read_checkpoint(two[0]))
    assert resume or (tmp_path / PREVIOUS).read_bytes() == b'older'


def test_a_batch_that_cannot_be_shared_is_one_line(tmp_path):
    path = helpers.copy(tmp_path, **{**SETTINGS, 'batch_size': 7})
    done = finish(start(path, *TWO), code=1)
    assert done.stderr.count('gpt.py: batch_size=7 must divide evenly among 2 processes\n') == 1
    assert done.stdout == '' and not own_traceback(done, path)
    assert not (tmp_path / CHECKPOINT).exists()


def test_parameters_that_blew_up_are_one_line(tmp_path):
    blow_up = in_step_30('next(model.parameters()).data.fill_(math.nan)')
    path = helpers.copy(tmp_path, edits=[blow_up], **SETTINGS)
    done = finish(start(path, *TWO), code=1)
    assert done.stderr.count('blew up by step 40.') == 1
    assert list(steps(done)) == [0, 20] and not own_traceback(done, path)
    assert read_checkpoint(tmp_path)['step'] == 20
