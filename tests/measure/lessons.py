"""What the page tells beyond the default run and the experiments.

    python tests/measure/lessons.py           what the model writes after more and more steps
    python tests/measure/lessons.py nanoGPT   simpler predictors and compressors, on both texts

The first leaves the trained model as gpt.pt beside gpt.py, for exercises and for pictures.py.
"""

import bz2
import gzip
import lzma
import math
import re
import shutil
import sys
import tempfile

import experiments
import measuring

import helpers

GROWTH = [0, 100, 500, 3200]  # steps


def growth():
    """{step: what the model writes then}, 200 characters."""
    with tempfile.TemporaryDirectory() as folder:
        longer = ('sample(model, 60)', 'sample(model, 200)')
        settings = {'device': 'cpu', 'eval_interval': 100}
        path = helpers.copy(folder, text=helpers.INPUT, edits=[longer], **settings)
        lines, _ = measuring.watch([sys.executable, str(path)])
        shutil.copy(path.with_name('gpt.pt'), helpers.ROOT)
    written = {}
    for (_, line), (_, following) in zip(lines, lines[1:]):
        if line.startswith('step '):
            written[line.split()[1].rstrip(':')] = following.strip()
    return {str(step): written[str(step)] for step in GROWTH}


def compressors(text):
    """{name: nats per character}: what the validation text adds to the compressed training text."""
    n = int(0.9 * len(text))
    train, whole = text[:n].encode(), text.encode()
    functions = {
        'gzip': lambda data: gzip.compress(data, 9),
        'bzip2': lambda data: bz2.compress(data, 9),
        'xz': lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    added = {name: len(pack(whole)) - len(pack(train)) for name, pack in functions.items()}
    return {name: 8 * size * math.log(2) / (len(text) - n) for name, size in added.items()}


def ladder(text):
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


def main():
    if sys.argv[1:]:
        texts = measuring.texts(sys.argv[1])
        measuring.write('ladder', {name: ladder(text) for name, text in texts.items()})
    else:
        measuring.write('growth', growth())


if __name__ == '__main__':
    main()
