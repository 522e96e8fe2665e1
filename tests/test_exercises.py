"""The exercises: the copy with blanks, the verdicts on right and wrong answers, the solutions."""

import pytest

import blanks
import check
import experiments

import helpers
from helpers import TINY, change, copy, quick

FOLDER = helpers.ROOT / 'tests' / 'exercise'
SOLUTIONS = sorted(path.stem for path in (FOLDER / 'solutions').glob('*.diff'))
WRONG = helpers.read_edits(FOLDER / 'wrong_answers.txt')


def judge_all(path):
    """{part: what check.py says of it}."""
    return {part: check.judge(path, part) for part in blanks.PARTS}


def fill(source, parts):
    """`source`, a blank copy, with these parts written as in gpt.py."""
    lines, answers = source.split('\n'), helpers.read().split('\n')
    here, there = blanks.find_bodies(source), blanks.find_bodies(helpers.read())
    for part in sorted(parts, key=here.get, reverse=True):
        lines[slice(*here[part])] = answers[slice(*there[part])]
    return '\n'.join(lines)


def test_the_blank_copy_is_made_once_and_is_empty_in_every_part(tmp_path):
    path = tmp_path / 'my_gpt.py'
    assert f'{FOLDER / "check.py"} {path}' in quick(FOLDER / 'blanks.py', str(path)).stdout
    gpt = helpers.load(path)
    assert gpt.text == helpers.INPUT and gpt.checkpoint_path == 'my_gpt.pt'
    (tmp_path / 'input.txt').write_text(helpers.TEXT, encoding='utf-8')  # faster
    judged = quick(FOLDER / 'check.py', str(path), code=1)
    assert judged.stdout == ''.join(f'{part:26} still empty\n' for part in blanks.PARTS)
    path.write_text('my work', encoding='utf-8')
    helpers.last_line(quick(FOLDER / 'blanks.py', str(path), code=1), 'exists already')
    assert path.read_text(encoding='utf-8') == 'my work'


def test_parts_can_be_done_one_by_one_and_with_all_of_them_it_is_gpt_py_to_the_letter(tmp_path):
    blank, path = blanks.make_blank(helpers.read()), copy(tmp_path)
    assert blank.count('NotImplementedError') == len(blanks.PARTS) == 9
    assert max(map(len, blank.split('\n'))) <= 100
    for part in blanks.PARTS:
        path.write_text(fill(blank, [part]), encoding='utf-8')
        assert judge_all(path) == {**dict.fromkeys(blanks.PARTS, 'still empty'), part: 'done'}
    assert fill(blank, blanks.PARTS) == helpers.read()
    done = quick(FOLDER / 'check.py', str(copy(tmp_path)))
    lines = ''.join(f'{part:26} done\n' for part in blanks.PARTS)
    assert done.stdout == f'{lines}\nAll done. Now run: python {path}\n'


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_answer_is_named_and_the_other_parts_are_done(tmp_path, name):
    words, ours, theirs = WRONG[name]
    verdicts = judge_all(copy(tmp_path, edits=[(ours, theirs)]))
    verdict = verdicts.pop(name.split()[0])
    assert verdict.startswith('wrong: ') and words in verdict
    assert set(verdicts.values()) == {'done'} and len(verdicts) == 8


def test_an_error_in_an_answer_is_reported_with_its_line(tmp_path):
    """If the file does not even start, that is one line."""
    path = copy(tmp_path, edits=[('return weights @ v', 'return v @ weights')])
    number = path.read_text(encoding='utf-8').partition('return v @ weights')[0].count('\n') + 1
    assert check.judge(path, 'Head.forward').startswith(f'wrong: line {number}: RuntimeError: ')
    change(path, ('return v @ weights', 'return v @ (weights'))
    done = quick(FOLDER / 'check.py', str(path), code=1)
    assert str(path) in helpers.last_line(done, 'SyntaxError') and done.stderr.count('\n') == 1


def solve(folder, name, **settings):
    """Run a solution (None: the program as it is). Returns its path and output."""
    path = copy(folder)
    if name:
        experiments.apply_solution(name, folder)
    change(path, **{**TINY, 'max_iters': 10, 'warmup_iters': 0, **settings})
    return path, quick(path)


@pytest.mark.parametrize('name', [name for name in SOLUTIONS if name != 'trigrams'])
def test_a_solution_applies_and_runs(tmp_path, name):
    """Some change no number. Then the sample is the same, too, past a full context."""
    done = solve(tmp_path, name)[1]
    assert 'step 10: ' in done.stdout
    same = {'fused-attention': 'all-heads-at-once', 'two-loops': None, 'key-value-cache': None}
    if name in same:
        other = solve(tmp_path, same[name])[1]
        assert helpers.steps(done) == helpers.steps(other)
        assert done.stdout.partition('\n\n')[2] == other.stdout.partition('\n\n')[2] != ''


def test_the_solution_for_bigram_applies_and_runs(tmp_path):
    path = copy(tmp_path, 'bigram.py', helpers.INPUT, device='cpu', max_iters=10)
    experiments.apply_solution('trigrams', tmp_path)
    assert 'counted trigram, validation: 1.9' in quick(path).stdout


def test_greedy_and_top_k(tmp_path):
    """At temperature 0 or with top_k = 1, the likeliest comes."""
    path, greedy = solve(tmp_path, 'greedy-and-top-k', temperature=0.0)
    gpt = helpers.load(change(path, temperature=1.0, top_k=1))
    assert greedy.stdout.endswith(f'\n{gpt.sample(gpt.load_model(), 20)}\n')
