"""Look inside a trained model: what it expects, where it looks, and what it has learned.

    python tests/exercise/look.py "The king is dead"

This reads gpt.pt, writes look.html, which needs no network, and opens it in the browser. Without a
text, it shows the beginning of the validation text. It also works for an edited program, as long as
the modules keep their names. In shapes, T is the number of characters in the text.
"""

import argparse
import re
import sys
import types
import webbrowser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import torch

BLUE, ORANGE, CLEAR = 'rgb(60,140,220)', 'rgb(225,120,20)', 'rgba(0,0,0,0)'
SCALE = [[0, 'rgba(225,120,20,1)'], [0.5, 'rgba(225,120,20,0)']]  # from -1 to 0
SCALE += [[0.5, 'rgba(60,140,220,0)'], [1, 'rgba(60,140,220,1)']]  # from 0 to 1
HEAT = {'colorscale': SCALE, 'zmin': -1, 'zmax': 1, 'showscale': False}
PALE = {**HEAT, 'zmin': -1.4, 'zmax': 1.4, 'xgap': 4}  # behind words, which need contrast
AXIS = {'automargin': True, 'fixedrange': True, 'zeroline': False, 'showgrid': False}
NINE = {'range': [8.5, -0.5], 'visible': False}  # rows from the top down
LAYOUT = {'paper_bgcolor': CLEAR, 'plot_bgcolor': CLEAR, 'xaxis': AXIS, 'yaxis': AXIS}
LAYOUT |= {'margin': {'l': 8, 'r': 8, 't': 40, 'b': 8}, 'dragmode': False, 'font_size': 15}
LAYOUT |= {'title': {'x': 0, 'font_size': 17}, 'hoverlabel': {'bgcolor': '#222', 'font_size': 16}}


def visible(s):
    """'a b\\n' -> 'a␣b↵', safe in HTML. What cannot be printed becomes its Unicode number."""
    marks = {char: f'U+{ord(char):04X}' for char in s if not char.isprintable()}
    marks |= {' ': '␣', '\n': '↵', '\t': '⇥', '&': '&amp;', '<': '&lt;', '>': '&gt;'}
    return ''.join(marks.get(char, char) for char in s)


class Seen:
    """The numbers of the page on idx, a list of T numbers. `missing` is what cannot be shown."""

    @torch.no_grad()
    def __init__(self, gpt, model, idx):
        T, modules, taken, self.missing = len(idx), dict(model.named_modules()), {}, []
        for name, module in modules.items():  # A hook: PyTorch calls it with what a module takes.
            module.register_forward_pre_hook(  # We keep a copy of the first.
                lambda _, xs, name=name: taken.update({name: taken.get(name, xs[0].clone())})
            )
        self.logits = model(torch.tensor([idx]))[0][0]  # (T, vocab_size)
        self.losses = -self.logits.log_softmax(dim=-1)[range(T - 1), idx[1:]]  # (T - 1)
        self.following = [*idx[1:], None]  # the real answers, of which the last is not known
        self.names = [visible(gpt.decode_list([i])) for i in range(self.logits.shape[-1])]
        self.tokens, self.width = [self.names[i] for i in idx], f'min-width: {16 * T + 100}px'

        # The weights of each head, (T, T): a row for each character. They pass through dropout.
        self.weights, blocks = {}, [name for name in modules if re.fullmatch(r'blocks\.\d+', name)]
        for name, x in taken.items():
            block = re.match(r'blocks\.(\d+)\..*dropout$', name)
            if block and x.shape[-2:] == (T, T) and (x.sum(dim=-1) - 1).abs().max() < 1e-4:
                for w in x.reshape(-1, T, T).numpy():
                    head = f'block {int(block[1]) + 1}, head '
                    self.weights[f'{head}{1 + sum(head in key for key in self.weights)}'] = w
        if sum(key.endswith('head 1') for key in self.weights) < max(1, len(blocks)):
            self.missing.append('where each head looks, as no `dropout` takes its weights')

        # What the last layers make of the vectors after the embeddings and after each block.
        last = [name for name in ('ln_f', 'lm_head') if name in taken]
        xs = [taken[name] for name in (*blocks, *last[:1]) if name in taken]
        self.stages = [torch.nn.Sequential(*map(modules.get, last))(x)[0] for x in xs]
        if 'lm_head' not in last or not torch.allclose(self.stages[-1], self.logits, atol=1e-3):
            self.stages = []
            self.missing.append('how the answer forms, as it is not what ln_f and lm_head give')

        tables = ['token_embedding_table', 'position_embedding_table']
        used = {name: modules[name].weight.detach() for name in tables if name in taken}
        if xs and tables[0] in used and torch.equal(xs[0][0], used[tables[0]][idx]):
            used.pop(tables[1], None)  # it is there, but it is not added
        self.table, self.positions = map(used.get, tables)
        self.missing += [f'a {name}, as the model uses none' for name in tables if name not in used]

    def likeliest(self, p, real):
        """The largest eight of p (vocab_size), that of the real answer, and words on them."""
        best = p.topk(min(8, len(p))).indices.tolist()
        best += [real] * (real is not None and real not in best)
        words = [f'<b>{self.names[i]}</b>  {p[i]:.1%}{"  ✓" * (i == real)}' for i in best]
        return [*p[best].tolist(), None][:9], [*words, ''][:9]


