"""Kill a run at random instants and go on with it: `python tests/kills.py 10` does so with 10 runs.

Prints how many ended with every tensor of the checkpoint equal, bit for bit, to the run that was never interrupted.
"""
import random
import sys
import tempfile
import time
from pathlib import Path

import mistakes
import program

# Long enough to be killed a few times; evaluations, and with them saves, are as frequent as can be.
SETTINGS = dict(program.TINY, dropout=0.1, max_iters=90, eval_interval=3)


def whole_run(folder):
    """The checkpoint of a run never interrupted, and its seconds from the first save to the end."""
    running = mistakes.Running(program.copy(folder, text=mistakes.TEXT, **SETTINGS))
    running.wait((folder / 'gpt.pt').exists)
    began = time.time()
    running.end()
    return mistakes.load(folder / 'gpt.pt'), time.time() - began


def killed_run(folder, rng, seconds):
    """The checkpoint of a run killed at random and resumed until it is finished, and the number of kills."""
    path, kills = program.copy(folder, text=mistakes.TEXT, **SETTINGS, resume=True), 0
    while True:
        running = mistakes.Running(path)
        running.wait(lambda: 'step ' in running.output())  # it has saved, or gone on
        time.sleep(rng.uniform(0, seconds / 2 if kills < 20 else 60))
        running.process.kill()
        if running.end(None).returncode == 0:
            return mistakes.load(folder / 'gpt.pt'), kills
        kills += 1


def main(count, seed=0):
    """Do it `count` times; returns how many runs ended otherwise than the one never interrupted."""
    rng, same, kills = random.Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        expected, seconds = whole_run(Path(folder))
    for number in range(count):
        with tempfile.TemporaryDirectory() as folder:
            state, times = killed_run(Path(folder), rng, seconds)
        same, kills = same + mistakes.equal(state, expected), kills + times
        print(f'run {number}: killed {times} times', flush=True)
    print(f'{count} runs, {kills} kills: {same} ended bit-equal to the run never interrupted')
    return count - same


if __name__ == '__main__':
    sys.exit(main(*map(int, sys.argv[1:])) > 0 if sys.argv[1:] else __doc__)
