"""Build it yourself: the copy with blanks, and what check.py says of right and wrong answers."""

import sys

import pytest

import helpers

FOLDER = helpers.ROOT / 'tests' / 'exercise'
sys.path.insert(0, str(FOLDER))

import blanks  # noqa: E402
import check  # noqa: E402


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
    helpers.one_line(helpers.run(FOLDER / 'blanks.py', path, code=1), 'exists already')
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


@pytest.mark.parametrize('part', ['attention', 'Head.forward', 'MultiHeadAttention.forward'])
def test_the_fast_way_does_not_hide_a_blank(tmp_path, part):
    """all_heads_at_once could do the work of each of these three."""
    path = helpers.copy(tmp_path, **helpers.TINY)
    blank = blanks.make_blank(path.read_text(encoding='utf-8'))
    path.write_text(fill(blank, set(blanks.PARTS) - {part}), encoding='utf-8')
    assert f'NotImplementedError: {part}: ' in helpers.quick(path, code=1).stderr


HEADS, GPT = 'MultiHeadAttention.forward', 'GPTLanguageModel.forward'
GENERATE = 'GPTLanguageModel.generate'

# The part, what stands in it, what a learner may write there, and words that point to it.
WRONG_ANSWERS = [
    ('get_batch', 'part[i + 1 : i + block_size + 1]', 'part[i : i + block_size]', 'shift it'),
    ('get_batch', "if split == 'train' else val_data", '', "get_batch('val') reads the wrong part"),
    ('get_batch', '- block_size, (batch', '- block_size - 1, (batch', 'yours start at 31 pos'),
    ('attention', 'scores = scores.masked_fill', 'scores.masked_fill', 'did you mask'),
    ('attention', 'triu(diagonal=1)', 'tril(diagonal=-1)', 'mask is the wrong way round'),
    ('attention', 'triu(diagonal=1)', 'tril()', 'mask is the wrong way round'),
    ('attention', 'triu(diagonal=1)', 'triu()', 'nan: may each character look at itself'),
    ('attention', '/ math.sqrt(head_size)', '', 'not scaled'),
    ('attention', '(scores, dim=-1)', '(scores, dim=-2)', 'softmax goes over the wrong dim'),
    ('attention', 'dropout, training)', 'dropout, False)', 'in training, dropout must zero'),
    ('Head.forward', '(q, k, v, self', '(k, q, v, self', 'query and key are swapped'),
    ('Head.forward', 'v, self.training)', 'v)', 'give attention self.training'),
    (HEADS, 'self.dropout(self.proj(out))', 'self.dropout(out)', 'proj is missing'),
    (HEADS, 'self.dropout(self.proj(out))', 'self.proj(out)', 'self.dropout must zero'),
    ('Block.forward', 'x = x + self.sa', 'x = self.sa', 'x + is missing before attention'),
    ('Block.forward', 'x = x + self.ff', 'x = self.ff', 'x + is missing before feed-forward'),
    ('Block.forward', 'x = x + self.sa', 'x += self.sa', 'write x = x + ...'),
    (GPT, '= tok_emb + pos_emb', '= tok_emb', 'positions are missing'),
    (GPT, 'logits, F.', 'logits.flatten(0, 1), F.', 'expected shape (2, 7, 59), got (14, 59)'),
    (GPT, '(logits.flatten(0, 1)', '(logits.softmax(-1).flatten(0, 1)', 'softmax comes twice'),
    (GENERATE, 'idx[:, -block_size:]', 'idx', '13 characters, but it sees at most block_size'),
    (GENERATE, 'logits[:, -1]', 'logits[:, 0]', 'by the scores at the last position'),
    (GENERATE, '/ temperature', '* temperature', 'divide the scores by the temperature'),
    (GENERATE, 'if temperature == 0', 'if True', 'use torch.multinomial'),
    ('learn', 'optimizer.zero_grad()', 'pass', 'added to the new one: call zero_grad'),
    ('learn', 'nn.utils.clip_grad_norm_', '', 'not clipped'),
    ('learn', 'model.train()  # turns', 'pass  #', 'dropout is off: call model.train()'),
    ('learn', "['lr'] = learning", "['rate'] = learning", 'must become learning_rate_at(step)'),
    ('estimate_loss', 'model.eval()  # turns dropout off\n    los', 'los', 'dropout is on'),
    ('estimate_loss', '(split, generator)', '(split)', 'give get_batch a generator'),
    ('estimate_loss', 'total / eval_iters', 'total', 'train: expected'),
]


@pytest.mark.parametrize('part', blanks.PARTS)
def test_a_wrong_answer_is_named_and_the_other_parts_are_done(tmp_path, part):
    answers = [rest for name, *rest in WRONG_ANSWERS if name == part]
    assert len(answers) >= 2
    for ours, theirs, words in answers:
        verdicts = judge_all(helpers.copy(tmp_path, edits=[(ours, theirs)]))
        assert verdicts[part].startswith('wrong: ') and words in verdicts.pop(part)
        assert set(verdicts.values()) == {'done'}


def test_an_error_in_an_answer_is_reported_with_its_line(tmp_path):
    path = helpers.copy(tmp_path, edits=[('return weights @ v', 'return v @ weights')])
    lines = path.read_text(encoding='utf-8').split('\n')
    number = 1 + [line.strip()[:18] for line in lines].index('return v @ weights')
    assert check.judge(path, 'attention').startswith(f'wrong: line {number}: RuntimeError: ')


def test_a_file_that_does_not_start_gets_one_line(tmp_path):
    path = helpers.copy(tmp_path, edits=[('return weights @ v', 'return weights @ (v')])
    helpers.one_line(helpers.quick(FOLDER / 'check.py', str(path), code=1), path, 'SyntaxError')