def figure(traces, style, frames=(), **layout):  # shows frames[t] once the character t is chosen
    fig = go.Figure(traces, frames=[{'name': t, 'data': [f]} for t, f in enumerate(frames)])
    return fig.update_layout(layout, template={'layout': LAYOUT}, meta=style)


def axis(labels, **options):  # with these labels at 0, 1, ...
    return {'tickvals': list(range(len(labels))), 'ticktext': labels, 'tickangle': 0, **options}


def expectations(seen):
    """What does it expect? The bars show what the model expects after the chosen character (✓ is
    what comes), and below, the loss of each character, -ln of its probability. Look for a high
    loss, as where words begin, and choose the character before it to see what was expected."""
    bars = []
    for p, real in zip(seen.logits.softmax(dim=-1), seen.following):
        x, words = seen.likeliest(p, real)
        bar = {'x': x, 'text': words, 'textposition': 'outside', 'hoverinfo': 'skip'}
        colors = [ORANGE if word.endswith('✓') else BLUE for word in words]
        bars.append(go.Bar(bar, orientation='h', cliponaxis=False, marker_color=colors))
    axes = {'xaxis': {'range': [0, 1.4], 'visible': False}, 'yaxis': NINE, 'margin_t': 8}
    yield figure(bars[-2], 'height: 300px', bars, **axes)
    layout = {'title': f'Loss (mean: {seen.losses.mean():.2f})', 'xaxis': axis(seen.tokens[1:])}
    bar = go.Bar(y=seen.losses.tolist(), marker_color=BLUE)
    yield figure(bar, f'height: 260px; {seen.width}', **layout)


def attention(seen):
    """Where does it look? For the chosen character, each row shows how much a head takes from it
    and from those before it, in shares that sum to 100%, and the squares show this for every
    character, one row each. Look for habits, such as taking from the character before or from the
    last space, but from block 2 on, what a head takes may itself have come from elsewhere."""
    T, heat = len(seen.tokens), {**HEAT, 'hovertemplate': '%{z:.1%} from %{x}<extra></extra>'}
    if seen.weights:
        names, weights = list(seen.weights), np.stack(list(seen.weights.values()))
        rows = [go.Heatmap(heat, z=weights[:, t], xgap=1, ygap=4) for t in range(T)]
        style = f'height: {50 + 32 * len(names)}px; {seen.width}'
        axes = {'xaxis': axis(seen.tokens), 'yaxis': axis(names, autorange='reversed')}
        yield figure(rows[-2], style, rows, margin_t=8, **axes)
    for name, w in seen.weights.items():
        square = axis(seen.tokens, showticklabels=T <= 20, tickfont={'size': 12})
        axes = {'xaxis': square, 'yaxis': {**square, 'autorange': 'reversed'}}
        yield figure(go.Heatmap(heat, z=w), 'width: 280px; height: 310px', title_text=name, **axes)


