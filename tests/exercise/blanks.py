"""Build it yourself: make a copy of gpt.py whose most important parts are yours to write.

    python tests/exercise/blanks.py my_gpt.py

In the copy, the bodies of nine functions are missing. What they take, what they return, and what
they are for is still there. Write them in any order. To see how you are doing:

    python tests/exercise/check.py my_gpt.py
"""

import ast
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# What is to be written, with a few words on it.
PARTS = {
    'get_batch': 'random starts, pieces x, and pieces y one further on, moved to device',
    'Head.forward': 'query, key, value, scores, scale, mask, softmax, dropout, average',
    'MultiHeadAttention.forward': 'all heads side by side, then proj and dropout',
    'Block.forward': 'x plus attention, then x plus feed-forward, each of a normed x',
    'GPTLanguageModel.forward': 'both embeddings, blocks, ln_f, lm_head, and the loss',
    'GPTLanguageModel.generate': 'score the last block_size characters, draw one, append it',
    'learning_rate_at': 'up in warmup_iters steps, times a fall to 0 at max_iters',
    'learn': 'learning rate, dropout on, batch, loss, gradient, clipping, step',
    'mean_loss': 'dropout off, pieces at equal distances, the mean of their losses',
}


def find_bodies(source):
    """{part: (start, end)}. lines[start:end] of `source` is its body, without the docstring."""
    bodies = {}
    for top in ast.parse(source).body:
        prefix, nodes = (f'{top.name}.', top.body) if isinstance(top, ast.ClassDef) else ('', [top])
        for node in nodes:
            part = prefix + getattr(node, 'name', '')
            if part in PARTS:
                first = node.body[0]
                start = first.end_lineno if ast.get_docstring(node) else first.lineno - 1
                bodies[part] = start, node.end_lineno
    return bodies


def make_blank(source):
    """`source` with all parts empty. All other lines stay as they are."""
    lines, bodies = source.split('\n'), find_bodies(source)
    for part in sorted(PARTS, key=bodies.get, reverse=True):  # a change moves only what follows
        indent = '        ' if '.' in part else '    '
        empty = ['raise NotImplementedError(', f"    '{part}: {PARTS[part]}'", ')']
        lines[slice(*bodies[part])] = [indent + line for line in empty]
    return '\n'.join(lines)


def read_path(description):
    """The only argument of this program, or of check.py. With another number of them: help."""
    if len(sys.argv) != 2 or sys.argv[1].startswith('-'):
        sys.exit(description)
    return Path(sys.argv[1])


def main():
    path = read_path(__doc__)
    text = path.parent / 'input.txt'
    source = make_blank((ROOT / 'gpt.py').read_text(encoding='utf-8'))
    source = re.sub(r"(?m)^checkpoint_path = '.*?'", f"checkpoint_path = '{path.stem}.pt'", source)
    try:
        with open(path, 'x', encoding='utf-8') as file:
            file.write(source)
        if not text.exists():
            shutil.copyfile(ROOT / 'input.txt', text)
            print(f'{text} is the text that it learns from.')
    except FileExistsError:
        sys.exit(f'{path} exists already. Choose another name, or move it away first.')
    print(f'{path} has {len(PARTS)} parts for you to write. To see how you are doing:')
    print(f'    python {Path(sys.argv[0]).with_name("check.py")} {path}')


if __name__ == '__main__':
    main()
