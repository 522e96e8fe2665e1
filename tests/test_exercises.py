"""The exercises: the copy with blanks, the verdicts on right and wrong answers, the solutions."""

import re
import sys

import pytest

import helpers

FOLDER = helpers.ROOT / 'tests' / 'exercise'
SOLUTIONS = sorted(path.stem for path in (FOLDER / 'solutions').glob('*.diff'))
sys.path[:0] = [str(FOLDER), str(FOLDER.parent / 'measure')]

import blanks  # noqa: E402
import check  # noqa: E402
import experiments  # noqa: E402

WRONG = helpers.read_edits(FOLDER / 'wrong_answers.txt')


def judge_all(path):
    """{part: what check.py says of it}."""
    return {part: check.judge(path, part) for part in blanks.PARTS}


def fill(source, parts):
    """`source`, a blank copy, with these parts written as in gpt.py."""
    lines, answers = source.split('\n'), helpers.read().split('\n')
    blank_bodies, bodies = blanks.find_bodies(source), blanks.find_bodies(helpers.read())
    for part in sorted(parts, key=blank_bodies.get, reverse=True):
        lines[slice(*blank_bodies[part])] = answers[slice(*bodies[part])]
    return '\n'.join(lines)


def test_the_blank_copy_is_made_once_and_is_empty_in_every_part(tmp_path):
    path = tmp_path / 'my_gpt.py'
    made = helpers.run(FOLDER / 'blanks.py', path)
    assert (tmp_path / 'input.txt').read_text(encoding='utf-8') == helpers.INPUT
    assert f'{FOLDER / "check.py"} {path}' in made.stdout
    assert "\ncheckpoint_path = 'my_gpt.pt'  #" in path.read_text(encoding='utf-8')
    judged = helpers.run(FOLDER / 'check.py', path, code=1)
    assert judged.stdout == ''.join(f'{part:26} still empty\n' for part in blanks.PARTS)
    path.write_text('my work', encoding='utf-8')
    helpers.last_line(helpers.run(FOLDER / 'blanks.py', path, code=1), 'exists already')
    assert path.read_text(encoding='utf-8') == 'my work'


def test_the_blank_copy_with_the_answers_filled_in_is_gpt_py_to_the_letter():
    blank = blanks.make_blank(helpers.read())
    assert blank.count('NotImplementedError') == len(blanks.PARTS) == 9
    assert fill(blank, blanks.PARTS) == helpers.read()
    assert blank.count('"""') == helpers.read().count('"""')  # it keeps all descriptions
    assert max(map(len, blank.split('\n'))) <= 100


def test_gpt_py_passes_in_every_part(tmp_path):
    path = helpers.copy(tmp_path)
    done = helpers.quick(FOLDER / 'check.py', str(path))
    lines = ''.join(f'{part:26} done\n' for part in blanks.PARTS)
    assert done.stdout == f'{lines}\nAll done. Now run: python {path}\n'


def test_a_part_can_be_done_while_all_others_are_empty(tmp_path):
    path = helpers.copy(tmp_path)
    for part in blanks.PARTS:
        path.write_text(fill(blanks.make_blank(helpers.read()), [part]), encoding='utf-8')
        assert judge_all(path) == {**dict.fromkeys(blanks.PARTS, 'still empty'), part: 'done'}


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_answer_is_named_and_the_other_parts_are_done(tmp_path, name):
    words, ours, theirs = WRONG[name]
    verdicts = judge_all(helpers.copy(tmp_path, edits=[(ours, theirs)]))
    verdict = verdicts.pop(name.split()[0])
    assert verdict.startswith('wrong: ') and words in verdict
    assert set(verdicts.values()) == {'done'} and len(verdicts) == 8


def test_an_error_in_an_answer_is_reported_with_its_line(tmp_path):
    path = helpers.copy(tmp_path, edits=[('return weights @ v', 'return v @ weights')])
    lines = path.read_text(encoding='utf-8').split('\n')
    number = 1 + [line.strip()[:18] for line in lines].index('return v @ weights')
    assert check.judge(path, 'Head.forward').startswith(f'wrong: line {number}: RuntimeError: ')


def test_a_file_that_does_not_start_gets_one_line(tmp_path):
    path = helpers.copy(tmp_path, edits=[('return weights @ v', 'return weights @ (v')])
    done = helpers.quick(FOLDER / 'check.py', str(path), code=1)
    assert str(path) in helpers.last_line(done, 'SyntaxError') and done.stderr.count('\n') == 1


# ----------------------------------------------------------
# Solutions


def run_solution(folder, name, **settings):
    """A tiny run with the diff of a solution (None: without one), and its program as a module."""
    (folder / str(name)).mkdir()
    path = helpers.copy(folder / str(name))
    if name:
        experiments.apply_solution(name, path.parent)
    done = helpers.quick(helpers.change(path, **{**helpers.TINY, 'warmup_iters': 0, **settings}))
    return done.stdout, path


@pytest.mark.parametrize('name', SOLUTIONS)
def test_a_solution_applies_and_runs(tmp_path, name):
    if name == 'trigrams':
        path = helpers.copy(tmp_path, 'bigram.py', helpers.INPUT, device='cpu', max_iters=10)
        experiments.apply_solution(name, tmp_path)
        assert 'counted trigram, validation: 1.9' in helpers.quick(path).stdout
    else:
        assert ' 20: ' in run_solution(tmp_path, name)[0].replace('step 20:', ' 20: ')


@pytest.mark.parametrize(
    'one, other',
    [(None, 'two-loops'), (None, 'key-value-cache'), ('all-heads-at-once', 'fused-attention')],
)
def test_solutions_that_change_no_number(tmp_path, one, other):
    """Also the sample is the same, past a full context."""
    first, second = [run_solution(tmp_path, each, max_new_tokens=40)[0] for each in (one, other)]
    assert re.sub(r'\(\d+ s\)', '', first) == re.sub(r'\(\d+ s\)', '', second)


def test_greedy_and_top_k(tmp_path):
    """At temperature 0 or with top_k = 1, the likeliest comes. Else, as often as it should."""
    settings = {'temperature': 0.0, 'max_new_tokens': 60}
    greedy, path = run_solution(tmp_path, 'greedy-and-top-k', **settings)
    gpt = helpers.load(helpers.change(path, temperature=1.0, top_k=1))
    assert greedy.endswith(f'\n{gpt.sample(gpt.load_model(), 60)}\n')


def test_every_experiment_is_another_program(tmp_path):
    names, keys = list(experiments.EXPERIMENTS), set()
    for name in names:
        keys.add(experiments.key(experiments.write_program(name, tmp_path, 1)))
    assert len(keys) == len(names) > 30
