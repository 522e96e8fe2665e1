"""Each mistake in broken_programs.txt is put into a copy, and the test named there has to fail."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import helpers

FOLDER = Path(__file__).parent
MISTAKES = helpers.read_edits(FOLDER / 'broken_programs.txt')


class Results:
    """A plugin of pytest that keeps the outcome of each test."""

    def __init__(self):
        self.failed, self.passed = [], []

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(str(report.longrepr))
        elif report.when == 'call' and not report.failed:
            self.passed.append(report.nodeid)


@pytest.mark.parametrize('name', MISTAKES)
def test_the_mistake_is_noticed(monkeypatch, name):
    test, ours, mistake = MISTAKES[name]
    if 'fork' not in dir(__import__('os')) and re.search('torchrun|a write|ctrl_c', test):
        pytest.skip('needs POSIX')
    file = 'bigram.py' if 'bigram' in test else 'gpt.py'
    monkeypatch.setattr(helpers, 'BROKEN', [(file, ours, mistake)])
    helpers.read(file)  # it has to apply
    results = Results()
    options = ['-q', '-x', '-p', 'no:cacheprovider', '--capture=no', f'--rootdir={FOLDER}']
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.main([*options, f'{FOLDER}/{test}'], plugins=[results])
    assert results.failed and not results.passed, f'{test} did not fail'
    assert 'occurrences, not one' not in results.failed[0]
