"""Look inside a trained model, in one page: what it expects, where it looks, what it has learned.

    python tests/exercise/look.py "The king is dead"

It loads gpt.pt, writes look.html, which needs no network, and opens it in the browser. Without a
text, it shows the beginning of the validation text.

All is read off the model by hooks: functions that PyTorch calls with what each module takes and
gives. So an edited program works too, as long as its modules keep their names. In shapes, T is the
number of characters in the text.
"""

import argparse
import html
import importlib.util
import re
import string
import sys
import types
import unicodedata
import webbrowser
from pathlib import Path

import torch
import torch.nn as nn
from torch.nn import functional as F

try:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots
except ImportError:
    sys.exit('look.py draws with plotly: pip install plotly')

ROOT = Path(__file__).resolve().parent.parent.parent
BLUE, ORANGE, CLEAR = 'rgb(60,140,220)', 'rgb(225,120,20)', 'rgba(0,0,0,0)'
SHADES = {'colorscale': [[0, 'rgba(60,140,220,0)'], [1, 'rgba(60,140,220,0.85)']]}
SHADES |= {'zmin': 0, 'zmax': 1, 'showscale': False, 'xgap': 1, 'ygap': 1}


def visible(s):
    """'a b\\n' -> 'a␣b↵', safe in HTML. What cannot be printed becomes its number in Unicode."""
    marks = {char: f'U+{ord(char):04X}' for char in s if not char.isprintable()}
    marks.update({char: f'◌{char}' for char in s if unicodedata.category(char)[0] == 'M'})  # accents
    marks.update({' ': '␣', '\n': '↵', '\t': '⇥'})
    return html.escape(''.join(marks.get(char, char) for char in s), quote=False)


def watch(model, idx):
    """Run the model on idx (1, T). Return what its modules first took and gave: {name: tensor}."""
    taken, given, names = {}, {}, {module: name for name, module in model.named_modules()}

    def before(module, inputs):
        if inputs:
            taken.setdefault(names.get(module), inputs[0].clone())  # in case it is changed later

    def after(module, inputs, output):
        output = output[0] if isinstance(output, tuple) else output
        given.setdefault(names.get(module), output.clone())

    hooks = nn.modules.module
    with hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after):
        model(idx)
    return taken, given


@torch.no_grad()
def observe(gpt, model, idx):
    """All numbers of the page on idx, a list of T numbers. `notes` say what cannot be shown."""
    T, modules = len(idx), dict(model.named_modules())
    taken, given = watch(model, torch.tensor([idx]))
    seen = types.SimpleNamespace(idx=idx, weights={}, stages=[], tables=[], notes=[])
    seen.logits = given[''][0]  # (T, vocab_size)
    seen.probs = seen.logits.softmax(dim=-1)
    seen.losses = -seen.logits.log_softmax(dim=-1)[range(T - 1), idx[1:]]  # (T - 1)
    seen.names = [visible(gpt.decode_list([i])) for i in range(seen.logits.shape[-1])]
    seen.tokens = [seen.names[i] for i in idx]
    seen.titles = [
        f'After {"…" * (t > 11)}{"".join(seen.tokens[max(0, t - 11) : t + 1])}' for t in range(T)
    ]
    seen.counts = torch.bincount(gpt.train_data, minlength=len(seen.names))

    # The weights of a head, (T, T) with a row for each character, are what its dropout takes.
    heads = [name for name in modules if re.fullmatch(r'blocks\.\d+\..*heads\.\d+', name)]
    for name in heads:
        weights = taken.get(f'{name}.dropout', torch.zeros(0))
        if weights.shape == (1, T, T) and torch.allclose(weights.sum(-1), torch.ones(T)):
            block, head = [int(number) + 1 for number in re.findall(r'\.(\d+)', name)]
            seen.weights[f'block {block}, head {head}'] = weights[0]
    if not heads:
        seen.notes.append('where the heads look, because no block has separate `heads`')
    elif len(seen.weights) < len(heads):
        words = 'of which no weights pass through `dropout`'
        seen.notes.append(f'where {len(heads) - len(seen.weights)} heads look, {words}')

    # The vectors after the embeddings and each block, and the logits that the last layers make.
    xs = [taken.get('blocks', taken.get('blocks.0'))]
    xs += [given[name] for name in given if re.fullmatch(r'blocks\.\d+', str(name))]
    for last in (['ln_f', 'lm_head'], ['lm_head']):  # the second for a program without ln_f
        if not seen.stages and xs[0] is not None and all(name in modules for name in last):
            read = nn.Sequential(*[modules[name] for name in last])
            if torch.allclose(read(xs[-1])[0], seen.logits, atol=1e-3):
                seen.stages = [read(x)[0] for x in xs]  # (T, vocab_size) each
    if not seen.stages:
        words = 'because ln_f and lm_head after the last of the `blocks` do not give the final one'
        seen.notes.append(f'the prediction after each block, {words}')

    for name in ('token_embedding_table', 'position_embedding_table'):
        used = name in given and not (seen.tables and torch.equal(xs[0], given['']))
        seen.tables.append(modules[name].weight if used else None)
        if not used:
            seen.notes.append(f'what it has learned in {name}, because it adds none')
    return seen


