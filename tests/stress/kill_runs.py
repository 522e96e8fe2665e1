"""Kill runs at random instants, resume them, and compare how they end, bit for bit.

    python tests/stress/kill_runs.py 20              20 runs, each stopped again and again
    python tests/stress/kill_runs.py 10 --torchrun   each of two processes, killed in 10 runs
    python tests/stress/kill_runs.py 20 --seed 7     at other instants

The exit code is 0 if all of them ended as the run that was never interrupted. (POSIX only.)
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import helpers  # noqa: E402

# Long enough to be stopped a few times. It evaluates, and thus saves, as often as it can.
SETTINGS = {**helpers.TINY, 'dropout': 0.1, 'max_iters': 90, 'eval_interval': 3}
SIGNALS = [helpers.SIGKILL, helpers.SIGKILL, signal.SIGINT, signal.SIGTERM]

# A process of torchrun that ends itself by a timer, wherever it is then. Its restart does not.
RESTARTS = "restarts = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))\n"
TIMER = """
if rank == {rank} and restarts == 0:
    import threading

    timer = threading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
"""


def whole_run(folder):
    """What a run that is never interrupted saves, and its seconds after the first step."""
    running = helpers.Running(helpers.copy(folder, **SETTINGS))
    running.wait_for('step 0')
    began = time.time()
    running.end()
    return helpers.read_checkpoint(folder), time.time() - began


def stopped_run(folder, seconds, rng):
    """Stop a run at random and resume it, until it is done. How often that was necessary."""
    path = helpers.copy(folder, resume=True, **SETTINGS)
    for stops in range(1000):
        running = helpers.Running(path)
        running.wait_for('step ')
        time.sleep(rng.uniform(0, seconds / 4 if stops < 20 else 60))  # some day it has to end
        if running.process.is_alive():
            running.send(rng.choice(SIGNALS))
        if running.end(code=None).returncode == 0:
            return stops


def torchrun(folder, *options, edits=()):
    """Run two processes. How often torchrun saw one of them killed, or 'hang'."""
    from test_torchrun import TWO, finish, start

    try:
        done = finish(start(helpers.copy(folder, edits=edits, **SETTINGS), *TWO, *options))
    except subprocess.TimeoutExpired:
        return 'hang'
    return done.stderr.count('(exitcode: -9)')


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument('runs', type=int)
    options.add_argument('--torchrun', action='store_true')
    options.add_argument('--seed', type=int, default=0)
    options = options.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        expected, seconds = whole_run(Path(name))
    if options.torchrun:
        with tempfile.TemporaryDirectory() as name:
            torchrun(Path(name))
            expected = helpers.read_checkpoint(Path(name))

    same, number = 0, options.runs * (2 if options.torchrun else 1)
    for run in range(number):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if options.torchrun:
                timer = TIMER.format(rank=run % 2, seconds=rng.uniform(0, 3 * seconds))
                times = torchrun(folder, '--max-restarts=1', edits=[(RESTARTS, RESTARTS + timer)])
            else:
                times = stopped_run(folder, seconds, rng)
            equal = (folder / helpers.CHECKPOINT).exists() and helpers.equal(
                helpers.read_checkpoint(folder), expected
            )
        same += equal
        print(f'run {run}: stopped {times} times, {"equal" if equal else "DIFFERENT"}', flush=True)
    print(f'{same} of {number} ended bit-equal to the run that was never interrupted')
    return int(same < number)


if __name__ == '__main__':
    sys.exit(main())
