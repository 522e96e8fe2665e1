"""The best settings we know for a given time on two CPU cores, on both texts.

    python tests/measure/budgets.py TEXT               TEXT: the path of Tiny Shakespeare
    python tests/measure/budgets.py TEXT '10 minutes'  only this budget

Each is one whole process of `python gpt.py` with the settings below.
"""

import sys
from pathlib import Path

import measuring

import helpers

LONGER = dict(block_size=128, n_layer=4)
SHORT = dict(n_embd=96, n_head=1, max_iters=750, learning_rate=8e-3, warmup_iters=50)
HOUR = dict(n_embd=192, n_head=3, dropout=0.2, max_iters=12_000, learning_rate=2e-3)
BUDGETS = {
    '20 seconds': SHORT,
    '2 minutes': {},
    '10 minutes': {**LONGER, 'max_iters': 5000, 'learning_rate': 3e-3},
    '1 hour': {**LONGER, **HOUR},
}


def main():
    path, *names = sys.argv[1:] or sys.exit(__doc__)
    for name in names or BUDGETS:
        for text in (Path(path).read_text(encoding='utf-8'), helpers.INPUT):
            run = measuring.whole_run(text, device='cpu', **BUDGETS[name])
            run = {'settings': BUDGETS[name], **run, 'machine': measuring.machine()}
            del run['lines'], run['sample']
            done = measuring.read().get('budgets', {})
            done.setdefault(name, {})[measuring.name_of(text)] = run
            measuring.write('budgets', done)
            print(name, measuring.name_of(text), run['seconds'], 's, loss', run['loss'], flush=True)


if __name__ == '__main__':
    main()
