"""Measure `python gpt.py` as it stands, in turns with nanoGPT's recipe for a CPU.

    git clone https://github.com/karpathy/nanoGPT
    (cd nanoGPT && python data/shakespeare_char/prepare.py)
    python tests/measure/default_run.py nanoGPT

On Tiny Shakespeare (the text that nanoGPT downloads) and on input.txt, in 32 and in 16 bits, three
times each, in turns, as whole processes. The run with the median time goes into results.json.
"""

import functools
import sys
from pathlib import Path

import numpy as np

import measuring

import helpers

# The README of nanoGPT: "I only have a macbook". (log_interval only prints less.)
RECIPE = (
    'config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 '
    '--log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 '
    '--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0'
)


def nanogpt(folder):
    """One run of nanoGPT's recipe, in 32 bits. (On a CPU, its autocast does nothing by default.)"""
    command = [sys.executable, '-u', 'train.py', *RECIPE.split(), '--dtype=float32']
    lines, seconds = measuring.watch(command, cwd=folder)
    rows = measuring.curve(lines)
    return {'seconds': round(seconds, 1), 'curve': rows, 'loss': rows[-1][3]}


def main():
    folder = Path(*sys.argv[1:2] or sys.exit(__doc__)).resolve()
    shakespeare = (folder / 'data' / 'shakespeare_char' / 'input.txt').read_text(encoding='utf-8')
    kinds = {'nanoGPT, 32 bits': functools.partial(nanogpt, folder)}
    for text in (shakespeare, helpers.INPUT):
        for bits in (32, 16):
            run = functools.partial(measuring.whole_run, text, device='cpu', bfloat16=bits == 16)
            kinds[f'{measuring.name_of(text)}, {bits} bits'] = run
    runs = {kind: [] for kind in kinds}
    for _ in range(3):
        for kind, run in kinds.items():
            runs[kind].append(run())
            print(kind, runs[kind][-1]['seconds'], 's, loss', runs[kind][-1]['loss'], flush=True)
    results = {kind: measuring.median_run(each) for kind, each in runs.items()}
    level = results['nanoGPT, 32 bits']['loss']
    for run in results.values():
        seconds, _, _, losses = np.array(run['curve']).T
        reached = float(np.interp(-level, -losses, seconds))
        run['seconds to the final loss of nanoGPT'] = round(reached, 1)
    results['recipe'] = f'python train.py {RECIPE} --dtype=float32'
    measuring.write('default', {**results, 'machine': measuring.machine()})


if __name__ == '__main__':
    main()
