"""Measure the default run of gpt.py, and what gzip, bzip2 and xz make of the same text; save it in results.json.

    python tests/measure.py [TEXT] [--repeat N]

TEXT is put in the place of input.txt (default: the project's own). Of N runs the one with the median time counts; with
--repeat 0 only the compressors are measured.
"""
import argparse
import bz2
import gzip
import json
import lzma
import math
import re
import tempfile
import time
import zlib
from pathlib import Path

import torch

import program
import results

TINY_SHAKESPEARE_CRC32 = 0xdf613551
PIECES, LENGTH = 20, 1000  # what the model writes for its words to be counted


@torch.no_grad()
def whole_loss(module, model):
    """The loss over the whole validation text, in nats per character: non-overlapping windows of block_size, all of
    them (the last is shorter), so that each character but the first is predicted once."""
    data, size = module.val_data.long(), module.block_size
    x, y = data[:-1], data[1:]
    whole = len(x) // size * size
    batches = list(zip(x[:whole].view(-1, size).split(64), y[:whole].view(-1, size).split(64)))
    if whole < len(x):
        batches.append((x[None, whole:], y[None, whole:]))
    model.eval()
    return sum(model(x, y)[1].item() * y.numel() for x, y in batches) / len(x)


def curve(output):
    """The lines `step N: train loss X, val loss Y` of a run's output, as [[N, X, Y], ...]."""
    lines = re.findall(r'^step (\d+): train loss (\S+), val loss (\S+)$', output, flags=re.MULTILINE)
    return [[int(step), float(train), float(val)] for step, train, val in lines]


def words(text):
    """The words of `text`, in lower case, in order."""
    return [word.lower() for word in re.findall(r"[A-Za-z']+", text)]


def write_pieces(module, model):
    """PIECES pieces of LENGTH characters that the model writes side by side, each without its last, cut word."""
    start = torch.zeros(PIECES, 1, dtype=torch.long, device=module.device)
    generator = torch.Generator(module.device).manual_seed(module.seed)
    rows = model.generate(start, LENGTH, module.temperature, module.top_k, generator)[:, 1:].tolist()
    return [re.sub(r"[A-Za-z']+$", '', module.decode_list(row)) for row in rows]


def share(written, known):
    """The share of the words `written` that are among `known`, or None if there are none."""
    known = set(known)
    return sum(word in known for word in written) / len(written) if written else None


def measure(text, **settings):
    """One run of gpt.py on `text` (bytes), the settings changed if any are given: what section 'default' holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = program.copy(folder, text=text, **settings)
        began = time.perf_counter()
        output = program.run(path, timeout=None).stdout
        seconds = time.perf_counter() - began
        module = program.load(path)
        model = module.load_model()
        loss = whole_loss(module, model)
        written = [word for piece in write_pieces(module, model) for word in words(piece)]
        return {
            'seconds': round(seconds, 1), 'device': str(module.device), 'threads': torch.get_num_threads(),
            'characters': len(module.text), 'alphabet': module.vocab_size,
            'parameters': sum(parameter.numel() for parameter in model.parameters()), 'steps': module.max_iters,
            'loss': loss, 'bits': loss / math.log(2), 'curve': curve(output),
            'training_seconds': int(re.search(r'^best val loss .*, (\d+) seconds$', output, flags=re.MULTILINE)[1]),
            'best_step': int(re.search(r'^best val loss \S+ at step (\d+)', output, flags=re.MULTILINE)[1]),
            'words': share(written, words(module.text)),
            'words_in_training': share(written, words(module.text[:len(module.train_data)])),
            'sample': module.sample(model, 500)}


def compressors(text):
    """{name: {'bits', 'nats', 'bytes'}} of gzip -9, bzip2 -9 and xz -9e on the validation part of `text` (bytes): what
    it adds to the size of the compressed training part, per character ('bytes': in all)."""
    decoded = text.decode('utf-8').removeprefix('\ufeff').replace('\r\n', '\n')
    split = int(0.9 * len(decoded))
    train, whole, count = decoded[:split].encode(), decoded.encode(), len(decoded) - split
    functions = {'gzip': lambda data: gzip.compress(data, 9), 'bzip2': lambda data: bz2.compress(data, 9),
                 'xz': lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)}
    added = {name: len(compress(whole)) - len(compress(train)) for name, compress in functions.items()}
    return {name: {'bytes': size, 'bits': size * 8 / count, 'nats': size * 8 / count * math.log(2)}
            for name, size in added.items()}


def text_name(path, text):
    """What results.json calls the text: 'input.txt' is the project's own and no other."""
    if text == (program.ROOT / 'input.txt').read_bytes():
        return 'input.txt'
    if zlib.crc32(text) == TINY_SHAKESPEARE_CRC32:
        return 'tiny shakespeare'
    return f'{path.name} ({zlib.crc32(text):08x})'


def save(section, name, value):
    """Put `value` under `name` in a section of results.json."""
    results.write(section, {**results.read().get(section, {}), name: value})


def main(arguments=None, **settings):
    """The command line. `settings` change gpt.py (for tests)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('text', nargs='?', type=Path, default=program.ROOT / 'input.txt')
    parser.add_argument('--repeat', type=int, default=1, metavar='N')
    options = parser.parse_args(arguments)
    text = options.text.read_bytes()
    name = text_name(options.text, text)
    save('compressors', name, compressors(text))
    print(json.dumps({name: results.read()['compressors'][name]}, indent=1))
    if options.repeat > 0:
        runs = sorted((measure(text, **settings) for _ in range(options.repeat)), key=lambda run: run['seconds'])
        middle = runs[(len(runs) - 1) // 2]
        save('default', name, {**middle, 'all_seconds': [run['seconds'] for run in runs]})
        print(json.dumps({name: results.read()['default'][name]}, indent=1))


if __name__ == '__main__':
    main()
