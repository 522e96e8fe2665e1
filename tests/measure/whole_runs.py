"""Whole runs, on Tiny Shakespeare (the text that nanoGPT downloads) and on input.txt.

    git clone https://github.com/karpathy/nanoGPT
    (cd nanoGPT && python data/shakespeare_char/prepare.py)
    python tests/measure/whole_runs.py nanoGPT default  in turns with nanoGPT's recipe for a CPU
    python tests/measure/whole_runs.py nanoGPT '1 hour'  the best settings for this budget
    python tests/measure/whole_runs.py nanoGPT growth   what the model writes after more steps
    python tests/measure/whole_runs.py nanoGPT ladder   simpler predictors, and compressors

growth leaves the trained model as gpt.pt beside gpt.py, for exercises and for pictures.py.
"""

import bz2
import functools
import gzip
import itertools
import lzma
import math
import re
import shutil
import sys
import tempfile

import numpy as np

import experiments
import measuring

import helpers

# The README of nanoGPT: "I only have a macbook". (log_interval only prints less.)
RECIPE = (
    'config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 '
    '--log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 '
    '--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0 --dtype=float32'
)
HOUR = dict(n_embd=192, n_head=3, dropout=0.2, max_iters=12_000, learning_rate=2e-3)
BUDGETS = {  # for two CPU cores
    '20 seconds': dict(n_embd=96, n_head=1, max_iters=750, learning_rate=8e-3, warmup_iters=50),
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


def default(texts, nano):
    """Three runs of each kind, in turns, and when each crosses the final loss of nanoGPT."""
    kinds = {'nanoGPT, 32 bits': functools.partial(nanogpt, nano)}
    for name, bits in itertools.product(texts, (32, 16)):
        run, settings = measuring.whole_run, {'device': 'cpu', 'bfloat16': bits == 16}
        kinds[f'{name}, {bits} bits'] = functools.partial(run, texts[name], **settings)
    turns = [{kind: run() for kind, run in kinds.items()} for _ in range(3)]
    results = {kind: median_run([turn[kind] for turn in turns]) for kind in kinds}
    level = results['nanoGPT, 32 bits']['loss']
    for run in results.values():
        seconds, _, _, losses = np.array(run['curve']).T
        run['seconds to nanoGPT'] = round(float(np.interp(-level, -losses, seconds)), 1)
    results['recipe'] = f'python train.py {RECIPE}'
    measuring.write('default', {**results, 'machine': measuring.machine()})


def budget(name, texts, nano):
    for text in texts:
        run = measuring.whole_run(texts[text], device='cpu', **BUDGETS[name])
        run |= {'settings': BUDGETS[name], 'machine': measuring.machine()}
        done = measuring.read().get('budgets', {})
        done.setdefault(name, {})[text] = {k: run[k] for k in run if k not in ('lines', 'sample')}
        measuring.write('budgets', done)
        print(name, text, run['seconds'], 's, loss', run['loss'], flush=True)


def growth(texts, nano):
    """{step: what the model writes then}, 200 characters."""
    with tempfile.TemporaryDirectory() as folder:
        longer = ('sample(model, 60)', 'sample(model, 200)')
        settings = {'device': 'cpu', 'eval_interval': 100}
        path = helpers.copy(folder, text=texts['input.txt'], edits=[longer], **settings)
        lines, _ = measuring.watch([sys.executable, str(path)])
        shutil.copy(path.with_name('gpt.pt'), helpers.ROOT)
    output = '\n'.join(line for _, line in lines)
    written = dict(re.findall(r'^step (\d+): .*\n    (.*)', output, re.M))
    measuring.write('growth', {step: written[step] for step in ('0', '100', '500', '3200')})


def compressors(text):
    """{name: nats per character}: what the validation text adds to the compressed training text."""
    n = int(0.9 * len(text))
    train, whole = text[:n].encode(), text.encode()
    functions = {'gzip': gzip.compress, 'bzip2': bz2.compress}  # both at their strongest
    functions['xz'] = lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    added = {name: len(pack(whole)) - len(pack(train)) for name, pack in functions.items()}
    return {name: 8 * size * math.log(2) / (len(text) - n) for name, size in added.items()}


def simpler(text):
    """{name: nats per character} on the validation text."""
    with tempfile.TemporaryDirectory() as folder:
        path = helpers.copy(folder, 'bigram.py', text=text, device='cpu')
        experiments.apply_solution('trigrams', folder)
        lines, seconds = measuring.watch([sys.executable, str(path)])
    output = '\n'.join(line for _, line in lines)
    rows = re.findall(r'^([a-z ]+?) {2,}\d\.\d+ +(\d\.\d+)$', output, re.M)
    losses = {name: float(loss) for name, loss in rows}
    losses['counted trigram'] = float(re.search('trigram, validation: (.*)', output)[1])
    return {**losses, **compressors(text), 'seconds of bigram.py': round(seconds, 1)}


def ladder(texts, nano):
    measuring.write('ladder', {name: simpler(text) for name, text in texts.items()})


def main():
    nano, *names = sys.argv[1:] or sys.exit(__doc__)
    for name in names:
        run = {'default': default, 'growth': growth, 'ladder': ladder}.get(name)
        run = run or functools.partial(budget, name)
        run(measuring.texts(nano), nano)


if __name__ == '__main__':
    main()
