"""The script that measures on a GPU runs on a CPU, with tiny sizes."""

import json
import sys

import helpers

sys.path.insert(0, str(helpers.ROOT / 'tests' / 'measure'))

import gpu  # noqa: E402

NANO = "print('step 0: train loss 4.2, val loss 4.3')"


def test_all_of_gpu_py_runs_dry(tmp_path, monkeypatch):
    text = tmp_path / 'nano' / 'data' / 'shakespeare_char' / 'input.txt'
    text.parent.mkdir(parents=True)
    text.write_text(helpers.TEXT)
    (tmp_path / 'nano' / 'train.py').write_text(NANO)
    output = tmp_path / 'gpu.json'
    options = ['--dry', '--nanogpt', str(tmp_path / 'nano'), '--output', str(output)]
    monkeypatch.setattr(sys, 'argv', ['gpu.py', *options])
    gpu.main()
    results = json.loads(output.read_text())
    assert not [part for part, value in results.items() if 'Traceback' in str(value)]
    assert len(results) == 9 and results['nanogpt']['curve'][0][2:] == [4.2, 4.3]
    whole, resumed = list(results['checkpoints'].values())[-2:]
    assert list(resumed) == ['10', '20'] and resumed.items() <= whole.items()
    assert results['torchrun'][-1][1:] == [20, *whole['20']]