# ----------------------------------------------------------
# The figures. Those that follow the chosen character t have a frame (plotly's word) for each t.


def figure(traces, height, width=0, titles=(), **layout):
    """A figure at least `width` pixels wide. With titles: traces[t], titles[t] for each t."""
    t = max(0, len(titles) - 2)  # at first, the last t for which the next character is known
    fig = go.Figure(traces[t] if titles else traces)
    fig.update_layout(template='none', paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, dragmode=False)
    fig.update_layout(height=height, meta=width, margin={'l': 8, 'r': 8, 't': 40, 'b': 8})
    fig.update_layout(title={'x': 0, 'xref': 'paper', 'font_size': 17}, font_size=14)
    fig.update_layout(hoverlabel={'bgcolor': '#222', 'font': {'color': '#fff', 'size': 15}})
    fig.update_xaxes(automargin=True, fixedrange=True, zeroline=False, showgrid=False)
    fig.update_yaxes(automargin=True, fixedrange=True, zeroline=False, showgrid=False)
    if titles:
        layouts = [{'title': {'text': title}} for title in titles]
        frames = zip(traces, layouts)
        fig.frames = [go.Frame(name=str(n), data=[a], layout=b) for n, (a, b) in enumerate(frames)]
        fig.update_layout(layouts[t])
    return fig.update_layout(layout)


def axis(labels, down=False, **options):
    """An axis with these labels at 0, 1, ..., perhaps from top to bottom."""
    ends = [-0.5, len(labels) - 0.5]
    ticks = {'tickvals': list(range(len(labels))), 'ticktext': labels, 'tickangle': 0}
    return {**ticks, 'range': ends[::-1] if down else ends, **options}


def draw_expected(seen):
    """The likeliest characters after each t, and the loss of each character."""
    T, k, traces, hover = len(seen.idx), min(8, len(seen.names)), [], []
    for p, real, title in zip(seen.probs, [*seen.idx[1:], None], seen.titles):
        shown = p.topk(k).indices.tolist()
        shown += [real] * (real is not None and real not in shown)
        words = [f'{seen.names[i]}  {p[i]:.2%}{"  ← in the text" * (i == real)}' for i in shown]
        bars = {'x': p[shown], 'text': words, 'textposition': 'outside', 'hoverinfo': 'skip'}
        bars['marker_color'] = [ORANGE if i == real else BLUE for i in shown]
        traces.append(go.Bar(bars, orientation='h', cliponaxis=False))
        hover.append('<br>'.join([title, *words]))
    ranks = axis([*range(1, k + 1), '…'], down=True)
    x = {'range': [0, 1.6], 'visible': False}
    yield figure(traces, 340, 0, seen.titles, xaxis=x, yaxis=ranks)
    if T > 1:
        hovers = {'hovertext': hover, 'hovertemplate': '%{hovertext}<br>loss %{y:.2f}<extra></extra>'}
        bars = go.Bar(hovers, x=list(range(1, T)), y=seen.losses, marker_color=BLUE)
        title = f'The loss of each character (dotted: their mean, {seen.losses.mean():.2f})'
        fig = figure(bars, 260, 15 * T, title_text=title, xaxis=axis(seen.tokens))
        yield fig.add_hline(seen.losses.mean().item(), line_dash='dot', line_color='gray')


