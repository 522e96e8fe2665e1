"""Draw the pictures of the page into .github/pictures, as SVG.

    python tests/measure/pictures.py             all
    python tests/measure/pictures.py attention   only this one: curve, attention or embeddings

curve needs results.json. The others need gpt.pt beside gpt.py, a model trained on input.txt. The
pictures have no background, and colors that show on a light page as well as on a dark one.
"""

import sys

import matplotlib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

import results

import helpers

FOLDER = helpers.ROOT / '.github' / 'pictures'
GREY, BLUE, ORANGE, GREEN, RED = '#848d97', '#3b82f6', '#e8730c', '#1f9d55', '#d1435b'
LINE = 'First:\nThe king is dead.'
NAMES = str.maketrans({' ': '␣', '\n': '↵'})

matplotlib.use('Agg')
matplotlib.rcParams.update(
    {
        'svg.hashsalt': 'gpt',  # the same picture gives the same file
        'font.size': 11,
        'text.color': GREY,
        'axes.labelcolor': GREY,
        'axes.edgecolor': GREY,
        'xtick.color': GREY,
        'ytick.color': GREY,
        'axes.spines.top': False,
        'axes.spines.right': False,
    }
)


def save(figure, name):
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f'{name}.svg'
    figure.savefig(path, transparent=True, bbox_inches='tight', metadata={'Date': None})
    print(f'{path.relative_to(helpers.ROOT)}: {path.stat().st_size / 1000:.0f} KB')


def curve():
    """Validation loss on Tiny Shakespeare against seconds: gpt.py and nanoGPT."""
    race = results.read()['race']
    figure, axes = plt.subplots(figsize=(8, 4))
    for name, color in (('nanoGPT', ORANGE), ('gpt.py', BLUE)):
        rows = race[name]['curve']
        seconds, losses = [row[0] for row in rows], [row[3] for row in rows]
        axes.plot(seconds, losses, color=color, linewidth=2.5, marker='o', markersize=4)
        below = name == 'gpt.py'
        axes.annotate(
            f'{name}: {losses[-1]:.2f}',
            (seconds[-1], losses[-1]),
            xytext=(0, -18) if below else (8, 5),
            textcoords='offset points',
            color=color,
            ha='right' if below else 'left',
            weight='bold',
        )
    level = race['nanoGPT']['curve'][-1][3]
    axes.axhline(level, color=GREY, linewidth=0.8, linestyle=':')
    axes.set_xlabel('seconds since the start, on the same two CPU cores')
    axes.set_ylabel('validation loss')
    axes.set_ylim(1.4, 3.0)
    axes.set_xlim(0)
    save(figure, 'curve')


def trained():
    """gpt.py as a module, and its trained model."""
    module = helpers.load(helpers.ROOT / 'gpt.py')
    return module, module.load_model()


def attention_weights(module, model, text):
    """The weights of every head: (n_layer, n_head, T, T)."""
    seen = []
    softmax = module.F.softmax

    class Watching:
        """torch's functions, but softmax leaves its result in `seen`."""

        def __getattr__(self, name):
            return getattr(torch.nn.functional, name)

        def softmax(self, scores, dim):
            weights = softmax(scores, dim)
            seen.append(weights.detach().float())
            return weights

    module.F = Watching()
    with torch.no_grad():
        model(torch.tensor([module.encode_string(text)]))
    return torch.stack([weights[0] for weights in seen]).numpy()


def attention():
    """The weights of each head of each block, for one line of text."""
    module, model = trained()
    weights = attention_weights(module, model, LINE)
    layers, heads, T, _ = weights.shape
    chars = list(LINE.translate(NAMES))
    colors = LinearSegmentedColormap.from_list('fading', [BLUE + '00', BLUE + 'ff'])
    figure, grid = plt.subplots(layers, heads, figsize=(3.1 * heads, 3.25 * layers))
    for layer in range(layers):
        for head in range(heads):
            axes = grid[layer][head]
            shown = weights[layer, head] ** 0.7  # so that small weights can be seen, too
            axes.imshow(shown, cmap=colors, vmin=0, vmax=1, interpolation='none')
            axes.plot([-0.5, T - 0.5], [-0.5, T - 0.5], color=GREY, linewidth=0.6)
            axes.set_title(f'block {layer + 1}, head {head + 1}', fontsize=13)
            axes.set_xticks(range(T), chars if layer == layers - 1 else [''] * T, fontsize=10)
            axes.set_yticks(range(T), chars if head == 0 else [''] * T, fontsize=10)
            axes.tick_params(length=0, pad=1)
            for spine in axes.spines.values():
                spine.set_visible(False)
    figure.tight_layout()
    save(figure, 'attention')


def kind(char):
    """The color of a character, and what it is."""
    if not char.isalpha():
        return GREY, 'punctuation'
    if char.lower() in 'aeiou':
        return (RED, 'vowels') if char.islower() else (ORANGE, 'capital vowels')
    return (BLUE, 'consonants') if char.islower() else (GREEN, 'capital consonants')


def embeddings():
    """The vectors of the 65 characters, in the two directions in which they differ most."""
    module, model = trained()
    vectors = model.token_embedding_table.weight.detach().numpy()
    vectors = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(vectors, full_matrices=False)
    x, y = (vectors @ directions[:2].T).T
    figure, axes = plt.subplots(figsize=(8, 4.6))
    axes.scatter(x, y, s=0)
    for char, a, b in zip(module.chars, x, y, strict=True):
        name = char.translate(NAMES)
        axes.text(a, b, name, color=kind(char)[0], fontsize=14, ha='center', va='center')
    kinds = dict(map(kind, module.chars))
    for color, name in kinds.items():
        axes.scatter([], [], color=color, label=name)
    axes.legend(frameon=False, labelcolor='linecolor', fontsize=10, loc='upper center')
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    save(figure, 'embeddings')


def main():
    pictures = {'curve': curve, 'attention': attention, 'embeddings': embeddings}
    for name in sys.argv[1:] or pictures:
        pictures[name]()


if __name__ == '__main__':
    main()
