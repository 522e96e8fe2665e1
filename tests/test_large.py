"""A large text: 20 MB, several alphabets, 20,000 different characters. No timing is asserted."""
import os
import random
import subprocess
import sys

import pytest
import torch

import program

SMALL = {**program.TINY, 'max_iters': 2, 'eval_interval': 2}
PEAK = '''
import resource, runpy, sys
sys.argv = [{path!r}]
try:
    runpy.run_path({path!r}, run_name='__main__')
finally:
    # On Linux getrusage() would count the memory of the process that started this one as well.
    peak = (int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024 if sys.platform == 'linux'
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20)
    print('peak', peak)
'''


def letters(first, count):
    """`count` characters from `first` on; none is half of a pair."""
    return [chr(number) for number in range(first, 0x110000) if not 0xd800 <= number < 0xe000][:count]


def random_text(alphabet, size):
    """A text of `size` bytes at least that has every character of the alphabet in either part of it."""
    draw = random.Random(1)
    piece = [*alphabet, *draw.choices(alphabet, k=50_000)]
    draw.shuffle(piece)
    piece = ''.join(piece)
    return piece * (size // len(piece.encode()) + 1)


# ASCII alone, Latin, Greek, Cyrillic and emoji, and 20,000 different characters from ideographs on.
ALPHABETS = {'int8': letters(32, 90), 'int16': letters(32, 90) + letters(0x370, 300) + letters(0x1f600, 60),
             'wide': letters(0x4e00, 20_000)}


@pytest.mark.skipif(sys.platform == 'win32', reason='measures memory as Unix does')
@pytest.mark.parametrize('name', ['int16', 'wide'])
def test_20_mb_train_in_less_than_1_gb(tmp_path, name):
    path = program.copy(tmp_path, text=random_text(ALPHABETS[name], 20_000_000), **SMALL)
    done = subprocess.run([sys.executable, '-c', PEAK.format(path=str(path))], capture_output=True, timeout=300,
                          env={**os.environ, 'PYTHONIOENCODING': 'utf-8'})
    out = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert 'step 0: train loss' in out and 'step 2: train loss' in out
    assert float(out.splitlines()[-1].split()[1]) < 1000


@pytest.mark.parametrize('name, size, kind', [
    ('int8', 90, torch.int8), ('int8', 127, torch.int8), ('int16', 450, torch.int16), ('wide', 20_000, torch.int16),
    ('wide', 40_000, torch.int32)])
def test_the_data_is_kept_in_the_smallest_type_and_encoded_right(tmp_path, name, size, kind):
    alphabet = letters(32, size) if size == 127 else letters(0x4e00, size) if name == 'wide' else ALPHABETS[name]
    text = random_text(alphabet, 20_000_000 if name == 'int16' else 5_000_000)
    g = program.load(program.copy(tmp_path, text=text, **SMALL))
    assert g.data.dtype == kind and len(g.data) == len(text) and g.vocab_size == len(alphabet)
    numbers = {char: number for number, char in enumerate(sorted(alphabet))}  # slowly, and by itself
    ends = {0, len(text) - 1000, 2**20 - 500, 2**21 - 500} | {random.Random(2).randrange(len(text)) for _ in range(200)}
    for start in ends:
        sample = text[start:start + 1000]
        assert g.data[start:start + 1000].tolist() == [numbers[char] for char in sample]
    assert g.encode_text(text[:3000]).tolist() == g.encode_string(text[:3000])
    assert g.decode_list(g.data[-1000:].tolist()) == text[-1000:]
