"""What the scripts in this folder share: the store of results, the machine, and whole runs."""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))  # so that helpers.py is found

import helpers  # noqa: E402

RESULTS = FOLDER / 'results.json'


def read():
    """All that has been measured: {section: value}."""
    return json.loads(RESULTS.read_text(encoding='utf-8')) if RESULTS.exists() else {}


def write(section, value):
    """Replace one section. A kill at any instant leaves a whole file."""
    text = json.dumps({**read(), section: value}, indent=1, sort_keys=True, ensure_ascii=False)
    rows = r'\[[^][{}"]*\]'  # of numbers: on one line
    text = re.sub(rows, lambda found: ' '.join(found[0].split()), text)
    temporary = RESULTS.with_suffix('.tmp')
    temporary.write_text(f'{text}\n', encoding='utf-8')
    os.replace(temporary, RESULTS)


def machine():
    """What this runs on, and when, in words."""
    info = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.*)', info.read_text() if info.exists() else '')
    name = found[1] if found else platform.processor() or platform.machine()
    able = [each for each in ('avx512_bf16', 'amx_bf16') if torch.cpu.get_capabilities().get(each)]
    name += f', {torch.get_num_threads()} threads, {" and ".join(able) or "no bfloat16"}'
    versions = f'Python {platform.python_version()}, torch {torch.__version__}'
    return f'{name}; {versions}; {time.strftime("%Y-%m-%d")}'


def texts(nano):
    """{name: text}. `nano` is a folder of nanoGPT, which has Tiny Shakespeare."""
    path = Path(nano, 'data', 'shakespeare_char', 'input.txt')
    return {'Tiny Shakespeare': path.read_text(encoding='utf-8'), 'input.txt': helpers.INPUT}


def watch(command, cwd=None):
    """Run a command to its end: [(seconds since its start, line)], and the seconds in all."""
    began = time.perf_counter()
    env = helpers.environment()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=cwd, env=env)
    lines = [(time.perf_counter() - began, line.decode().rstrip('\n')) for line in process.stdout]
    if process.wait() != 0:
        raise RuntimeError(f'{command} ended with code {process.returncode}')
    return lines, time.perf_counter() - began


def curve(lines):
    """[[seconds, step, train loss, val loss]] of the evaluations among lines of output."""
    pattern = r'step (\d+): train loss ([\d.]+), val loss ([\d.]+)'
    found = [(seconds, re.match(pattern, line)) for seconds, line in lines]
    return [[round(s, 1), int(row[1]), float(row[2]), float(row[3])] for s, row in found if row]


def whole_run(text, **settings):
    """`python gpt.py` on a text: seconds of the whole process, its curve, its sample."""
    with tempfile.TemporaryDirectory() as folder:
        path = helpers.copy(folder, text=text, **settings)
        lines, seconds = watch([sys.executable, str(path)])
    rows, printed = curve(lines), [line for _, line in lines]
    sample = printed[printed.index('') + 1 :] if '' in printed else []
    run = {'seconds': round(seconds, 1), 'curve': rows, 'sample': sample, 'lines': printed}
    run |= {'steps': rows[-1][1], 'loss': rows[-1][3]}
    return {**run, 'parameters': int(printed[0].split()[0].replace(',', ''))}
