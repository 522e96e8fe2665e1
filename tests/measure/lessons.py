"""Measure what the page tells beyond the default run and the experiments, into results.json.

    python tests/measure/lessons.py growth
    python tests/measure/lessons.py ladder TEXT     TEXT: once input.txt, once Tiny Shakespeare
    python tests/measure/lessons.py quick TEXT
    python tests/measure/lessons.py exercises

growth: what the model writes after more and more steps. ladder: from knowing nothing to the GPT, by
way of the compressors. quick: the setting of four lines. exercises: what there is to see in them.
"""

import bz2
import functools
import gzip
import lzma
import math
import re
import sys
import tempfile
import time
from pathlib import Path

import torch

import default_run
import results

import helpers

GROWTH = [0, 100, 300, 1000, 2000]  # steps; the last one of the run comes after these
QUICK = {'n_embd': 96, 'max_iters': 620, 'learning_rate': 8e-3, 'warmup_iters': 50}

# Keep the keys and values of earlier characters while sampling, so that each new character is all
# that still has to go through the model.
CACHE = [
    ('    T, head_size = q.shape[-2:]\n', '    T, head_size = q.shape[-2:]\n    S = k.shape[-2]\n'),
    ('torch.ones(T, T, dtype', 'torch.ones(T, S, dtype'),
    ('.triu(diagonal=1)', '.triu(diagonal=1 + S - T)'),
    (
        '        return attention(q, k, v, self.training)',
        '        if kept is not None:\n'
        '            if self in kept:\n'
        '                k = torch.cat((kept[self][0], k), dim=-2)\n'
        '                v = torch.cat((kept[self][1], v), dim=-2)\n'
        '            kept[self] = (k, v)\n'
        '        return attention(q, k, v, self.training)',
    ),
    ('\n\nclass Head(nn.Module):', '\n\nkept = None\n\n\nclass Head(nn.Module):'),
    (
        'self.position_embedding_table(torch.arange(T, device=idx.device))',
        'self.position_embedding_table(self.first + torch.arange(T, device=idx.device))',
    ),
    ('        self.ln_f = nn', '        self.first = 0\n        self.ln_f = nn'),
    (
        '        for _ in range(max_new_tokens):\n',
        '        global kept\n'
        '        kept, self.first, done = {}, 0, 0\n'
        '        for _ in range(max_new_tokens):\n',
    ),
    (
        '            logits, _ = self(idx[:, -block_size:])\n',
        '            self.first = done\n'
        '            logits, _ = self(idx[:, done:])\n'
        '            done = idx.shape[1]\n',
    ),
    ('        return idx\n', '        kept, self.first = None, 0\n        return idx\n'),
]


@functools.cache
def trained():
    """The default run, with an evaluation every 100 steps: (the module, its lines of output)."""
    folder = tempfile.mkdtemp()
    text = (helpers.ROOT / 'input.txt').read_bytes()
    path = helpers.copy(folder, text=text, device='cpu', eval_interval=100)
    lines, _ = default_run.watch([sys.executable, str(path)])
    return helpers.load(path), [line for _, line in lines]


def growth():
    """[[steps, what the model writes then]]"""
    lines = trained()[1]
    rows = {}
    for line, following in zip(lines, lines[1:], strict=False):
        if line.startswith('step '):
            rows[int(line.split()[1].rstrip(':'))] = following.strip()
    return [[step, rows[step]] for step in [*GROWTH, max(rows)]]


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
    """{name: nats per character} on the validation text, from the worst to the best."""
    with tempfile.TemporaryDirectory() as folder:
        path = helpers.copy(folder, 'bigram.py', text=text, device='cpu')
        lines, seconds = default_run.watch([sys.executable, str(path)])
    output = '\n'.join(line for _, line in lines)
    rows = re.findall(r'^([a-z ]+?) {2,}\d\.\d+ +(\d\.\d+)$', output, re.M)
    losses = {name: float(loss) for name, loss in rows}
    return {
        'losses': {**losses, **compressors(text)},
        'bigram seconds': round(seconds, 1),
    }


def quick(text):
    """The setting of four lines: the median of three runs."""
    runs = [default_run.measure(text.encode(), **QUICK) for _ in range(3)]
    runs.sort(key=lambda run: run['seconds'])
    wanted = ('seconds', 'loss', 'words', 'curve', 'parameters')
    kept = {name: runs[1][name] for name in wanted}
    return {'settings': QUICK, 'all_seconds': [run['seconds'] for run in runs], **kept}


def trigram_loss(module):
    """Mean -ln P(next | the two before), counted on the training text, 1 added to each count."""
    size = module.vocab_size

    def triples(part):
        return (part[:-2] * size + part[1:-1]) * size + part[2:]

    counts = torch.bincount(triples(module.train_data), minlength=size**3).double() + 1
    counts = counts.view(-1, size)
    logs = (counts / counts.sum(dim=-1, keepdim=True)).log().flatten()
    return -logs[triples(module.val_data)].mean().item()


def sampling_speed(edits):
    """Characters per second from an empty text to a full context of 256, and the characters."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {'device': 'cpu', 'block_size': 256, 'bfloat16': False}
        module = helpers.load(helpers.copy(folder, text=helpers.INPUT, edits=edits, **settings))
        torch.manual_seed(1)
        model = module.GPTLanguageModel().eval()
        torch.nn.init.normal_(model.lm_head.weight)  # so that one character is clearly likeliest
        start = torch.zeros((1, 1), dtype=torch.long)
        model.generate(start, 20)
        began = time.perf_counter()
        idx = model.generate(start, 255, temperature=0)
        return 255 / (time.perf_counter() - began), idx.tolist()


def exercises():
    """What there is to see in the exercises that the experiments do not show."""
    module = trained()[0]
    model = module.load_model()
    shares = {}
    known = default_run.words(module.text)
    for temperature in (0.5, 0.8, 1.0, 1.5):
        module.temperature = temperature
        written = default_run.written_words(module, model)
        shares[str(temperature)] = default_run.share_of(written, known)
    module.temperature = 0
    lines = [line for line in module.sample(model, 1000).split('\n') if line]
    plain, expected = sampling_speed([])
    cached, found = sampling_speed(CACHE)
    assert found == expected
    return {
        'words': shares,
        'greedy lines': [len(set(lines)), len(lines)],
        'trigram': trigram_loss(module),
        'whole loss': default_run.whole_loss(module, model),
        'characters per second': {'as it is': plain, 'with kept keys and values': cached},
    }


def main():
    lesson, *paths = sys.argv[1:] or sys.exit(__doc__)
    path = Path(*paths or [helpers.ROOT / 'input.txt'])
    text = path.read_text(encoding='utf-8')
    if lesson == 'ladder':
        name = default_run.name_of(path, path.read_bytes())
        value = {**results.read().get('ladder', {}), name: ladder(text)}
    else:
        functions = {'growth': growth, 'quick': lambda: quick(text), 'exercises': exercises}
        value = functions[lesson]()
    results.write(lesson, value)
    print(lesson, value)


if __name__ == '__main__':
    main()