def draw_weights(seen):
    """The row of each t in all heads at once, and all rows of each head."""
    T, names, hover = len(seen.idx), list(seen.weights), '%{y}: %{z:.1%} from %{x}<extra></extra>'
    if names:
        weights = torch.stack([*seen.weights.values()])  # (heads, T, T)
        traces = [go.Heatmap(SHADES, z=weights[:, t], hovertemplate=hover) for t in range(T)]
        axes = {'xaxis': axis(seen.tokens), 'yaxis': axis(names, down=True)}
        yield figure(traces, 80 + 32 * len(names), 15 * T + 130, seen.titles, **axes)
        columns = max(int(name.split()[-1]) for name in names)
        rows = -(-len(names) // columns)
        fig = make_subplots(rows, columns, subplot_titles=names)
        for n, w in enumerate(weights):
            heat = go.Heatmap(SHADES, z=w, hovertemplate=hover, xgap=0, ygap=0)
            fig.add_trace(heat, n // columns + 1, n % columns + 1)
        fig.update_xaxes(axis(seen.tokens, showticklabels=False))
        fig.update_yaxes(axis(seen.tokens, down=True, showticklabels=False))
        yield figure(fig, 340 * rows, 170 * columns)


def draw_stages(seen):
    """The likeliest five after each t, as predicted after each stage: embeddings, block 1, ..."""
    if seen.stages:
        probs = torch.stack(seen.stages).softmax(dim=-1)  # (stages, T, vocab_size)
        top, best = probs.topk(min(5, len(seen.names)), dim=-1)  # (stages, T, 5)
        losses = -probs[:, range(len(seen.idx) - 1), seen.idx[1:]].log().mean(dim=-1)
        names = [f'block {n}' if n else 'embeddings' for n in range(len(probs))]
        names = [f'{name}<br>loss {loss:.2f}' for name, loss in zip(names, losses)]
        traces = []
        for t, real in enumerate([*seen.idx[1:], None]):
            rows = zip(top[:, t].tolist(), best[:, t].tolist())
            text = [[f'{seen.names[i]} {p:.0%}{" ✓" * (i == real)}' for p, i in zip(*r)] for r in rows]
            heat = go.Heatmap(SHADES, z=top[:, t], text=text, texttemplate='%{text}', hoverinfo='skip')
            traces.append(heat)
        axes = {'xaxis_visible': False, 'yaxis': axis(names, down=True)}
        yield figure(traces, 50 + 46 * len(names), 0, seen.titles, **axes)


def components(table):
    """The first two principal components of (n, C): coordinates (n, 2), shares of variance (2)."""
    U, S, _ = torch.linalg.svd(table - table.mean(dim=0), full_matrices=False)
    xy, variance = F.pad(U * S, (0, 1))[:, :2], F.pad(S**2, (0, 1))
    return xy, variance[:2] / variance.sum().clamp(min=1e-12)


def draw_embeddings(seen):
    """The characters by their two principal components, and how similar positions are."""
    table, positions = seen.tables
    if table is not None:
        xy, shares = components(table)
        shown = seen.counts.topk(min(300, len(table))).indices.tolist()  # the most frequent
        near = torch.cdist(table[shown], table).topk(min(6, len(table)), largest=False).indices
        hover = [
            f'nearest to {seen.names[i]}: ' + '  '.join(seen.names[j] for j in row if j != i)
            for i, row in zip(shown, near.tolist())
        ]
        labels = {'text': [seen.names[i] for i in shown], 'mode': 'text', 'textfont_size': 17}
        dots = go.Scatter(labels, x=xy[shown, 0], y=xy[shown, 1], hovertext=hover, hoverinfo='text')
        ends = [f'principal component {n + 1} ({shares[n]:.0%} of the variance)' for n in (0, 1)]
        yield figure(dots, 560, xaxis_title=ends[0], yaxis_title=ends[1])
    if positions is not None:
        unit = F.normalize(positions, dim=-1)
        hover = 'positions %{x} and %{y}: %{z:.2f}<extra></extra>'
        scale = [[0, 'rgba(225,120,20,0.85)'], [0.5, CLEAR], [1, 'rgba(60,140,220,0.85)']]
        heat = go.Heatmap(z=unit @ unit.T, zmin=-1, zmax=1, colorscale=scale, hovertemplate=hover)
        title = 'Cosine similarity of the position embeddings'
        y = {'autorange': 'reversed', 'scaleanchor': 'x', 'constrain': 'domain'}
        yield figure(heat, 460, title_text=title, yaxis=y, xaxis_constrain='domain')


def draw_temperatures(seen):
    """The distribution of the character after the text, at four temperatures."""
    best = seen.logits[-1].topk(min(10, len(seen.names))).indices
    bars = []
    for temperature in (0.5, 0.8, 1, 1.5):
        p = (seen.logits[-1] / temperature).softmax(dim=-1)[best]
        name, hover = f'temperature {temperature}', '%{y:.2%} at %{fullData.name}<extra></extra>'
        p = [*p.tolist(), max(0.0, 1 - p.sum().item())]
        bars.append(go.Bar(x=list(range(len(p))), y=p, name=name, hovertemplate=hover))
    x = axis([*[seen.names[i] for i in best.tolist()], 'others'])
    legend = {'orientation': 'h', 'y': 1.1}
    yield figure(bars, 380, xaxis=x, legend=legend, title_text=seen.titles[-1], yaxis_tickformat='.0%')
