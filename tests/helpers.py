"""What the tests share: copies of the programs, edited as a user edits them, and ways to run them.

A test runs the real program. `copy` writes it into an empty folder, with a text beside it and some
lines at its top changed. Then `load` imports the copy, `run` starts it as a user does, and
`Running` starts it in a forked process that has torch already, which is much faster.
"""

import contextlib
import importlib.util
import multiprocessing
import os
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

import torch

ROOT = Path(__file__).resolve().parent.parent
INPUT = (ROOT / 'input.txt').read_text(encoding='utf-8')
TEXT = INPUT[:20000]
CHECKPOINT, PREVIOUS = 'gpt.pt', 'gpt-previous.pt'

# A model so small that a run takes about a second once torch is loaded.
TINY = {
    'device': 'cpu',
    'block_size': 16,
    'n_embd': 32,
    'batch_size': 8,
    'max_iters': 20,
    'eval_interval': 10,
    'eval_size': 400,
    'max_new_tokens': 20,
    'bfloat16': False,
}
BROKEN = []  # (file, old, new): mistakes that read() puts in, see test_broken.py


def edit(source, **settings):
    """`source` with the line `name = ...` of each setting replaced. Each has to be there once."""
    for name, value in settings.items():
        line = f'{name} = {value!r}'
        source, count = re.subn(rf'^{name} = .*$', lambda _, line=line: line, source, flags=re.M)
        if count != 1:
            raise ValueError(f'{count} lines set {name}, not one')
    return source


def replace(source, old, new):
    """`source` with the only occurrence of `old` replaced by `new`."""
    if source.count(old) != 1:
        raise ValueError(f'{source.count(old)} occurrences, not one, of {old!r}')
    return source.replace(old, new)


def read_edits(path):
    """{name: (words, old, new)} of a text of mistakes, such as broken_programs.txt."""
    edits, pattern = {}, r'^([^#\s-].*?): (.*)\n((?:- ?.*\n)+)((?:\+ ?.*\n)*)'
    for name, words, *parts in re.findall(pattern, path.read_text(encoding='utf-8'), re.M):
        edits[name] = (
            words,
            *['\n'.join(line[2:] for line in part.splitlines()) for part in parts],
        )
    return edits


def read(name='gpt.py'):
    """The source of a program of the project."""
    source = (ROOT / name).read_text(encoding='utf-8')
    for file, old, new in BROKEN:
        if file == name:
            source = replace(source, old, new)
    return source


def copy(folder, name='gpt.py', text=TEXT, edits=(), **settings):
    """Write an edited copy of the program `name` into `folder`, and its text. Returns its path.

    `text` is a str or bytes. `edits` are pairs (old, new), each of which has to apply once.
    """
    path = Path(folder, name)
    (path.parent / 'input.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    path.write_text(read(name), encoding='utf-8')
    return change(path, *edits, **settings)


def change(path, *edits, **settings):
    """Edit the program at `path`. Returns `path`."""
    source = path.read_text(encoding='utf-8')
    for old, new in edits:
        source = replace(source, old, new)
    path.write_text(edit(source, **settings), encoding='utf-8')
    return path


def load(path):
    """Import the program at `path` as a module of its own."""
    name = f'{path.stem}_{time.monotonic_ns()}'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def environment(**changes):
    """The environment of a user: without what this machine sets for its own convenience."""
    hidden = ('PYTHONUNBUFFERED', 'PYTHONIOENCODING', 'PYTHONUTF8', 'COLUMNS', 'LINES')
    clean = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**clean, **changes}


def run(path, *arguments, code=0, timeout=120, cwd=None, env=None):
    """Run the program at `path` as a user does. Its exit code has to be `code` (None: any)."""
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        timeout=timeout,
        cwd=cwd,
        env=environment(**(env or {})),
    )
    done.stdout = done.stdout.decode('utf-8', 'backslashreplace').replace('\r\n', '\n')
    done.stderr = done.stderr.decode('utf-8', 'backslashreplace').replace('\r\n', '\n')
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


# ----------------------------------------------------------
# Running a program in a process that is forked from one with torch already in it

FORK = 'forkserver' in multiprocessing.get_all_start_methods()
context = multiprocessing.get_context('forkserver' if FORK else 'spawn')
if FORK:  # torch._dynamo: the optimizer imports it, and that takes seconds
    context.set_forkserver_preload(['torch', 'torch._dynamo', 'tqdm', 'helpers'])


def child(path, arguments, patches, folder):
    """What `python path arguments` does, after the statements in `patches`. Output: `folder`."""
    import tqdm

    torch.set_num_threads(1)
    tqdm.tqdm.set_lock(threading.RLock())  # its own lock, a semaphore, would outlive a kill
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    for number, name in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(os.open(f'{folder}/{name}', os.O_WRONLY | os.O_CREAT), number)
        errors = 'strict' if number == 1 else 'backslashreplace'
        stream = open(number, 'w', encoding='utf-8', errors=errors, closefd=False)
        setattr(sys, name, stream)
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
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Running:
    """The program at `path`, running in a forked process. `patches` are run before it."""

    def __init__(self, path, *arguments, patches=()):
        self.folder = Path(tempfile.mkdtemp())
        options = (path, arguments, patches, self.folder)
        self.process = context.Process(target=child, args=options, daemon=True)
        self.process.start()

    def output(self, name='stdout'):
        """What it has printed so far."""
        path = self.folder / name
        if not path.exists():
            return ''
        return path.read_bytes().decode('utf-8', 'backslashreplace').replace('\r\n', '\n')

    def wait_for(self, words, timeout=60):
        """Wait until `words` are in its output, or until it has ended."""
        end = time.time() + timeout
        while words not in self.output() and self.process.is_alive():
            assert time.time() < end, self.output()
            time.sleep(0.002)

    def end(self, code=0, timeout=60):
        """Wait for its end. Its exit code has to be `code`: None: any, -N: killed by signal N."""
        self.process.join(timeout)
        returncode = 'hang' if self.process.is_alive() else self.process.exitcode
        self.process.kill()
        self.process.join()
        done = subprocess.CompletedProcess([], returncode, self.output(), self.output('stderr'))
        shutil.rmtree(self.folder)
        assert code is None or returncode == code, (returncode, done.stdout, done.stderr)
        return done


def quick(path, *arguments, patches=(), code=0, timeout=60):
    """What run() does, in a forked process."""
    return Running(path, *arguments, patches=patches).end(code, timeout)


def at_call(function, number, action):
    """A patch: run the statement `action` after call `number` (0 is the first) of a function.

    `function` is a name such as 'torch.save', its arguments are in the list `args`. A negative
    number, ~number, means before that call.
    """
    owner, attribute = function.rsplit('.', 1)
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
{owner}.{attribute} = patched"""


# ----------------------------------------------------------
# Looking at what a run has printed and saved


def steps(done):
    """{step: (train loss, val loss)} of the evaluations that a run has printed."""
    lines = re.findall(r'^step (\d+): train loss (\S+), val loss (\S+)', done.stdout, re.M)
    return {int(step): (float(train), float(val)) for step, train, val in lines}


def last_line(done, *words):
    """Assert that what a run says in the end, on standard error, has these words."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines and all(str(word) in lines[-1] for word in words), (words, done.stderr)
    return lines[-1]


def read_checkpoint(path):
    """The dict in a checkpoint, the path of which may also be its folder."""
    return torch.load(path / CHECKPOINT if path.is_dir() else path, weights_only=True)


def equal(a, b):
    """Whether two checkpoints, or parts of them, are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if torch.is_tensor(a):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b
