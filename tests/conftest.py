"""What several test files use."""

import pytest
import torch

import helpers

torch.set_num_threads(1)  # for models this small, a second thread costs more than it brings


@pytest.fixture(scope='session')
def gpt(tmp_path_factory):
    """gpt.py, imported: a tiny model, and the whole of input.txt."""
    folder = tmp_path_factory.mktemp('gpt')
    return helpers.load(helpers.copy(folder, text=helpers.INPUT, **helpers.TINY))


@pytest.fixture
def tiny(tmp_path):
    """A function that writes a tiny gpt.py, with other settings and edits, and imports it."""
    return lambda **options: helpers.load(helpers.copy(tmp_path, **{**helpers.TINY, **options}))
