"""Look inside a trained model, in one page: what it expects, where it looks, what it has learned.

    python tests/exercise/look.py "The king is dead"

It loads gpt.pt, writes look.html, which needs no network, and opens it in the browser. Without a
text, it shows the beginning of the validation text.

All is read off the model by a hook: a function that PyTorch calls with what each module takes. So
an edited program works too, as long as its modules keep their names. In shapes, T is the number of
characters in the text. The docstrings of the five parts are what the page says about them.
"""

import argparse
import importlib
import re
import sys
import types
import unicodedata
import webbrowser
from pathlib import Path

import torch
from torch.nn import functional as F

try:
    import plotly.graph_objects as go
except ImportError:
    sys.exit('look.py draws with plotly: pip install plotly')

ROOT = Path(__file__).resolve().parent.parent.parent
BLUE, ORANGE, CLEAR = 'rgb(60,140,220)', 'rgb(225,120,20)', 'rgba(0,0,0,0)'
SCALE = [[0, 'rgba(225,120,20,0.85)'], [0.5, CLEAR], [1, 'rgba(60,140,220,0.85)']]  # from -1 to 1
HEAT = {'colorscale': SCALE, 'zmin': -1, 'zmax': 1, 'showscale': False}
AXIS = {'automargin': True, 'fixedrange': True, 'zeroline': False, 'showgrid': False}
LAYOUT = {'paper_bgcolor': CLEAR, 'plot_bgcolor': CLEAR, 'xaxis': AXIS, 'yaxis': AXIS}
LAYOUT |= {'margin': {'l': 8, 'r': 8, 't': 40, 'b': 8}, 'dragmode': False, 'font': {'size': 15}}
LAYOUT |= {'title': {'x': 0, 'xref': 'paper'}, 'hoverlabel': {'bgcolor': '#222', 'bordercolor': BLUE}}


def visible(s):
    """'a b\\n' -> 'a␣b↵', safe in HTML. What cannot be printed becomes its number in Unicode."""
    marks = {char: f'U+{ord(char):04X}' for char in s if not char.isprintable()}
    marks |= {char: f'◌{char}' for char in s if unicodedata.category(char)[0] == 'M'}  # accents
    marks |= {' ': '␣', '\n': '↵', '\t': '⇥', '&': '&amp;', '<': '&lt;', '>': '&gt;'}
    return ''.join(marks.get(char, char) for char in s)


def watch(model, idx):
    """Run the model on idx (1, T): its logits (T, vocab_size), and {module: what it first took}."""
    names, taken = {module: name for name, module in model.named_modules()}, {}

    def note(module, inputs):
        if inputs:
            taken.setdefault(names.get(module, ''), inputs[0].clone())  # it may be changed later

    with torch.nn.modules.module.register_module_forward_pre_hook(note):
        result = model(idx)
    return (result[0] if isinstance(result, tuple) else result)[0], taken


@torch.no_grad()
def observe(gpt, model, idx):
    """The numbers of the page on idx, a list of T numbers. `notes` are what it cannot show."""
    T, modules, notes = len(idx), dict(model.named_modules()), []
    logits, taken = watch(model, torch.tensor([idx]))
    names = [visible(gpt.decode_list([index])) for index in range(logits.shape[-1])]

    heads, weights = [name for name in modules if re.search(r'blocks\.\d+\..*heads\.\d+$', name)], {}
    for name in heads:
        w = taken.get(f'{name}.dropout', logits)
        if w.shape == (1, T, T) and torch.allclose(w.sum(dim=-1), torch.ones(T)):
            block, head = [int(number) + 1 for number in re.findall(r'\.(\d+)', name)]
            weights[f'block {block}, head {head}'] = w[0]  # (T, T), a row for each character
    if not heads:
        notes.append('where the heads look, as no block has separate `heads`')
    elif len(weights) < len(heads):
        missing = len(heads) - len(weights)
        notes.append(f'where {missing} of the heads look, as their weights do not pass a `dropout`')

    # The vectors after the embeddings and each block, and the logits that the last layers make.
    last = [name for name in ('ln_f', 'lm_head') if name in taken]
    xs = [taken[name] for name in taken if re.fullmatch(rf'blocks\.\d+|{"".join(last[:1])}', name)]
    stages = [torch.nn.Sequential(*[modules[name] for name in last])(x)[0] for x in xs]
    if not last or not torch.allclose(stages[-1], logits, atol=1e-3):
        stages = []
        notes.append('the prediction after each block, as ln_f and lm_head do not make the last one')

    tables = []
    for name in ('token_embedding_table', 'position_embedding_table'):
        used = name in taken and not (tables and torch.equal(xs[0], tables[0][idx][None]))
"""
