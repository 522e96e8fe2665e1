"""Mistakes that a user may make: `python tests/mistakes.py 300` makes 300 at random and prints those badly answered.

Each has to get one clear line and exit code 1 or 2, or a correct run; never a traceback, never a hang. The programs run
in processes forked from one that has imported torch once (where there is no fork, each process imports it again).
"""
import multiprocessing
import os
import pickle
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

import program

TEXT = (program.ROOT / 'input.txt').read_bytes()[:20000].decode()
FORK = 'forkserver' in multiprocessing.get_all_start_methods()
context = multiprocessing.get_context('forkserver' if FORK else 'spawn')
if FORK:  # torch._dynamo: the optimizer imports it, and it takes seconds
    context.set_forkserver_preload(['torch', 'torch._dynamo', 'tqdm', 'program', *{'pytest'} & sys.modules.keys()])


class Source(str):
    """A value at the top of the file as the user types it."""
    __repr__ = str.__str__


# ---- Running the program in a forked process ----
def child(path, arguments, patches, folder):
    """What `python path arguments` does, after the statements in `patches`; output into `folder`."""
    import torch
    import tqdm
    torch.set_num_threads(1)
    tqdm.tqdm.set_lock(threading.RLock())  # its own lock, a semaphore, outlives a process that is killed
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(os.open(f'{folder}/{name}', os.O_WRONLY | os.O_CREAT), number)
        errors = 'strict' if number == 1 else 'backslashreplace'
        setattr(sys, name, open(number, 'w', encoding='utf-8', errors=errors, buffering=1, closefd=False))
    sys.argv[1:], code = arguments, 0
    try:
        for patch in patches:
            exec(patch, {})
        runpy.run_path(str(path), run_name='__main__')
    except SystemExit as error:
        code = error.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


class Running:
    """The program at `path`, running."""
    def __init__(self, path, *arguments, patches=()):
        self.folder = Path(tempfile.mkdtemp())
        self.process = context.Process(target=child, args=(path, arguments, patches, self.folder), daemon=True)
        self.process.start()

    def output(self, name='stdout'):
        path = self.folder / name
        return path.read_bytes().decode('utf-8', 'backslashreplace') if path.exists() else ''

    def wait(self, condition, timeout=60):
        """Until condition() is true or the program has ended."""
        end = time.time() + timeout
        while not condition() and self.process.is_alive():
            assert time.time() < end, self.output()
            time.sleep(0.002)

    def end(self, code=0, timeout=60):
        """Wait for its end. The exit code has to be `code` (None: any); -1 signal numbers, 'hang' after the timeout."""
        self.process.join(timeout)
        returncode = 'hang' if self.process.is_alive() else self.process.exitcode
        self.process.kill()
        self.process.join()
        done = subprocess.CompletedProcess([], returncode, self.output(), self.output('stderr'))
        shutil.rmtree(self.folder)
        assert code is None or returncode == code, (returncode, done.stdout, done.stderr)
        return done


def run(path, *arguments, patches=(), code=0, timeout=60):
    """What program.run does, in a forked process."""
    return Running(path, *arguments, patches=patches).end(code, timeout)


def call_patch(name, number, action):
    """A patch for `child`: the statement `action` runs after call `number` (0 the first) of the torch or os function
    `name`, whose arguments are in the list `args`; with a negative one, ~number, before that call."""
    owner, attribute = name.rsplit('.', 1)
    return f'''
import os, signal, torch
real, calls = {name}, iter(range(10**9))
def patched(*args, **kwargs):
    call = next(calls)
    if ~call == {number}:
        {action}
    result = real(*args, **kwargs)
    if call == {number}:
        {action}
    return result
{owner}.{attribute} = patched'''


def kill_patch(name, number, *signals, action='pass'):
    """call_patch by which the program sends itself `signals`, after `action`."""
    kills = ''.join(f'; os.kill(os.getpid(), {int(number)})' for number in signals)
    return call_patch(name, number, action + kills)


def memory_patch(extra=3 * 2**30):
    """The program gets no more than `extra` bytes above what it has at the start."""
    return f'''
import resource
now = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + {extra}, now + {extra}))'''


