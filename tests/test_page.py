"""The pages: links, names, commands, code, tables, pictures; the sizes of the programs."""

import ast
import io
import re
import tokenize

import pytest

import tables

import helpers

FILES = ['README.md', 'tests/README.md', 'tests/exercise/README.md', 'tests/measure/README.md']
PAGES = {name: (helpers.ROOT / name).read_text(encoding='utf-8') for name in FILES}
PAGE, SOURCE = PAGES['README.md'], helpers.read()


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.*)$', path.read_text(encoding='utf-8'), re.M)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('name', FILES)
def test_links_lead_somewhere(name):
    page = re.sub(r'^```.*?^```$', '', PAGES[name], flags=re.M | re.S)
    found = re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', page)
    for link in filter(None, sum(found, ())):
        if not link.startswith('https://'):
            file, _, anchor = link.partition('#')
            path = (helpers.ROOT / name).parent / file if file else helpers.ROOT / name
            assert path.exists(), link
            assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize('name', FILES)
def test_names_and_commands_exist(name):
    code = SOURCE + helpers.read('bigram.py')
    for setting, value in re.findall(r'`(\w+) = ([\w.\'-]+)`', PAGES[name]):
        assert re.search(rf'^{setting} = ', code, re.M) or setting == 'top_k', setting
        ast.literal_eval(value)
    for word in re.findall(r'`([a-z]\w*_\w+)`', PAGES[name]):
        assert re.search(rf'\b{word}\b', code) or word in ('top_k', 'find_unused_parameters'), word
    for path in re.findall(r'python3? ((?:tests/[\w/]+|\w+)\.py)', PAGES[name]):
        assert (helpers.ROOT / path).exists() or path == 'my_gpt.py', path


def test_code_on_the_page_is_that_of_gpt_py():
    blocks = re.findall(r'^```(\w+)\n(.*?)^```$', PAGE, re.M | re.S)
    learn = SOURCE[SOURCE.index('def learn(') :].partition('\n\n\n')[0]
    assert ('python', f'{learn}\n') in blocks
    drawn = next(text for _, text in blocks if text.startswith('idx  '))
    assert ''.join(f'#     {line}\n' for line in drawn.splitlines()) in SOURCE


@pytest.mark.parametrize('path', tables.PAGES, ids=lambda path: path.parent.name)
def test_tables_are_those_of_the_results(path):
    page = path.read_text(encoding='utf-8')
    assert tables.filled(page) == page, 'run tests/measure/tables.py'


@pytest.mark.parametrize('name, lines, size', [('gpt.py', 600, 29e3), ('bigram.py', 280, 14e3)])
def test_programs_are_short_and_mostly_explanation(name, lines, size):
    source = helpers.read(name)
    assert len(source.splitlines()) <= lines and len(source.encode()) <= size
    tokens = [token.string for token in tokenize.generate_tokens(io.StringIO(source).readline)]
    words = ''.join(token for token in tokens if token.startswith(('#', '"""')))
    assert len(words) > 0.5 * len(re.sub(r'\s*\n\s*', '\n', source))
    assert len(PAGE.splitlines()) <= 200
