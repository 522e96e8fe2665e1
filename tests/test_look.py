"""The page of look.py: its numbers are those of the model, and it says what it cannot show."""

import math
import re
import shutil
import subprocess

import pytest
import torch

import helpers

look = pytest.importorskip('look', reason='look.py draws with plotly')

TINY = {**helpers.TINY, 'n_head': 4, 'max_iters': 30, 'warmup_iters': 0, 'eval_interval': 30}
TEXT = 'to be\nor not'
FUSED = 'return F.scaled_dot_product_attention(q, k, v, is_causal=True)'


def show(folder, shown, **options):
    """Train a tiny model and run look.py on it: its program, its output, and the page."""
    path = helpers.copy(folder, **{**TINY, **options})
    helpers.load(path).train()
    arguments = [shown, '--program', str(path), '--output', str(folder / 'look.html')]
    done = helpers.quick(look.__file__, '--no-browser', *arguments)
    return helpers.load(path), done.stdout, (folder / 'look.html').read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def it(tmp_path_factory):
    """A trained program, its model, what that makes of TEXT, what look.py saw, and the page."""
    gpt, _, page = show(tmp_path_factory.mktemp('look'), TEXT)
    gpt.page, gpt.model, idx = page, gpt.load_model(), gpt.encode_string(TEXT)
    gpt.seen = look.Seen(gpt, gpt.load_model(), idx)
    gpt.p = gpt.model(torch.tensor([idx]))[0][0].softmax(dim=-1).detach()
    tokens, positions = gpt.model.token_embedding_table, gpt.model.position_embedding_table
    gpt.x = tokens.weight[idx] + positions.weight[: len(idx)]
    return gpt


def test_probabilities_and_losses_are_those_of_the_model(it):
    real = it.p[range(len(TEXT) - 1), it.seen.following[:-1]].tolist()
    losses, (chart, bars) = [-math.log(p) for p in real], look.expectations(it.seen)
    assert bars.data[0].y == pytest.approx(losses, abs=1e-4)
    assert f'Loss (mean: {sum(losses) / len(real):.2f})' in it.page
    shades = re.findall(r'<label style="background: rgb\(60 140 220 / (\S+)\)">', it.page)
    assert [float(shade) / 0.7 for shade in shades] == pytest.approx([0, *real], abs=1e-3)
    for p, frame, char in zip(it.p, chart.frames, TEXT[1:]):
        best, words = p.topk(8).indices.tolist(), frame.data[0].text
        expected = [f'<b>{it.seen.names[i]}</b>  {p[i]:.1%}' for i in best]
        assert [word.removesuffix('  ✓') for word in words[:8]] == expected
        assert [word[3] for word in words if word.endswith('✓')] == [look.visible(char)]


def test_the_weights_of_the_heads_are_those_of_the_model(it):
    rows, *squares = [figure.data[0].z for figure in look.attention(it.seen)]
    assert len(squares) == len(rows) == 8
    for square, row in zip(squares, rows):
        assert square.sum(axis=1) == pytest.approx(1) and (square[-2] == row).all()
    x = it.model.blocks[0].ln1(it.x)
    for square, head in zip(squares, it.model.blocks[0].sa.heads):
        weights = (head.query(x) @ head.key(x).T / math.sqrt(8)).detach().exp().tril()
        assert square == pytest.approx((weights.T / weights.sum(dim=-1)).T.numpy(), abs=1e-5)


def test_the_first_and_the_last_stage_are_those_of_the_model(it):
    first, *_, last = [logits.softmax(dim=-1) for logits in it.seen.stages]
    right = it.model.lm_head(it.model.ln_f(it.x)).softmax(dim=-1)
    assert torch.allclose(last, it.p, atol=1e-5) and torch.allclose(first, right, atol=1e-5)
    column = [row[0] for row in next(look.stages(it.seen)).frames[3].data[0].z]
    assert column[:8] == pytest.approx(first[3].topk(8).values.tolist())


def test_an_edited_program_and_what_cannot_be_shown(tmp_path):
    edits = [('x = tok_emb + pos_emb', 'x = tok_emb'), ('return weights @ v', FUSED)]
    edits.append(('weights = self.dropout(weights)', 'pass'))
    _, output, page = show(tmp_path, TEXT, edits=edits, n_head=2)
    for missing in ('a position_embedding_table', 'where each head looks'):
        assert f'Not shown: {missing}, as ' in output and f'<p>Not shown: {missing}' in page


def test_a_long_text_in_a_foreign_alphabet_and_errors(tmp_path):
    text = 'Быть <или>\n\tне & быть?\u200b'
    gpt, output, page = show(tmp_path, text, text=text * 300)
    assert output.startswith('Not shown: all but the last 16 characters, as ')
    tokens = re.findall(r'<label[^>]*><input[^>]*>(.*?)</label>', page)
    assert ''.join(tokens) == 'ли&gt;↵⇥не␣&amp;␣быть?U+200B'
    none = ("file or directory: 'none.py'", '--program', 'none.py')
    for words, *arguments in [('unknown', 'z'), ('none.pt yet', '--checkpoint', 'none.pt'), none]:
        done = helpers.quick(look.__file__, '--program', gpt.__file__, *arguments, code=1)
        assert words in done.stderr and done.stderr.count('\n') == 1


def test_the_page_opens_without_a_network_and_without_errors(it, tmp_path):
    assert 'src="http' not in it.page
    browser = shutil.which('chromium') or shutil.which('google-chrome') or pytest.skip('no browser')
    script = "<script>onload = () => document.querySelectorAll('input')[3].click()</script>"
    (tmp_path / 'look.html').write_text(it.page + script, encoding='utf-8')
    options = f'--headless=new --no-sandbox --disable-gpu --user-data-dir={tmp_path}/profile'
    options += (
        f' --enable-logging=stderr --virtual-time-budget=5000 --dump-dom {tmp_path}/look.html'
    )
    done = subprocess.run([browser, *options.split()], capture_output=True, text=True, timeout=60)
    assert 'CONSOLE' not in done.stderr
    assert done.stdout.count('class="main-svg"') >= it.page.count('class="plotly-graph-div"') > 9
