"""Each mistake in broken_programs.txt is put into a copy, and the test named there has to fail."""

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

import helpers

FOLDER = Path(__file__).parent
MISTAKES = helpers.read_edits(FOLDER / 'broken_programs.txt')


@pytest.mark.parametrize('name', MISTAKES)
def test_the_mistake_is_noticed(monkeypatch, name):
    test, ours, mistake = MISTAKES[name]
    if os.name != 'posix' and re.search('torchrun|a write', test):
        pytest.skip('needs POSIX')
    file = 'bigram.py' if 'bigram' in test else 'gpt.py'
    monkeypatch.setattr(helpers, 'BROKEN', [(file, ours, mistake)])
    helpers.read(file)  # it has to apply
    options = ['-q', '-x', '-n0', '-p', 'no:cacheprovider', '--capture=no', f'--rootdir={FOLDER}']
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = pytest.main([*options, f'{FOLDER}/{test}'])
    assert code == pytest.ExitCode.TESTS_FAILED, f'{test} did not fail'
    assert 'places, not one, match' not in output.getvalue()  # an edit of the test itself
