"""README.md against the repository: what it names exists, its commands are CI's, its numbers are those measured."""
import re
import subprocess

import pytest

import program
import results
import tables

PAGE = (program.ROOT / 'README.md').read_text(encoding='utf-8')
GPT = (program.ROOT / 'gpt.py').read_text(encoding='utf-8')
BIGRAM = (program.ROOT / 'bigram.py').read_text(encoding='utf-8')


def test_tables_are_those_of_the_results():
    """Catches a number edited by hand, and results that were measured again without writing the page."""
    assert tables.filled(PAGE) == PAGE


def test_every_table_has_its_place():
    assert sorted(re.findall(r'<!-- table: (\w+) -->', PAGE)) == sorted(tables.TABLES)


def test_the_two_commands_are_those_of_ci():
    """The set-up and test commands of the page, in a row, are what .ci/run runs."""
    ci = (program.ROOT / '.ci' / 'run').read_text(encoding='utf-8')
    train, test = re.findall(r'```sh\n(python3 -m venv .*?)```', PAGE, flags=re.DOTALL)
    assert 'pip install -r requirements.txt\npython gpt.py\n' in train
    install, run = test.splitlines()[-2:]
    assert install.replace('pip install', 'pip install --quiet') in ci.splitlines() and run in ci.splitlines()
    for path in re.findall(r'-r (\S+)', train + test):
        assert (program.ROOT / path).is_file()


def test_files_exist():
    """Every link to a file and every path or script in code quotes is a file that git knows of (or will)."""
    tracked = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=program.ROOT, capture_output=True,
                             text=True)
    if tracked.returncode:
        pytest.skip('not in a git repository')
    files = set(tracked.stdout.splitlines())
    links = {link for link in re.findall(r'\]\(([^)#]+)\)', PAGE) if not link.startswith('http')}
    quoted = set(re.findall(r'`((?:tests/)?\w+\.(?:py|json|txt|md))`', PAGE)) - {'novel.txt'}
    scripts = set(re.findall(r'python (\S+\.py)', PAGE))
    assert len(links) > 5 and len(quoted) > 5 and len(scripts) > 3
    for name in links | quoted | scripts:
        assert name in files or f'tests/{name}' in files, name


def test_names_exist():
    """Every name in code quotes that looks like Python's is one in gpt.py, bigram.py or torch as they use it."""
    ours = re.sub(r'<!-- table: article -->.*?<!-- end -->', '', PAGE, flags=re.DOTALL)  # that table has the article's
    names = set(re.findall(r'`([A-Za-z_]\w+)(?:\(\))?`', ours))
    assert {'get_batch', 'Head', 'attention', 'load_model'} <= names
    for name in names:
        assert re.search(rf'\b{name}\b', GPT + BIGRAM), name


def test_settings_exist():
    """Every `name = value` on the page is a line at the top of gpt.py, and a value that it takes."""
    settings = re.findall(r'^(\w+) = ', GPT, flags=re.MULTILINE)
    used = re.findall(r'`(\w+) = ([^`]+)`', PAGE) + re.findall(r'^(\w+) = (.+)$', PAGE, flags=re.MULTILINE)
    assert len(used) > 5
    for name, value in used:
        if name not in ('model', 'idx'):  # the notebook's variables
            assert name in settings, name
            assert eval(value) is not None


def test_tests_exist():
    """Every test that the page names is one."""
    named = re.findall(r'`(test_\w+\.py)`: "([^"]+)"', PAGE)
    assert len(named) > 20
    for path, name in named:
        assert f"'{name}'" in (program.ROOT / 'tests' / path).read_text(encoding='utf-8'), (path, name)


def test_the_article_sections_name_what_is_there():
    """The classes of the map are classes of gpt.py."""
    for name in re.findall(r'"\w+<br>(\w+):', PAGE):
        assert f'class {name}(' in GPT, name


def test_ten_exercises():
    place = re.search(r'<!-- table: exercises -->\n(.*?)\n<!-- end -->', PAGE, flags=re.DOTALL)[1]
    assert [line.split('.')[0] for line in place.splitlines()] == [str(number) for number in range(1, 11)]


def test_default_results_are_within_what_is_promised():
    """The measured losses of the default run are what the project promises."""
    default = results.read()['default']
    assert default['input.txt']['loss'] <= 1.55 and default['tiny shakespeare']['loss'] <= 1.62
