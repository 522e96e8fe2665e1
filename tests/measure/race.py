"""gpt.py against nanoGPT's recipe for a CPU, on Tiny Shakespeare: loss against seconds.

    git clone https://github.com/karpathy/nanoGPT
    (cd nanoGPT && python data/shakespeare_char/prepare.py)
    python tests/measure/race.py nanoGPT

Both run three times, in turns, as whole processes. Of each, the run with the median time goes into
results.json. The text is the one that nanoGPT has downloaded.
"""

import sys
import tempfile
from pathlib import Path

import default_run
import results

import helpers

# The README of nanoGPT: "I only have a macbook". (log_interval only prints less.)
RECIPE = (
    'config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 '
    '--log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 '
    '--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0'
)


def first_time_below(rows, level):
    """Seconds until the validation loss is at `level`, on a straight line between evaluations."""
    for (t0, _, _, a), (t1, _, _, b) in zip(rows, rows[1:], strict=False):
        if b <= level:
            return t0 + (t1 - t0) * (a - level) / (a - b)
    return None


def run_nanogpt(folder):
    """One run of nanoGPT's recipe: {'seconds', 'curve'}."""
    command = [sys.executable, '-u', 'train.py', *RECIPE.split()]
    lines, seconds = default_run.watch(command, cwd=folder)
    return {'seconds': round(seconds, 1), 'curve': default_run.curve(lines)}


def run_gpt(text):
    """One run of gpt.py as it stands: {'seconds', 'curve'}."""
    with tempfile.TemporaryDirectory() as folder:
        path = helpers.copy(folder, text=text)
        lines, seconds = default_run.watch([sys.executable, str(path)])
    return {'seconds': round(seconds, 1), 'curve': default_run.curve(lines)}


def main():
    folder = Path(*sys.argv[1:2] or sys.exit(__doc__)).resolve()
    text = (folder / 'data' / 'shakespeare_char' / 'input.txt').read_bytes()
    runs = {'nanoGPT': [], 'gpt.py': []}
    for _ in range(3):
        runs['nanoGPT'].append(run_nanogpt(folder))
        runs['gpt.py'].append(run_gpt(text))
        print({name: each[-1]['seconds'] for name, each in runs.items()}, flush=True)
    race = {'command': f'python train.py {RECIPE}', 'machine': results.machine()}
    for name, each in runs.items():
        each.sort(key=lambda run: run['seconds'])
        race[name] = {**each[1], 'all_seconds': [run['seconds'] for run in each]}
    level = race['nanoGPT']['curve'][-1][3]
    race['seconds to its final loss'] = {
        name: round(first_time_below(race[name]['curve'], level), 1) for name in runs
    }
    results.write('race', race)
    print(race['seconds to its final loss'])


if __name__ == '__main__':
    main()
