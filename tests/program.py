"""The programs under test, edited as a user edits them: by changing lines at the top of a copy."""
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TINY_SHAKESPEARE = ROOT.parent / 'shared' / 'data' / 'tinyshakespeare.txt'  # not in the project; tests skip without

# A model so small that a run takes about a second after torch has been loaded.
TINY = dict(device='cpu', block_size=16, n_embd=32, n_head=2, n_layer=2, batch_size=8, max_iters=20, eval_interval=10,
            eval_iters=2, max_new_tokens=20)


def edit(source, **settings):
    """`source` with the line `name = ...` of each setting replaced; every one has to be there exactly once."""
    for name, value in settings.items():
        source, count = re.subn(rf'^{name} = .*$', lambda _: f'{name} = {value!r}', source, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f'{count} lines set {name}, not one')
    return source


def replace(source, old, new):
    """`source` with the one occurrence of `old` replaced by `new`; it has to be there exactly once."""
    if source.count(old) != 1:
        raise ValueError(f'{source.count(old)} occurrences, not one, of {old!r}')
    return source.replace(old, new)


def copy(folder, name='gpt.py', text=None, **settings):
    """A copy of the program `name` in `folder`, edited, with a text (bytes or str; by default input.txt) beside it."""
    folder = Path(folder)
    if text is None:
        shutil.copy(ROOT / 'input.txt', folder / 'input.txt')
    else:
        (folder / 'input.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    path = folder / name
    path.write_text(edit((ROOT / name).read_text(encoding='utf-8'), **settings), encoding='utf-8')
    return path


def run(path, *arguments, timeout=120, cwd=None, env=None, code=0):
    """Run the program at `path` to its end and return it; its exit code has to be `code` (None: any)."""
    done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True, timeout=timeout, cwd=cwd,
                          env={**os.environ, **(env or {})})
    done.stdout, done.stderr = done.stdout.decode('utf-8'), done.stderr.decode('utf-8', 'backslashreplace')
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def load(path):
    """The program at `path`, imported as a module of its own."""
    spec = importlib.util.spec_from_file_location(f'{path.stem}_{abs(hash(path))}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