# ---- Generated mistakes ----
SMALL = dict(program.TINY, batch_size=4, max_iters=4, eval_interval=2, eval_iters=1, max_new_tokens=5, dropout=0.1)
WILD = """0 -1 1 2 3 7 8 True False None '' 'x' '16' 1.5 16.0 1e4 0.5 0.999 1.0 -0.1 1e-10 1e308 1e-320 10**12 10**18
    -10**9 1e999 -1e999 1e999-1e999 [] [1] (1,2) {} b'x' 1j lambda:0 print 'ü' '\\ud800' 10**400""".split()
TAME = {  # what is more to the point for a setting, and bounded: no long runs, no more memory than there is
    'block_size': '1 2 31 500 10**6', 'n_embd': '6 33 10**6', 'n_head': '4 5 32 33 10**6', 'n_layer': '4',
    'batch_size': '1 33 10**9', 'max_iters': '5 10', 'eval_interval': '5 10**9', 'eval_iters': '2',
    'warmup_iters': '100 10**9', 'seed': '10**9 2**31', 'dropout': '0.99 0', 'beta2': '0 0.9999',
    'learning_rate': '10 9.9 1e-9 0.1', 'weight_decay': '100 101 10', 'grad_clip': '1e9 1e-9 1e10',
    'temperature': '1000 1001 1e-9 1e-300 0.0', 'top_k': '10**9 5 60', 'max_new_tokens': '50',
    'fast_attention': 'True False', 'resume': 'True True False',
    'prompt': """'the' '\\n' '\\x00' '€' 'the '*500 ' '*16 '\\U0010ffff' 'é'""",
    'device': """'cpuu' 'cuda:99' 'CPU' 'cpu:0' 'cpu:1' 'meta' 'cuda:-1' 'gpu' 'xpu' 'xla' 5 -1""",
    'checkpoint_path':
        """'.' '..' '/' 'missing/gpt.pt' 'input.txt' 'gpt.py' 'a'*300 'a\\x00b' 'gpt' 'gpt.pt/' 'a b.pt' '\\ud800'""",
    'text_path': """'.' 'missing.txt' 'a\\x00b' 'a'*300 'gpt.py' 'input.txt/x' '/dev/null' '/proc/self/mem'"""}


def mistaken_settings(rng):
    """One to three lines at the top, with what a user may type there."""
    settings = {}
    for name in rng.sample(sorted(TAME), rng.choice([1, 1, 2, 3])):
        values = WILD if rng.random() < 0.5 else re.findall(r"[^\s']*'[^']*'\S*|\S+", TAME[name])
        settings[name] = Source(rng.choice(values))
    return settings


def mistaken_text(rng):
    """Bytes for input.txt."""
    some = ''.join(map(chr, rng.sample([*range(0xd800), *range(0xe000, 0x110000)], rng.choice([1, 5, 300]))))
    text = ''.join(rng.choices(some, k=rng.choice([1, 20, 170, 180, 1000]))).encode()
    return rng.choice([
        lambda: b'', lambda: text, lambda: text, lambda: b'\xef\xbb\xbf' + text, lambda: b'\xef\xbb\xbf',
        lambda: rng.randbytes(rng.choice([1, 300, 3000])), lambda: TEXT.encode('utf-16'), lambda: text + b'\xfc',
        lambda: TEXT.replace('\n', '\r\n').encode(), lambda: TEXT.replace('\n', '\r').encode(),
        lambda: bytes(rng.choice([10, 1000])), lambda: b'a' * rng.choice([1, 16, 170, 171, 180, 1000]),
        lambda: TEXT.encode() + b'\xed\xa0\x80', lambda: TEXT.encode() + '€'.encode()[:2], lambda: text[:-1],
        lambda: TEXT[:rng.randrange(400)].encode()])()


def mistaken_checkpoint(rng, good):
    """Bytes for gpt.pt: `good`, the bytes of a whole one, damaged; or something else."""
    def flipped():
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 4, 100])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)
    return rng.choice([
        flipped, flipped, flipped, lambda: good, lambda: good[:rng.randrange(len(good))], lambda: good + good,
        lambda: good[rng.randrange(len(good)):], lambda: good[:-1], lambda: b'', lambda: rng.randbytes(1000),
        lambda: pickle.dumps({'program': 'gpt.py'}), lambda: good[:1000] + bytes(1000) + good[2000:],
        lambda: TEXT.encode(), lambda: bytes(len(good))])()


