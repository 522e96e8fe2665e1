"""What the tests share: copies of the programs, edited as a user edits them, and ways to run them.

`copy` writes a program into a folder, with a text and some lines at its top changed. `load` imports
it, `start` starts it as a user does, and `quick`, much faster, in a fork that has torch already.
"""

import importlib.util
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
import tqdm

ROOT = Path(__file__).resolve().parent.parent
INPUT = (ROOT / 'input.txt').read_text(encoding='utf-8')
TEXT = INPUT[:20000]
CHECKPOINT, PREVIOUS = 'gpt.pt', 'gpt-previous.pt'

# A model so small that a run takes about a second once torch is loaded.
TINY = {'device': 'cpu', 'bfloat16': False, 'block_size': 16, 'n_embd': 32, 'batch_size': 8}
TINY |= {'max_iters': 20, 'eval_interval': 10, 'eval_size': 400, 'max_new_tokens': 20}
BROKEN = []  # (file, old, new): mistakes that read() puts in, see test_broken.py


def replace(source, pattern, new):
    """`source` with the only match of a pattern replaced by `new`."""
    source, count = re.subn(pattern, lambda _: new, source, flags=re.M)
    if count != 1:
        raise ValueError(f'{count} places, not one, match {pattern!r}')
    return source


def read_edits(path):
    """{name: (words, old, new)} of a text of mistakes, such as broken_programs.txt."""
    pattern = r'^([^#\s-].*?): (.*)\n((?:- ?.*\n)+)((?:\+ ?.*\n)*)'
    found = re.findall(pattern, path.read_text(encoding='utf-8'), re.M)
    return {
        name: (words, *[re.sub('^..?', '', part[:-1], flags=re.M) for part in parts])
        for name, words, *parts in found
    }


def read(name='gpt.py'):
    """The source of a program of the project."""
    source = (ROOT / name).read_text(encoding='utf-8')
    for file, old, new in BROKEN:
        if file == name:
            source = replace(source, re.escape(old), new)
    return source


def copy(folder, name='gpt.py', text=TEXT, edits=(), **settings):
    """Write a program and its text (str or bytes) into `folder`, edited: change(). The path."""
    path = Path(folder, name)
    path.with_name('input.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    path.write_text(read(name), encoding='utf-8')
    return change(path, *edits, **settings)


def change(path, *edits, **settings):
    """Edit a program: pairs (old, new), and lines `name = value`, each there once. Its `path`."""
    source = path.read_text(encoding='utf-8')
    for old, new in edits:
        source = replace(source, re.escape(old), new)
    for name, value in settings.items():
        source = replace(source, rf'^{name} = .*$', f'{name} = {value!r}')
    path.write_text(source, encoding='utf-8')
    return path


def load(path):
    """Import the program at `path` as a module of its own."""
    name = f'{path.stem}_{time.monotonic_ns()}'
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(**changes):
    """The environment of a user: without what this machine sets for its own convenience."""
    hidden = ('PYTHONUNBUFFERED', 'PYTHONIOENCODING', 'PYTHONUTF8', 'COLUMNS', 'LINES')
    return {name: value for name, value in os.environ.items() if name not in hidden} | changes


def start(path, *arguments, env=(), **options):
    """Start `python path arguments` as a user does. `options` are those of subprocess.Popen."""
    options |= {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'encoding': 'utf-8'}
    options |= {'errors': 'backslashreplace', 'env': environment(**dict(env))}
    return subprocess.Popen([sys.executable, *map(str, (path, *arguments))], **options)


def finish(process, code=0):
    """Wait for the end of what start() has started. Its exit code has to be `code`."""
    stdout, stderr = process.communicate(timeout=120)
    return checked(process.returncode, code, stdout, stderr)


def checked(returncode, code, stdout, stderr):
    """What a run has printed. Its exit code has to be `code`: None: any, -N: killed by signal N."""
    assert code is None or returncode == code, (returncode, stdout, stderr)
    return subprocess.CompletedProcess([], returncode, stdout, stderr)


POSIX = os.name == 'posix'
context = multiprocessing.get_context('forkserver' if POSIX else 'spawn')
if POSIX:  # torch._dynamo: the optimizer imports it, and that takes seconds
    context.set_forkserver_preload(['torch', 'torch._dynamo', 'tqdm', 'helpers'])


def child(path, arguments, patches, folder):
    """What `python path arguments` does, after the statements in `patches`. Output: in `folder`."""
    tqdm.tqdm.set_lock(threading.RLock())  # its own lock, a semaphore, would outlive a kill
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    for name, errors in (('stdout', 'strict'), ('stderr', 'backslashreplace')):
        setattr(sys, name, open(f'{folder}/{name}', 'w', encoding='utf-8', errors=errors))
    for patch in patches:
        exec(patch, {})
    sys.argv[1:] = arguments
    runpy.run_path(str(path), run_name='__main__')


class Running:
    """The program at `path`, running in a forked process. `patches` are run before it."""

    def __init__(self, path, *arguments, patches=()):
        self.folder = tempfile.TemporaryDirectory()
        options = (path, arguments, patches, self.folder.name)
        self.process = context.Process(target=child, args=options, daemon=True)
        self.process.start()

    def output(self, name='stdout'):
        """What it has printed so far."""
        path = Path(self.folder.name, name)
        return path.read_text(encoding='utf-8', errors='replace') if path.exists() else ''

    def end(self, code=0, timeout=60):
        """Wait for its end. Its exit code has to be `code`."""
        self.process.join(timeout)
        returncode = 'hang' if self.process.is_alive() else self.process.exitcode
        self.process.kill()
        self.process.join()
        stdout, stderr = self.output(), self.output('stderr')
        self.folder.cleanup()
        return checked(returncode, code, stdout, stderr)


def quick(path, *arguments, patches=(), code=0):
    """Run the program at `path` in a forked process. Its exit code has to be `code`."""
    return Running(path, *arguments, patches=patches).end(code)


def at_call(function, number, action):
    """A patch: run the statement `action` after call `number` (0 is the first) of a function.

    `function` is a name such as 'torch.save', with arguments `args`. ~number: before that call.
    """
    return f"""
import os, signal, sys, torch
real, calls = {function}, iter(range(10**9))
def patched(*args, **kwargs):
    call = next(calls)
    if ~call == {number}:
        {action}
    result = real(*args, **kwargs)
    if call == {number}:
        {action}
    return result
{function} = patched"""


def steps(done):
    """{step: (train loss, val loss)} of the evaluations that a run has printed."""
    lines = re.findall(r'^step (\d+): train loss (\S+), val loss (\S+)', done.stdout, re.M)
    return {int(step): (float(train), float(val)) for step, train, val in lines}


def last_line(done, *words):
    """Assert that what a run says in the end, on standard error, has these words."""
    line = done.stderr.rstrip().rpartition('\n')[2]
    assert line and all(str(word) in line for word in words), (words, done.stderr)
    return line


def read_checkpoint(folder, name=CHECKPOINT):
    """The dict in a checkpoint."""
    return torch.load(folder / name, weights_only=True)


def equal(a, b):
    """Whether two checkpoints, or parts of them, are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return torch.equal(a, b) if torch.is_tensor(a) else a == b
