"""Measure `python gpt.py` as it stands, from the start of the process to the end of the sample.

    python tests/measure/default_run.py                     on input.txt, once
    python tests/measure/default_run.py TEXT --repeat 3     on another text, three times
    python tests/measure/default_run.py --float32           with bfloat16 = False

Prints the seconds, and the loss over the whole validation text. The run with the median time is
saved in results.json.
"""

import argparse
import math
import re
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import torch

import results

import helpers

TINY_SHAKESPEARE_CRC32 = 0xDF613551
PIECES, LENGTH = 20, 1000  # what the model writes to have its words counted


@torch.no_grad()
def whole_loss(module, model):
    """The loss over the whole validation text, in nats per character.

    The windows of block_size do not overlap, and none is left out (the last one is shorter).
    """
    data, size = module.val_data, module.block_size
    x, y = data[:-1], data[1:]
    whole = len(x) // size * size
    xs, ys = x[:whole].view(-1, size).split(64), y[:whole].view(-1, size).split(64)
    batches = list(zip(xs, ys, strict=True))
    if whole < len(x):
        batches.append((x[None, whole:], y[None, whole:]))
    model.eval()
    total = sum(model(x, y)[1].item() * y.numel() for x, y in batches)
    return total / len(x)


def watch(command, cwd=None, **env):
    """Run a command to its end: [(seconds since its start, line)], and the seconds in all."""
    began = time.perf_counter()
    env = helpers.environment(**env)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=cwd, env=env)
    lines = [
        (time.perf_counter() - began, line.decode('utf-8').rstrip('\n')) for line in process.stdout
    ]
    if process.wait() != 0:
        raise RuntimeError(f'{command} ended with code {process.returncode}')
    return lines, time.perf_counter() - began


def curve(lines):
    """[[seconds, step, train loss, val loss]] of the evaluations among lines of output."""
    rows = []
    for seconds, line in lines:
        found = re.match(r'step (\d+): train loss ([\d.]+), val loss ([\d.]+)', line)
        if found:
            rows.append([round(seconds, 1), int(found[1]), float(found[2]), float(found[3])])
    return rows


def words(text):
    """The words of a text, in lower case, in order."""
    return [word.lower() for word in re.findall(r"[A-Za-z']+", text)]


def written_words(module, model):
    """The words in PIECES times LENGTH characters that the model writes. No cut ones."""
    start = torch.zeros((PIECES, 1), dtype=torch.long)
    generator = torch.Generator().manual_seed(module.seed)
    temperature = module.temperature
    pieces = model.generate(start, LENGTH, temperature, module.top_k, generator)[:, 1:]
    texts = [module.decode_list(piece.tolist()) for piece in pieces]
    return [word for text in texts for word in words(text)[:-1]]


def share_of(written, known):
    """The share of the words `written` that are among the words `known`."""
    known = set(known)
    return sum(word in known for word in written) / len(written)


def measure(text, edits=(), **settings):
    """One run of gpt.py on `text` (bytes), with some settings changed."""
    with tempfile.TemporaryDirectory() as folder:
        path = helpers.copy(folder, text=text, edits=edits, **settings)
        lines, seconds = watch([sys.executable, str(path)])
        module = helpers.load(path)
        model = module.load_model()
        loss = whole_loss(module, model)
        rows = curve(lines)
        best = min(rows, key=lambda row: row[3])
        return {
            'seconds': round(seconds, 1),
            'steps': module.max_iters,
            'bfloat16': module.bfloat16,
            'parameters': sum(p.numel() for p in model.parameters()),
            'loss': loss,
            'bits': loss / math.log(2),
            'best_step': best[1],
            'curve': rows,
            'words': share_of(written_words(module, model), words(module.text)),
            'output': [line for _, line in lines],
        }


def name_of(path, text):
    """What results.json calls a text."""
    if text == (helpers.ROOT / 'input.txt').read_bytes():
        return 'input.txt'
    if zlib.crc32(text) == TINY_SHAKESPEARE_CRC32:
        return 'Tiny Shakespeare'
    return path.name


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('text', nargs='?', type=Path, default=helpers.ROOT / 'input.txt')
    parser.add_argument('--repeat', type=int, default=1, metavar='N')
    parser.add_argument('--float32', action='store_true', help='with bfloat16 = False')
    options = parser.parse_args()
    text = options.text.read_bytes()
    settings = {'bfloat16': False} if options.float32 else {}

    runs = []
    for _ in range(options.repeat):
        runs.append(measure(text, **settings))
        print(f'{runs[-1]["seconds"]} s, loss {runs[-1]["loss"]:.4f}', flush=True)
    runs.sort(key=lambda run: run['seconds'])
    median = runs[(len(runs) - 1) // 2]
    median['all_seconds'] = [run['seconds'] for run in runs]
    median['machine'] = results.machine()
    name = name_of(options.text, text) + (', float32' if options.float32 else '')
    results.write('default', {**results.read().get('default', {}), name: median})


if __name__ == '__main__':
    main()
