"""Everything measured, in results.json beside this file: {section: value}."""

import json
import os
import platform
import sys
from pathlib import Path

PATH = Path(__file__).resolve().parent / 'results.json'
sys.path.insert(0, str(PATH.parent.parent))  # so that the scripts here find helpers.py


def read():
    """All sections. {} if nothing has been measured yet."""
    return json.loads(PATH.read_text(encoding='utf-8')) if PATH.exists() else {}


def write(section, value):
    """Replace one section. A kill at any instant leaves a whole file."""
    temporary = PATH.with_name(f'{PATH.name}.tmp')
    text = json.dumps({**read(), section: value}, indent=1, sort_keys=True, ensure_ascii=False)
    temporary.write_text(f'{text}\n', encoding='utf-8')
    os.replace(temporary, PATH)


def machine():
    """What this runs on, in words."""
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith('model name')]
        name = lines[0].partition(':')[2].strip() if lines else name
    bfloat16 = torch.cpu._is_avx512_bf16_supported()
    return (
        f'{name}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, '
        f'bfloat16 in hardware: {"yes" if bfloat16 else "no"}; '
        f'Python {platform.python_version()}, torch {torch.__version__}'
    )
