"""The script that measures on a GPU runs on a CPU, with tiny sizes."""

import json
import sys

import gpu

import helpers


def test_all_of_gpu_py_runs_dry(tmp_path, monkeypatch):
    text, output = tmp_path / 'data' / 'shakespeare_char' / 'input.txt', tmp_path / 'gpu.json'
    text.parent.mkdir(parents=True)
    text.write_text(helpers.TEXT)
    (tmp_path / 'train.py').write_text("print('step 0: train loss 4.2, val loss 4.3')")
    options = ['--dry', '--nanogpt', str(tmp_path), '--output', str(output)]
    monkeypatch.setattr(sys, 'argv', ['gpu.py', *options])
    gpu.main()
    results = json.loads(output.read_text())
    assert not [part for part, value in results.items() if 'Traceback' in str(value)]
    assert len(results) == 9 and results['nanogpt']['curve'][0][2:] == [4.2, 4.3]
    whole, resumed = list(results['checkpoints'].values())[-2:]
    assert list(resumed) == ['10', '20'] and resumed.items() <= whole.items()
    assert results['torchrun'][-1][1:] == [20, *whole['20']]
