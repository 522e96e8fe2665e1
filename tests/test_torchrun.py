"""torchrun: several processes train as one does."""

import os
import signal
import time

import pytest
import torch
from torch.distributed.elastic.utils.distributed import get_free_port

import helpers
from helpers import CHECKPOINT, copy, equal, finish, quick, read_checkpoint, steps

HAS_GLOO = os.name == 'posix' and torch.distributed.is_gloo_available()  # it connects processes
pytestmark = pytest.mark.skipif(not HAS_GLOO, reason='needs POSIX and gloo')
SETTINGS = {**helpers.TINY, 'max_iters': 60, 'eval_interval': 20}
GPU = "torch._C._get_accelerator = lambda: torch.device('cuda')"  # as if the machine had one
TWO = ('--standalone', '--nproc-per-node=2')


def start(folder, *options, edits=(), **settings):
    """Start torchrun with the program in a folder, with SETTINGS and others."""
    path = copy(folder, edits=edits, **{**SETTINGS, **settings})
    return helpers.start('-m', 'torch.distributed.run', *options, path, start_new_session=True)


def two_ranks(folder, code=0, **options):
    """Two processes such as torchrun starts, but forked, which is faster. Both, once ended."""
    path, runs = copy(folder, **{**SETTINGS, **options}), []
    shared = {'WORLD_SIZE': '2', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': str(get_free_port())}
    for rank in ('0', '1'):
        patch = f'import os, torch; {GPU}; os.environ.update({ ({**shared, "RANK": rank}) })'
        runs.append(helpers.Running(path, patches=[patch]))
    return [run.end(code) for run in runs]


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    """Two processes, and what they have saved."""
    folder = tmp_path_factory.mktemp('two')
    return two_ranks(folder), read_checkpoint(folder)


def test_two_processes_have_the_losses_of_one(tmp_path, two):
    """Only the rounding differs. And only one of them prints."""
    one, (first, second) = quick(copy(tmp_path, **SETTINGS)), two[0]
    assert list(steps(one)) == list(steps(first)) == [0, 20, 40, 60] and second.stdout == ''
    for step, losses in steps(one).items():
        assert steps(first)[step] == pytest.approx(losses, abs=2e-4)


def test_each_process_learns_from_its_share_of_the_batch(tmp_path, monkeypatch):
    """If each learned from all of it, the losses would be right, and nothing would be won."""
    path, seen = copy(tmp_path, **SETTINGS), []
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


def test_a_killed_process_ends_the_job_and_the_run_can_be_resumed(tmp_path, two):
    call = '            learn(network, optimizer, step)\n'
    die = f'            step == 30 and rank == 1 and os.kill(os.getpid(), {int(signal.SIGKILL)})\n'
    done = finish(start(tmp_path, *TWO, edits=[(call, call + die)]), code=1)
    assert '(exitcode: -9)' in done.stderr and list(steps(done)) == [0, 20]
    done, _ = two_ranks(tmp_path, resume=True)
    assert list(steps(done)) == [20, 40, 60] and steps(done).items() <= steps(two[0][0]).items()
    assert equal(read_checkpoint(tmp_path), two[1])


def test_two_machines(tmp_path, two):
    """Two agents of torchrun find each other by an address. They share a folder."""
    options = ['--nnodes=2', '--nproc-per-node=1', '--rdzv-backend=c10d', '--rdzv-id=1']
    options += [f'--rdzv-endpoint=localhost:{get_free_port()}', '--local-addr=localhost']
    machines = [start(tmp_path, *options) for _ in range(2)]
    printed = [steps(finish(machine)) for machine in machines]
    assert sorted(printed, key=len) == [{}, steps(two[0][0])]
    assert equal(read_checkpoint(tmp_path), two[1])


def test_ctrl_c(tmp_path):
    """A terminal sends it to all processes."""
    process = start(tmp_path, *TWO, max_iters=10**6)
    while not (tmp_path / CHECKPOINT).exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    done = finish(process, code=None)
    assert done.stdout.count('Stopped. ') == 1 and done.returncode != 0
    assert read_checkpoint(tmp_path)['step'] % 20 == 0


def test_mistakes_are_said_and_end_all_processes(tmp_path):
    """Also an edit that leaves parameters unused, which the end of gpt.py suggests."""
    for done in two_ranks(tmp_path, code=1, batch_size=7):
        helpers.last_line(done, 'batch_size=7 cannot be shared by 2')
    without = ('x = tok_emb + pos_emb  #', 'x = tok_emb  #')
    first, _ = two_ranks(tmp_path, code=1, edits=[without])
    assert 'find_unused_parameters=True' in first.stderr and list(steps(first)) == [0]
