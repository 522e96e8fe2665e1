"""What several test files use."""

import os
import sys

import pytest
import torch

import helpers

torch.set_num_threads(1)  # for models this small, a second thread costs more than it brings
os.environ['OMP_NUM_THREADS'] = '1'  # also in the processes that are started
sys.path += [str(helpers.ROOT / 'tests' / folder) for folder in ('exercise', 'measure')]


@pytest.fixture(scope='session')
def gpt(tmp_path_factory):
    """gpt.py, imported: a tiny model, and a short text with all characters of input.txt."""
    folder = tmp_path_factory.mktemp('gpt')
    text = helpers.TEXT + ''.join(sorted(set(helpers.INPUT)))
    return helpers.load(helpers.copy(folder, text=text, **helpers.TINY))


@pytest.fixture
def tiny(tmp_path):
    """A function that writes a tiny gpt.py, with other settings and edits, and imports it."""
    return lambda **options: helpers.load(helpers.copy(tmp_path, **{**helpers.TINY, **options}))
