"""Random mistakes in the settings, the text and the checkpoint.

    python tests/stress/fuzz_settings.py 300          300 of them
    python tests/stress/fuzz_settings.py 1 --first 7  only number 7

Each has to get one clear line, or a run that is right. A traceback, a run that hangs or a changed
file is printed with its number. The exit code is 0 if there was none.
"""

import argparse
import pickle
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import helpers  # noqa: E402
from helpers import CHECKPOINT, TEXT, Source  # noqa: E402

SMALL = {**helpers.TINY, 'max_iters': 4, 'eval_interval': 2, 'max_new_tokens': 5, 'dropout': 0.1}

# What may stand behind any name, as it is typed.
ANYTHING = """
    0 -1 1 2 3 7 16.0 1e4 0.5 0.999 1.0 -0.1 1e-10 1e308 10**12 2**63 -10**9 10**400 1e999
    1e999-1e999 True False None '' 'x' '16' b'x' 'ü' [] [1] (1,2) {} 1j print""".split()

# What is closer to the point. No value makes a run long.
VALUES = {
    'block_size': '1 2 31 500 10**6',
    'n_embd': '6 33 10**6',
    'n_head': '4 5 32 33 10**6',
    'n_layer': '4',
    'batch_size': '1 33 10**9',
    'max_iters': '5 10',
    'eval_interval': '1 5 10**9',
    'eval_iters': '2',
    'warmup_iters': '0 100 10**9',
    'seed': '10**9 2**31',
    'dropout': '0.99 0',
    'learning_rate': '10 1e-9 0.1 1e9',
    'weight_decay': '10 0',
    'grad_clip': '1e9 1e-9',
    'temperature': '1000 0.01 0 0.0',
    'top_k': '10**9 5 60',
    'max_new_tokens': '50',
    'fast_attention': 'True False',
    'bfloat16': 'True False',
    'resume': 'True True False',
    'prompt': "'the' '\\n' '\\x00' '€' 'the'*50 '\\U0010ffff' 'é' '\\ud800'",
    'device': "'cpuu' 'cuda' 'cuda:99' 'CPU' 'cpu:0' 'meta' 'cuda:-1' 'gpu' 'xpu' 'xla' 5 -1",
    'checkpoint_path': "'.' '..' '/' 'no/gpt.pt' 'input.txt' 'input.txt/a.pt' 'a'*300+'.pt'",
    'text_path': "'.' 'missing.txt' 'a\\x00b' 'a'*300 'gpt.py' 'input.txt/x' '/dev/null'",
}

# No program gets more memory than this. (Linux only.)
LIMIT = """
import resource, sys
if sys.platform == 'linux':
    pages = int(open('/proc/self/statm').read().split()[0])
    limit = pages * resource.getpagesize() + 3 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))"""


def random_settings(rng):
    """One to three settings."""
    names = rng.sample(sorted(VALUES), rng.choice([1, 1, 2, 3]))
    values = [rng.choice([ANYTHING, VALUES[name].split()]) for name in names]
    return {name: Source(rng.choice(some)) for name, some in zip(names, values, strict=True)}


def random_text(rng):
    """The bytes of a text: short, strange, or none."""
    alphabet = [*range(0xD800), *range(0xE000, 0x110000)]
    some = ''.join(map(chr, rng.sample(alphabet, rng.choice([1, 5, 300]))))
    text = ''.join(rng.choices(some, k=rng.choice([1, 20, 160, 170, 1000]))).encode()
    start = TEXT[: rng.randrange(400)].encode()
    windows, utf_16 = TEXT.replace('\n', '\r\n').encode(), TEXT.encode('utf-16')
    noise, zeros = rng.randbytes(rng.choice([1, 300])), bytes(rng.choice([10, 1000]))
    return rng.choice([b'', text, text[:-1], start, windows, utf_16, noise, zeros, text + b'\xfc'])


def random_damage(rng, good):
    """`good`, the bytes of a checkpoint, damaged, or something else in its place."""
    flipped = bytearray(good)
    for _ in range(rng.choice([1, 1, 4, 100])):
        flipped[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
    place = rng.randrange(len(good))
    hole = good[:place] + bytes(len(good[place : place + 1000])) + good[place + 1000 :]
    others = [good, good[:place], good[place:], good + good, b'', pickle.dumps({'step': 2})]
    return rng.choice([bytes(flipped), bytes(flipped), bytes(flipped), hole, *others])


def checkpoints():
    """The bytes of the checkpoint of an unfinished run, and of a finished one."""
    with tempfile.TemporaryDirectory() as name:
        path = helpers.copy(name, **SMALL)
        stop = helpers.kill_at('torch.Tensor.backward', 2, signal.SIGTERM)
        helpers.quick(path, patches=[stop], code=143)
        unfinished = (path.parent / CHECKPOINT).read_bytes()
        helpers.quick(helpers.change(path, resume=True))
        return unfinished, (path.parent / CHECKPOINT).read_bytes()


def complaint(done):
    """What is wrong with the answer of a program, if anything is."""
    lines = done.stderr.splitlines()
    if done.returncode not in (0, 1):
        return f'exit code {done.returncode}'
    if 'Traceback' in done.stderr:
        return f'traceback: {lines[-1][:300]}'
    if len(lines) != done.returncode or not all(line.strip() for line in lines):
        return f'{len(lines)} lines with exit code {done.returncode}'
    return None


def mistake(number, unfinished, finished):
    """Make mistake `number`: what it was, its exit code, and what is wrong with the answer."""
    rng = random.Random(number)
    kind = rng.choice(['settings', 'settings', 'text', 'checkpoint'])
    checkpoint, settings = rng.choice([unfinished, finished]), {}
    if kind == 'settings':
        settings = random_settings(rng)
    elif kind == 'text':
        settings = {'text': random_text(rng)}
    else:
        checkpoint, settings = random_damage(rng, checkpoint), {'resume': rng.random() < 0.7}

    with tempfile.TemporaryDirectory() as name:
        path = helpers.copy(name, **{**SMALL, **settings})
        (path.parent / CHECKPOINT).write_bytes(checkpoint)
        before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
        done = helpers.quick(path, patches=[LIMIT], code=None)
        after = {file.name: file.read_bytes() for file in path.parent.iterdir()}

    wrong = complaint(done)
    if 'learning from' not in done.stdout and after != before:
        wrong = wrong or 'files were changed before the run began'
    elif 'resuming' not in done.stdout and checkpoint not in after.values():
        wrong = wrong or 'the last run is lost'
    elif settings.get('resume') is True and done.returncode == 0:
        ends = [helpers.read_checkpoint(data) for data in (after[CHECKPOINT], finished)]
        if not helpers.equal(*ends):
            wrong = wrong or 'a damaged checkpoint was used'
    return f'{kind}, exit code {done.returncode}', wrong, settings


def main():
    options = argparse.ArgumentParser()
    options.add_argument('count', type=int)
    options.add_argument('--first', type=int, default=0)
    options = options.parse_args()
    saved, counts, bad = checkpoints(), Counter(), 0
    for number in range(options.first, options.first + options.count):
        kind, wrong, settings = mistake(number, *saved)
        counts[kind] += 1
        if wrong:
            bad += 1
            print(f'{number}: {wrong}\n    {kind}: {settings!r:.200}', flush=True)
    for kind, count in sorted(counts.items()):
        print(f'{kind}: {count}')
    print(f'{options.count} mistakes, {bad} of them answered badly')
    return int(bad > 0)


if __name__ == '__main__':
    sys.exit(main())
