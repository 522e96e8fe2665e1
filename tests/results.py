"""What was measured, in results.json beside this file: {section: value}."""
import json
import os
from pathlib import Path

PATH = Path(__file__).resolve().parent / 'results.json'


def read():
    """All sections, a dict; {} if nothing has been measured yet."""
    return json.loads(PATH.read_text(encoding='utf-8')) if PATH.exists() else {}


def write(section, value):
    """Put `value` in the place of `section` and keep the others; a kill at any instant leaves a whole file."""
    temporary = PATH.with_name(f'{PATH.name}.tmp')
    temporary.write_text(json.dumps({**read(), section: value}, indent=1, sort_keys=True) + '\n', encoding='utf-8')
    os.replace(temporary, PATH)
