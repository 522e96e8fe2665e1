"""What the page and the exercises tell beyond the default run and the experiments.

    python tests/measure/lessons.py growth        what the model writes after more and more steps
    python tests/measure/lessons.py ladder TEXT   from pure guessing to gpt.py, and the compressors
    python tests/measure/lessons.py exercises     what there is to see in them

growth leaves the trained model as gpt.pt beside gpt.py, for exercises and for pictures.py.
"""

import bz2
import gzip
import json
import lzma
import math
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

import benchmark
import experiments
import measuring

import helpers

GROWTH = [0, 100, 500, 3200]  # steps
PIECES, LENGTH = 20, 1000  # what the model writes to have its words counted


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


def words(text):
    """The words of a text, in lower case, in order."""
    return [word.lower() for word in re.findall(r"[A-Za-z']+", text)]


def exercises():
    """Words that occur in the text, by temperature; a greedy sample; the cache; neighbors."""
    module = helpers.load(helpers.ROOT / 'gpt.py')
    model, known, result = module.load_model(), set(words(module.text)), {'words': {}}
    start = torch.zeros((PIECES, 1), dtype=torch.long, device=module.device)
    for temperature in (0.5, 0.8, 1.0, 1.5):
        pieces = model.generate(start, LENGTH, temperature, torch.Generator().manual_seed(1))
        written = [words(module.decode_list(piece.tolist()))[:-1] for piece in pieces[:, 1:]]
        every = [word for each in written for word in each]
        result['words'][str(temperature)] = sum(word in known for word in every) / len(every)
    module.temperature = 1e-6
    lines = [line for line in module.sample(model, 500).split('\n') if line]
    result['greedy: distinct lines, lines'] = [len(set(lines)), len(lines)]
    vectors = model.token_embedding_table.weight.detach()
    near = torch.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    order = {char: near[module.char_to_index[char]].argsort(descending=True) for char in 'eqT.'}
    result['neighbors'] = {c: [module.chars[i] for i in order[c][1:6]] for c in order}
    for solution in (None, 'key-value-cache'):
        other = benchmark.program(solution, block_size=256, bfloat16=False)
        torch.manual_seed(1)
        model = other.GPTLanguageModel().eval()
        other.sample(model, 20)
        began = time.perf_counter()
        text = other.sample(model, 255)
        rate = 255 / (time.perf_counter() - began)
        result[f'characters per second, {solution or "as it is"}'] = [round(rate), text[:20]]
    return result


def main():
    lesson, *paths = sys.argv[1:] or sys.exit(__doc__)
    if lesson == 'ladder':
        text = Path(*paths).read_text(encoding='utf-8')
        value = {**measuring.read().get('ladder', {}), measuring.name_of(text): ladder(text)}
    else:
        value = {'growth': growth, 'exercises': exercises}[lesson]()
    measuring.write(lesson, value)
    print(json.dumps(value, indent=1, ensure_ascii=False))


if __name__ == '__main__':
    main()
