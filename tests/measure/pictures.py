"""Draw the pictures of the page into .github/pictures, as SVG.

    python tests/measure/pictures.py             all
    python tests/measure/pictures.py attention   only this one: curve, attention or embeddings

curve needs results.json. The others need gpt.pt beside gpt.py, which `whole_runs.py nanoGPT growth`
leaves there. A white background looks the same on a light page and on a dark one.
"""

import sys

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt

import measuring

import helpers

FOLDER = helpers.ROOT / '.github' / 'pictures'
GREY, BLUE, ORANGE, GREEN, RED = '#57606a', '#0550ae', '#953800', '#116329', '#a40e26'
LINE = 'First:\nThe king is dead.'
NAMES = str.maketrans({' ': '␣', '\n': '↵'})
STYLE = {'svg.hashsalt': 'gpt', 'axes.spines.top': False, 'axes.spines.right': False}


def curve():
    """Validation loss on Tiny Shakespeare against seconds: gpt.py, and nanoGPT's CPU recipe."""
    runs = measuring.read()['default']
    figure, axes = plt.subplots(figsize=(8, 4.2))
    nano = ('nanoGPT, 32 bits', ORANGE, "nanoGPT's CPU recipe\n0.80 M parameters, 32 bits", (8, 0))
    ours = ('Tiny Shakespeare, 32 bits', BLUE, 'gpt.py\n0.42 M parameters, 32 bits', (8, 0))
    half = ('Tiny Shakespeare, 16 bits', GREEN, 'gpt.py, 16 bits', (-4, -18))  # on its left
    for name, color, label, shift in (nano, ours, half):
        seconds, _, _, losses = np.array(runs[name]['curve']).T
        axes.plot(seconds, losses, color=color, linewidth=2.5, marker='o', markersize=5)
        style = {'color': color, 'ha': 'left' if shift[0] > 0 else 'right', 'va': 'center'}
        at, text = (seconds[-1], losses[-1]), f'{label}: {losses[-1]:.3f}'
        axes.annotate(text, at, shift, textcoords='offset points', fontsize=11, **style)
    axes.axhline(runs['nanoGPT, 32 bits']['loss'], color=GREY, linewidth=0.8, linestyle=':')
    longest = max(run['curve'][-1][0] for run in runs.values() if 'curve' in run)
    words = 'seconds since the start of the process, on the same two CPU cores'
    axes.set(xlabel=words, ylabel='validation loss', xlim=(0, 1.7 * longest), ylim=(1.3, 3.0))
    return figure


def attention():
    """The weights of each head of each block, for one text, as they go into its dropout."""
    module = helpers.load(helpers.ROOT / 'gpt.py')
    model, T = module.load_model(), len(LINE)
    chars = list(LINE.translate(NAMES).replace('␣', '·'))
    size = (5.4 * module.n_head, 5.2 * module.n_layer)
    figure, grid = plt.subplots(module.n_layer, module.n_head, figsize=size)
    for layer, block in enumerate(model.blocks):
        for number, head in enumerate(block.sa.heads):
            seen, axes = [], grid[layer][number]
            head.dropout.register_forward_hook(lambda _, w, __, seen=seen: seen.append(w[0][0]))
            with torch.no_grad():
                model(torch.tensor([module.encode_string(LINE)]))
            image = axes.imshow(seen[0], cmap='Blues', vmin=0, vmax=1)
            axes.plot([-0.5, T - 0.5], [-0.5, T - 0.5], color=GREY, linewidth=0.6)
            axes.set_title(f'block {layer + 1}, head {number + 1}', fontsize=17)
            axes.set_xticks(range(T), chars, fontsize=13)
            axes.set_yticks(range(T), chars, fontsize=11)
            axes.tick_params(length=0, pad=2)
            axes.set_ylabel('this character (· is a space) ...' * (number == 0), fontsize=15)
            words = '... takes this share of its result from'
            axes.set_xlabel(words * (layer == module.n_layer - 1), fontsize=15)
    figure.subplots_adjust(hspace=0.12)
    words = 'weight (each row sums to 1)'
    figure.colorbar(image, ax=grid, shrink=0.5, pad=0.02).set_label(words, fontsize=15)
    return figure


def kind(char):
    """What a character is, and its color."""
    if not char.isalpha():
        return 'line break, space, punctuation, 3', GREY
    if char.lower() in 'aeiou':
        return ('vowels', RED) if char.islower() else ('capital vowels', ORANGE)
    return ('consonants', BLUE) if char.islower() else ('capital consonants', GREEN)


def embeddings():
    """The vectors of the characters, in the two directions in which they differ most."""
    module = helpers.load(helpers.ROOT / 'gpt.py')
    vectors = module.load_model().token_embedding_table.weight.detach().numpy()
    vectors = vectors - vectors.mean(axis=0)
    _, sizes, directions = np.linalg.svd(vectors, full_matrices=False)
    shares, places = sizes**2 / (sizes**2).sum(), vectors @ directions[:2].T
    gap = np.ptp(places, axis=0) * [0.019, 0.042]
    for _ in range(300):  # push the characters apart until none overlap
        for i, place in enumerate(places):
            away = (place - places) / gap
            near = (np.abs(away).max(axis=1) < 1) & (np.arange(len(places)) != i)
            push = away[near].sum(axis=0)
            place += gap * 0.1 * push / (np.abs(push).max() + 1e-9)
    figure, axes = plt.subplots(figsize=(9, 6.2))
    for char, place in zip(module.chars, places):
        style = {'family': 'monospace', 'ha': 'center', 'va': 'center', 'fontsize': 14}
        axes.text(*place, char.translate(NAMES), color=kind(char)[1], **style)
    for name, color in dict.fromkeys(map(kind, module.chars)):
        axes.scatter([], [], color=color, label=name)
    axes.update_datalim([places.min(axis=0) - 2 * gap, places.max(axis=0) + 2 * gap])
    axes.autoscale()
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)
    axes.set(xlabel=f'first direction ({shares[0]:.0%} of the variance)', xticks=[], yticks=[])
    axes.set_ylabel(f'second direction ({shares[1]:.0%})')
    return figure


def main():
    matplotlib.use('Agg')
    matplotlib.rcParams.update({**STYLE, 'font.size': 12})
    pictures = {'curve': curve, 'attention': attention, 'embeddings': embeddings}
    for name in sys.argv[1:] or pictures:
        options = {'bbox_inches': 'tight', 'pad_inches': 0.15, 'metadata': {'Date': None}}
        pictures[name]().savefig(FOLDER / f'{name}.svg', **options)


if __name__ == '__main__':
    main()