def make_checkpoints(folder):
    """The bytes of an unfinished run's checkpoint and of a finished one's."""
    path = program.copy(folder, text=TEXT, **SMALL)
    run(path, patches=[kill_patch('torch.Tensor.backward', 2, signal.SIGTERM)], code=128 + signal.SIGTERM)
    unfinished = (folder / 'gpt.pt').read_bytes()
    path.write_text(program.edit(path.read_text(encoding='utf-8'), resume=True), encoding='utf-8')
    run(path)
    return unfinished, (folder / 'gpt.pt').read_bytes()


def equal(a, b):
    """Whether two checkpoints, or parts of them, are the same to the bit, the seconds aside."""
    import torch
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a if key != 'seconds')
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a.dtype == b.dtype and torch.equal(a, b) if torch.is_tensor(a) else type(a) is type(b) and a == b


def load(data_or_path):
    """The checkpoint in a file or in its bytes."""
    import io
    import torch
    source = io.BytesIO(data_or_path) if isinstance(data_or_path, bytes) else data_or_path
    return torch.load(source, weights_only=True)


def complaint(done, most_lines=1):
    """What is wrong with the answer to a mistake; None if nothing is."""
    lines = done.stderr.splitlines()
    if done.returncode not in (0, 1, 2):
        return f'exit code {done.returncode}'
    if 'Traceback' in done.stderr or 'Error(' in done.stderr:
        return 'traceback'
    if done.returncode == 0:
        return 'a correct run, but something on stderr' if lines else None
    if not 1 <= len(lines) <= most_lines or not lines[0].strip() or max(map(len, lines)) > 2000:
        return f'not one clear line, but {len(lines)}'


def mistake(seed, checkpoints):
    """Make mistake number `seed`. Returns its kind, the exit code and, if it was not answered well, what was wrong."""
    rng, most_lines = random.Random(seed), 1
    kind, settings, text, data = rng.choice(['settings', 'settings', 'text', 'checkpoint']), {}, TEXT, None
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if kind == 'settings':
            settings = mistaken_settings(rng)
            data = rng.choice([None, None, *checkpoints])
            most_lines = 40  # a line for each setting in which the checkpoint differs
        elif kind == 'text':
            text = mistaken_text(rng)
        else:
            good = rng.choice(checkpoints)
            settings, data = {'resume': rng.random() < 0.7}, mistaken_checkpoint(rng, good)
        path = program.copy(folder, text=text, **{**SMALL, **settings})
        saved = folder / ('gpt.pt' if settings.get('resume') or rng.random() < 0.7 else 'gpt-previous.pt')
        if data is not None:
            saved.write_bytes(data)
        before = {file.name for file in folder.iterdir()}
        done = run(path, patches=[memory_patch()] if sys.platform == 'linux' else [], code=None)
        wrong = complaint(done, most_lines if 'differ' in done.stderr else 1)
        if done.returncode in (1, 2):
            after = {file.name for file in folder.iterdir()}
            if after != before and 'no longer finite' not in done.stderr:
                wrong = wrong or f'wrote {sorted(after ^ before)}'
            if data is not None and saved.exists() and saved.read_bytes() != data:
                wrong = wrong or 'changed a checkpoint'
        if kind == 'checkpoint' and settings['resume'] and done.returncode == 0:  # harmless damage, then
            if not equal(load(folder / 'gpt.pt'), load(checkpoints[1])):
                wrong = wrong or 'went on with a damaged checkpoint'
        what = text[:60] if kind == 'text' else f'{settings}' + ('' if data is None else f', {saved.name} {data[:20]}')
        return kind, done.returncode, wrong and f'{seed}: {wrong}: {kind} {what!r:.300}\n{done.stderr[-1500:]}'


def main(count, first=0):
    """Make `count` mistakes and print the outcome. Returns how many were not answered well."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = make_checkpoints(Path(folder))
    counts, offenders = {}, []
    for seed in range(first, first + count):
        kind, code, wrong = mistake(seed, checkpoints)
        key = f'{kind}, exit code {code}'
        counts[key] = counts.get(key, 0) + 1
        if wrong:
            offenders.append(wrong)
            print(wrong, flush=True)
    for key in sorted(counts):
        print(f'{key}: {counts[key]}')
    print(f'{count} mistakes, {len(offenders)} not answered well')
    return len(offenders)


if __name__ == '__main__':
    sys.exit(main(*map(int, sys.argv[1:])) > 0 if sys.argv[1:] else __doc__)