def stages(seen):
    """How does the answer form? Each column shows what ln_f and lm_head predict from the vectors at
    that point, as if no block followed (the logit lens; nostalgebraist, 2020), with the mean loss
    over the text; the last one is the model's prediction. See where ✓ rises to the top, but an
    earlier vector may hold more than they can read, as they only learned to read the last."""
    if seen.stages:
        probs = torch.stack(seen.stages, dim=1).softmax(dim=-1)  # (T, stages, vocab_size)
        losses, maps = -probs[:-1][range(len(seen.losses)), :, seen.following[:-1]].log(), []
        labels = [f'block {n}<br>loss {loss:.2f}' for n, loss in enumerate(losses.mean(dim=0))]
        labels[0] = labels[0].replace('block 0', 'embeddings')
        for columns, real in zip(probs, seen.following):
            z, words = zip(*[seen.likeliest(p, real) for p in columns])
            heat = {**PALE, 'z': [*zip(*z)], 'text': [*zip(*words)], 'texttemplate': '%{text}'}
            maps.append(go.Heatmap(heat, textfont_size=14, hoverinfo='skip'))
        axes = {'xaxis': axis(labels, side='top'), 'yaxis': NINE, 'margin_t': 50}
        yield figure(maps[-2], f'height: 360px; min-width: {105 * len(labels)}px', maps, **axes)


def embeddings(seen):
    """What has it learned about characters and positions? The characters lie in the plane in which
    their embeddings vary most (the first two principal components), and the square shows which
    positions have similar embeddings (blue) or opposite ones (orange). Look for groups, such as
    vowels or capitals, and hover over a character for its nearest five in all dimensions."""
    if seen.table is not None:
        U, S, _ = torch.linalg.svd(seen.table - seen.table.mean(dim=0), full_matrices=False)
        (x, y), shares = (U * S)[:, :2].T.numpy(), S**2 / (S**2).sum()
        near = torch.cdist(seen.table, seen.table).fill_diagonal_(torch.inf).argsort(dim=-1)
        near = ['  '.join(seen.names[i] for i in row) for row in near[:, :5].tolist()]
        dots = {'x': x, 'y': y, 'text': seen.names, 'hovertext': near, 'textfont_size': 17}
        dots['hovertemplate'] = 'nearest to %{text}:  %{hovertext}<extra></extra>'
        titles = [f'component {n + 1} ({shares[n]:.1%} of the variance)' for n in (0, 1)]
        axes = {'xaxis_title': titles[0], 'yaxis_title': titles[1], 'margin_t': 8}
        yield figure(go.Scatter(dots, mode='text'), 'height: 560px', **axes)
    if seen.positions is not None:
        unit = (seen.positions / seen.positions.norm(dim=-1, keepdim=True)).numpy()
        layout = {'yaxis_autorange': 'reversed', 'title_text': 'Cosine similarity of positions'}
        yield figure(go.Heatmap(HEAT, z=unit @ unit.T), 'width: 340px; height: 380px', **layout)


