"""Whole runs of gpt.py: the default, in turns with nanoGPT's recipe for a CPU, and by budget.

    git clone https://github.com/karpathy/nanoGPT
    (cd nanoGPT && python data/shakespeare_char/prepare.py)
    python tests/measure/whole_runs.py nanoGPT               the default, three runs of each kind
    python tests/measure/whole_runs.py nanoGPT '10 minutes'  the best settings for this budget

On Tiny Shakespeare (the text that nanoGPT downloads) and on input.txt. Of three runs, the one with
the median time goes into results.json.
"""

import functools
import sys
from pathlib import Path

import numpy as np

import measuring

# The README of nanoGPT: "I only have a macbook". (log_interval only prints less.)
RECIPE = (
    'config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 '
    '--log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 '
    '--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0 --dtype=float32'
)
SHORT = dict(n_embd=96, n_head=1, max_iters=750, learning_rate=8e-3, warmup_iters=50)
HOUR = dict(n_embd=192, n_head=3, dropout=0.2, max_iters=12_000, learning_rate=2e-3)
BUDGETS = {  # for two CPU cores
    '20 seconds': SHORT,
    '2 minutes': {},
    '10 minutes': dict(block_size=128, n_layer=4, max_iters=5000, learning_rate=3e-3),
    '1 hour': dict(block_size=128, n_layer=4, **HOUR),
}


def nanogpt(folder):
    """One run of nanoGPT's recipe, in 32 bits. (On a CPU, its autocast does nothing by default.)"""
    lines, seconds = measuring.watch([sys.executable, '-u', 'train.py', *RECIPE.split()], folder)
    rows = measuring.curve(lines)
    return {'seconds': round(seconds, 1), 'curve': rows, 'loss': rows[-1][3]}


def median_run(runs):
    """The run with the median time, with the seconds and losses of all of them."""
    middle = sorted(runs, key=lambda run: run['seconds'])[(len(runs) - 1) // 2]
    return middle | {f'all_{key}': [run[key] for run in runs] for key in ('seconds', 'loss')}


def default(folder, texts):
    """Three runs of each kind, in turns, and when each crosses the final loss of nanoGPT."""
    kinds = {'nanoGPT, 32 bits': functools.partial(nanogpt, folder)}
    for name, text in texts.items():
        for bits in (32, 16):
            run = functools.partial(measuring.whole_run, text, device='cpu', bfloat16=bits == 16)
            kinds[f'{name}, {bits} bits'] = run
    turns = [{kind: run() for kind, run in kinds.items()} for _ in range(3)]
    results = {kind: median_run([turn[kind] for turn in turns]) for kind in kinds}
    level = results['nanoGPT, 32 bits']['loss']
    for run in results.values():
        seconds, _, _, losses = np.array(run['curve']).T
        reached = float(np.interp(-level, -losses, seconds))
        run['seconds to the final loss of nanoGPT'] = round(reached, 1)
    results['recipe'] = f'python train.py {RECIPE}'
    measuring.write('default', {**results, 'machine': measuring.machine()})


def budget(name, texts):
    for text in texts:
        run = measuring.whole_run(texts[text], device='cpu', **BUDGETS[name])
        run |= {'settings': BUDGETS[name], 'machine': measuring.machine()}
        done = measuring.read().get('budgets', {})
        done.setdefault(name, {})[text] = {k: run[k] for k in run if k not in ('lines', 'sample')}
        measuring.write('budgets', done)
        print(name, text, run['seconds'], 's, loss', run['loss'], flush=True)


def main():
    nano, *budgets = sys.argv[1:] or sys.exit(__doc__)
    texts = measuring.texts(nano)
    for name in budgets:
        budget(name, texts)
    if not budgets:
        default(Path(nano).resolve(), texts)


if __name__ == '__main__':
    main()
