"""The pages: their numbers are those that were measured, and what they name exists."""

import re
import sys

import pytest

import helpers

MEASURE = helpers.ROOT / 'tests' / 'measure'
sys.path.insert(0, str(MEASURE))

import experiments  # noqa: E402
import page  # noqa: E402

README = helpers.read('README.md')
PROGRAMS = helpers.read('gpt.py') + helpers.read('bigram.py')
COMMAND = re.compile(r'^python3 -m venv \.venv && (.*)$', re.M)

# Code in the pages: inside backticks, outside of blocks, and not what the article says.
OURS = re.sub(r'```.*?```|<details>.*</details>', '', README, flags=re.DOTALL)
CODE = re.findall(r'(?<!`)`([^`\n]+)`(?!`)', OURS)


@pytest.mark.parametrize('path', page.PAGES, ids=['README.md', 'tests/README.md'])
def test_the_numbers_are_those_in_the_results(path):
    """If not, run tests/measure/page.py."""
    text = path.read_text(encoding='utf-8')
    assert text.count('<!-- end -->') * 2 == len(re.findall('<!-- .*? -->', text)) > 0
    assert page.filled(text) == text


def test_a_number_that_was_changed_by_hand_would_be_noticed():
    """Any of them, and any table."""
    for found in re.finditer(r'(<!-- (?!end)[\w -]+ -->)\s*(?:\|.*\n)*[^<]*?(\w)', README):
        changed = f'{README[: found.start(2)]}#{README[found.end(2) :]}'
        assert page.filled(changed) == README


def test_it_is_short():
    assert README.count('\n') <= 260


@pytest.mark.parametrize('path', page.PAGES, ids=['README.md', 'tests/README.md'])
def test_links_lead_somewhere(path):
    text = path.read_text(encoding='utf-8')
    targets = re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text)
    local = [link or src for link, src in targets if not (link or src).startswith('https://')]
    headings = {f'#{line[3:].lower().replace(" ", "-")}' for line in text.splitlines()}
    missing = [link for link in local if not (path.parent / link).exists()]
    missing = [link for link in missing if link not in headings]
    assert len(local) >= 5 and missing == []


def test_what_stands_between_backticks_exists():
    """Files, settings, functions, classes and their parts."""
    wrong = []
    for code in CODE:
        setting = re.fullmatch(r'(\w+) = (.+)', code)
        if setting:
            try:
                helpers.edit(helpers.read(), **{setting[1]: None})
            except ValueError:
                wrong.append(code)
        elif re.fullmatch(r'[\w.]+', code) and not re.search(rf'\b{re.escape(code)}\b', PROGRAMS):
            if not (helpers.ROOT / code).exists() and code not in ('gpt-previous.pt', 'python3'):
                if not all(re.search(rf'\b{part}\b', PROGRAMS) for part in code.split('.')):
                    wrong.append(code)
        for file in re.findall(r'\b[\w/]+\.(?:py|txt)\b', code):
            if not (helpers.ROOT / file).exists() and file not in ('my_gpt.py', 'shakespeare.txt'):
                wrong.append(code)
    assert len(CODE) > 40 and wrong == []


def test_the_diagram_shows_parts_of_the_model():
    names = re.findall(r'\["(\w+)(?:<br/>|: )', README)
    assert len(names) >= 8
    assert all(re.search(rf'\b{name}\b', helpers.read()) for name in names)


def test_pictures_are_small_and_described():
    pictures = re.findall(r'<img src="([^"]+)" width="\d+" alt="([^"]+)">', README)
    assert len(pictures) == README.count('<img ') == 3
    for path, alt in pictures:
        picture = (helpers.ROOT / path).read_text(encoding='utf-8')
        assert picture.lstrip().startswith('<?xml') and len(picture) < 100_000 and len(alt) > 60


def test_the_test_command_is_what_the_machines_run():
    """README.md, tests/README.md, .ci/run and the workflow do the same."""
    _, command = COMMAND.findall(README)
    assert COMMAND.findall(page.PAGES[1].read_text(encoding='utf-8')) == [command]
    steps = [step.replace('.venv/bin/', '') for step in command.split(' && ')]
    assert steps == ['pip install -r tests/requirements.txt', 'python -m pytest -q tests']
    for path in ('.ci/run', '.github/workflows/test.yml'):
        lines = helpers.read(path).replace(' --quiet', '').replace('- run: ', '').splitlines()
        found = [line.strip() for line in lines]
        places = [found.index(step) for step in (steps[0], 'ruff check .', steps[1])]
        assert places == sorted(places)


def test_the_command_to_start_with_installs_what_the_programs_import():
    setup, _ = COMMAND.findall(README)
    assert setup == '.venv/bin/pip install -r requirements.txt && .venv/bin/python gpt.py'
    required = {re.match(r'\w+', line)[0] for line in helpers.read('requirements.txt').split()}
    imported = set(re.findall(r'^(?:import|from) (\w+)', PROGRAMS, re.M))
    assert required == imported - set(sys.stdlib_module_names)


def test_the_code_for_a_notebook_runs(tmp_path, monkeypatch, capsys):
    path = helpers.copy(tmp_path, text=helpers.INPUT, **helpers.TINY)
    helpers.quick(path)
    (code,) = [
        block for block in re.findall(r'```python\n(.*?)```', README, re.S) if 'gpt' in block
    ]
    monkeypatch.setitem(sys.modules, 'gpt', helpers.load(path))
    exec(code, {})
    assert re.fullmatch(r'The king(?s:.{200})\n', capsys.readouterr().out)


def test_the_settings_for_those_in_a_hurry_are_settings():
    (lines,) = re.findall(r'<!-- quick -->(.*?)<!-- end -->', README)
    settings = re.findall(r'`(\w+) = ([\d.]+)`', lines)
    assert len(settings) == 4
    helpers.edit(helpers.read(), **dict(settings))


def test_the_edits_of_all_experiments_apply():
    sources = [experiments.edited(name, helpers.read(), 1) for name in experiments.EXPERIMENTS]
    assert len(set(sources)) == len(sources) > 20
    for source in sources:
        compile(source, 'gpt.py', 'exec')