def temperatures(seen):
    """How sure is it? The bars show how likely each character is to come after the whole text if
    the logits are divided by a temperature before softmax (at 1, this is the model's prediction).
    Compare the likeliest with the rest, all others together, since a sample draws from it, too."""
    best, bars = seen.logits[-1].topk(min(8, len(seen.names))).indices.tolist(), []
    for temperature in (0.5, 0.8, 1, 1.5):
        p = (seen.logits[-1] / temperature).softmax(dim=-1)[best].tolist()
        bars.append(go.Bar(y=[*p, max(0.0, 1 - sum(p))], name=f'temperature {temperature}'))
    layout = {'legend': {'orientation': 'h', 'y': 1.1}, 'yaxis_tickformat': '.0%'}
    layout['xaxis'] = axis([*[seen.names[i] for i in best], 'rest'])
    yield figure(bars, 'height: 400px', **layout)


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Look inside</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body { margin: auto; max-width: 1200px; padding: 0 16px 64px; font: 18px/1.5 sans-serif }
body, form { color: light-dark(#1b1b1b, #eee); background: light-dark(#fff, #17191d) }
form { position: sticky; top: 0; z-index: 9; max-height: 30vh; overflow: auto; padding: 8px 4px }
label { display: inline-block; padding: 0 2px; font: 22px/1.5 monospace; cursor: pointer }
label:has(:checked) { outline: 3px solid rgb(225 120 20) } input { appearance: none; margin: 0 }
.box { overflow-x: auto } .box:has(> [style^=width]) { display: inline-block; max-width: 100% }
:root { color-scheme: light dark } svg g:not(.hovertext) > text { fill: currentColor !important }
</style><h1>Look inside</h1><p>The bluer a character, the more probability the model gave it,
knowing only what comes before it. Choose one to see more.</p><form autocomplete="off" onchange="
document.querySelectorAll('.follows .plotly-graph-div').forEach(plot => Plotly.animate(plot,
[event.target.value], {mode: 'immediate', frame: {duration: 0}, transition: {duration: 0}}))">"""


def write_page(seen):
    page = PAGE
    for t, (token, p) in enumerate(zip(seen.tokens, [0.0, *(-seen.losses).exp().tolist()])):
        radio = f'<input type=radio name=t value={t}{" checked" * (t == len(seen.tokens) - 2)}>'
        page += f'<label style="background: rgb(60 140 220 / {0.7 * p:.4f})">{radio}{token}</label>'
    page += '</form>' + ''.join(f'<p>Not shown: {words}.</p>' for words in seen.missing)
    for part in (expectations, attention, stages, embeddings, temperatures):
        title, caption = part.__doc__.split('?', 1)
        figures = list(part(seen))
        page += f'<h2>{title}?</h2>'
        for fig in figures:
            box = 'box follows' if fig.frames else 'box'
            config = {'displayModeBar': False, 'responsive': True}
            plot = fig.to_html(config, False, 'newPlot' not in page, full_html=False)
            page += f'<div class="{box}"><div style="{fig.layout.meta}">{plot}</div></div>'
        page += f'<p>{caption if figures else "This cannot be shown (see above)."}</p>'
    return page


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('text', nargs='?', help='what the model reads')
    parser.add_argument('--program', type=Path, default=Path(__file__).parents[2] / 'gpt.py')
    parser.add_argument('--checkpoint', type=Path, help="if it is not the program's own")
    parser.add_argument('--output', type=Path, default='look.html')
    parser.add_argument('--no-browser', action='store_true', help='only write the page')
    options = parser.parse_args()
    try:
        gpt = types.ModuleType(options.program.stem)
        gpt.__file__ = str(options.program)
        exec(compile(options.program.read_bytes(), gpt.__file__, 'exec'), vars(gpt))
        gpt.device, gpt.checkpoint = 'cpu', (options.checkpoint or gpt.checkpoint).resolve()
        assert gpt.checkpoint.exists(), f'no {gpt.checkpoint} yet: run python {options.program}'
        text = options.text or gpt.decode_list(gpt.val_data[: min(64, gpt.block_size)].tolist())
        assert set(text) <= set(gpt.chars), f'unknown characters: {set(text) - set(gpt.chars)}'
        idx = torch.as_tensor(gpt.encode_string(text)).tolist()
        assert len(idx) > 1, 'the text needs at least two characters'
        seen = Seen(gpt, gpt.load_model(), idx[-gpt.block_size :])
        long = f'all but the last {gpt.block_size} characters, as that is block_size'
        seen.missing += [long] * (len(idx) > gpt.block_size)
        options.output.write_text(write_page(seen), encoding='utf-8')
    except Exception as error:
        sys.exit(f'{type(error).__name__}: {" ".join(str(error).split())[:300]}')
    print(*map('Not shown: {}.'.format, seen.missing), f'Written: {options.output}', sep='\n')
    if not options.no_browser:
        webbrowser.open(options.output.resolve().as_uri())


if __name__ == '__main__':
    main()
