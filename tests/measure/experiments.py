"""What is each idea in gpt.py worth? Change it in a copy, train the copy, and look at the loss.

    python tests/measure/experiments.py                   all experiments, with three seeds each
    python tests/measure/experiments.py no-mask no-norm   only these
    python tests/measure/experiments.py --list            their names, and what they are

There are four groups. 'built up' starts with one head and adds idea after idea, in the order of
the article. 'taken away' removes or changes one thing at a time, and so do the exercises. 'modern'
replaces parts with what newer models have. All runs have 1,200 steps, and otherwise the settings
for a CPU. The loss is that of the best model, over the whole validation text. Every run is saved in
results.json as soon as it ends, and not repeated while the code and the text stay the same.
"""

import argparse
import ast
import concurrent.futures
import hashlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import torch
from tqdm import tqdm

import default_run
import results

import helpers

STEPS = 1200
DEFAULT = {'device': 'cpu', 'max_iters': STEPS, 'eval_interval': STEPS // 4}

ATTENTION_LINE = '        x = x + self.sa(self.ln1(x))\n'
FEED_FORWARD_LINE = '        x = x + self.ffwd(self.ln2(x))\n'
FINAL_NORM_LINE = '        x = self.ln_f(x)\n'
SPLIT_LINE = 'train_data, val_data = data[:n], data[n:]\n'
SCORES = 'scores = q @ k.transpose(-2, -1) / math.sqrt(head_size)'


def block(attention, feed_forward):
    """Edits: other lines in Block.forward, and no layer norm at the end."""
    return [
        (ATTENTION_LINE, f'        x = {attention}\n'),
        (FEED_FORWARD_LINE, f'        x = {feed_forward}\n'),
        (FINAL_NORM_LINE, ''),
    ]


# Byte pair encoding: the most frequent pair of neighbors becomes one token, again and again.
BYTE_PAIRS = """

def merge(ids, pair, token):
    hits = np.flatnonzero((ids[:-1] == pair[0]) & (ids[1:] == pair[1]))
    if pair[0] == pair[1]:  # of "aaa", only the first two can be merged
        kept = []
        for hit in hits:
            if not kept or hit > kept[-1] + 1:
                kept.append(hit)
        hits = np.array(kept, dtype=np.int64)
    ids = ids.copy()
    ids[hits] = token
    return np.delete(ids, hits + 1)


train_ids, val_ids = train_data.numpy(), val_data.numpy()
merges = []
while vocab_size < {tokens}:
    counts = np.bincount(train_ids[:-1] * vocab_size + train_ids[1:])
    pair = divmod(int(counts.argmax()), vocab_size)
    merges.append((pair, vocab_size))
    train_ids, val_ids = merge(train_ids, *merges[-1]), merge(val_ids, *merges[-1])
    index_to_char[vocab_size] = index_to_char[pair[0]] + index_to_char[pair[1]]
    vocab_size += 1
train_data, val_data = torch.from_numpy(train_ids), torch.from_numpy(val_ids)


def encode_string(s):
    ids = np.array([char_to_index[char] for char in s], dtype=np.int64)
    for pair, token in merges:
        ids = merge(ids, pair, token)
    return ids.tolist()
"""

ROTARY = """

def rotate(x):
    # Turn each pair of numbers by an angle that grows with the position (Su et al., 2021). The
    # dot product of a query and a key then depends on how far apart they are.
    T, half = x.shape[-2], x.shape[-1] // 2
    frequencies = 1000.0 ** -torch.linspace(0, 1, half, device=x.device)
    angles = torch.outer(torch.arange(T, device=x.device), frequencies)  # (T, head_size / 2)
    a, b = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1).type_as(x)


class SquaredReLU(nn.Module):
    def forward(self, x):
        return F.relu(x).square()


class Head(nn.Module):"""

MODERN = [
    ('\n\nclass Head(nn.Module):', ROTARY),
    (
        'return attention(q, k, v, self.training)',
        'return attention(rotate(q), rotate(k), v, self.training)',
    ),
    ('        x = tok_emb + pos_emb  # (B, T, C)\n', '        x = tok_emb\n'),
    ('self.ln1 = nn.LayerNorm(n_embd)', 'self.ln1 = nn.RMSNorm(n_embd)'),
    ('self.ln2 = nn.LayerNorm(n_embd)', 'self.ln2 = nn.RMSNorm(n_embd)'),
    ('self.ln_f = nn.LayerNorm(n_embd)', 'self.ln_f = nn.RMSNorm(n_embd)'),
    ('nn.ReLU(),', 'SquaredReLU(),'),
]

TIED = [
    (
        '        self.apply(self.init_weights)\n',
        '        self.apply(self.init_weights)\n'
        '        self.lm_head.weight = self.token_embedding_table.weight\n',
    )
]

# name: (group, description, edits, settings)
EXPERIMENTS = {
    'one-head': (
        'built up',
        'one attention head',
        block('self.sa(x)', 'x'),
        {'n_layer': 1, 'n_head': 1},
    ),
    'heads': ('built up', 'four heads', block('self.sa(x)', 'x'), {'n_layer': 1}),
    'feed-forward': (
        'built up',
        'feed-forward',
        block('self.sa(x)', 'self.ffwd(x)'),
        {'n_layer': 1},
    ),
    'residual': (
        'built up',
        'residual connections',
        block('x + self.sa(x)', 'x + self.ffwd(x)'),
        {'n_layer': 1},
    ),
    'norm': ('built up', 'layer norm', [], {'n_layer': 1}),
    'baseline': ('built up', 'a second block: gpt.py as it is', [], {}),
    'no-residual': (
        'taken away',
        'no residual connections',
        [
            (ATTENTION_LINE, '        x = self.sa(self.ln1(x))\n'),
            (FEED_FORWARD_LINE, '        x = self.ffwd(self.ln2(x))\n'),
        ],
        {},
    ),
    'no-norm': ('taken away', 'no layer norm', block('x + self.sa(x)', 'x + self.ffwd(x)'), {}),
    'no-position': (
        'taken away',
        'no position embeddings',
        [('x = tok_emb + pos_emb', 'x = tok_emb')],
        {},
    ),
    'no-feed-forward': ('taken away', 'no feed-forward', [(FEED_FORWARD_LINE, '')], {}),
    'wide-head': ('taken away', 'one wide head instead of four', [], {'n_head': 1}),
    'wrong-scale': (
        'taken away',
        "the article's scale, `* C ** 0.5`",
        [(SCORES, 'scores = q @ k.transpose(-2, -1) * n_embd**0.5')],
        {},
    ),
    'no-mask': (
        'taken away',
        'no causal mask',
        [("scores = scores.masked_fill(later, float('-inf'))", 'pass')],
        {},
    ),
    'no-warm-up': ('taken away', 'no warm-up', [], {'warmup_iters': 0}),
    'high-rate': ('exercise', 'ten times the learning rate', [], {'learning_rate': 4e-2}),
    'half-context': ('taken away', 'half the context', [], {'block_size': 32}),
    'less-text': (
        'taken away',
        'a tenth of the training text',
        [(SPLIT_LINE, 'train_data, val_data = data[: n // 10], data[n:]\n')],
        {},
    ),
    'dropout': ('exercise', 'dropout 0.2', [], {'dropout': 0.2}),
    'tied': ('modern', 'token embeddings and lm_head share their weights', TIED, {}),
    'rotary': ('modern', 'RMSNorm, rotary positions, squared ReLU', MODERN, {}),
    'byte-pairs-512': (
        'modern',
        '512 byte pair tokens',
        [(SPLIT_LINE, SPLIT_LINE + BYTE_PAIRS.format(tokens=512))],
        {},
    ),
    'byte-pairs-1024': (
        'modern',
        '1,024 byte pair tokens',
        [(SPLIT_LINE, SPLIT_LINE + BYTE_PAIRS.format(tokens=1024))],
        {},
    ),
}


def edited(name, source, seed, **settings):
    """The source of gpt.py with an experiment's edits. ValueError if one of them does not apply."""
    _, _, edits, changes = EXPERIMENTS[name]
    try:
        for old, new in edits:
            source = helpers.replace(source, old, new)
    except ValueError as error:
        raise ValueError(f'experiment {name}: {error}') from None
    return helpers.edit(source, **{**DEFAULT, **changes, 'seed': seed, **settings})


def key(source, text):
    """What a run depends on, in 16 characters: the code of the lesson, and the text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    names = [getattr(node, 'name', '') for node in tree.body]
    lesson = [*tree.body[: names.index('train')], tree.body[names.index('all_heads_at_once')]]
    code = ''.join(map(ast.dump, lesson))
    return hashlib.sha256(code.encode() + text).hexdigest()[:16]


def run(source, folder, text):
    """Train a program in an empty folder. Returns {'loss', 'seconds', 'parameters', ...}.

    'loss' is in nats per character, also if the tokens are not characters.
    """
    path = Path(folder) / 'gpt.py'
    path.parent.mkdir()
    path.write_text(source, encoding='utf-8')
    (path.parent / 'input.txt').write_bytes(text)
    module = helpers.load(path)
    module.say = lambda *arguments, **options: None
    began = time.perf_counter()
    module.train()
    seconds = time.perf_counter() - began
    model = module.load_model()
    characters = len(module.text) - module.n
    loss = default_run.whole_loss(module, model) * (len(module.val_data) - 1) / (characters - 1)
    model(*module.get_batch('train'))[1].backward()
    used = [p for p in model.parameters() if p.grad is not None]
    losses = module.estimate_loss(model)
    return {
        'loss': loss,
        'train_loss': losses['train'],
        'seconds': round(seconds, 1),
        'parameters': sum(p.numel() for p in used),
        'tokens_per_character': len(module.val_data) / characters,
        'sample': module.sample(model, 60),
    }


def begin_worker(threads):
    """Prepare a process that trains. It ends when its parent does."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def run_all(tasks, jobs, threads):
    """Yield (number of the task, result) as the runs end. A task is what run() takes."""
    context = multiprocessing.get_context('spawn')
    pool = concurrent.futures.ProcessPoolExecutor(jobs, context, begin_worker, (threads,))
    try:
        futures = {pool.submit(run, *task): number for number, task in enumerate(tasks)}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('names', nargs='*', metavar='NAME', help='run only these')
    parser.add_argument('--list', action='store_true', help='print their names')
    parser.add_argument('--seeds', type=int, default=3, metavar='N', help='runs of each')
    parser.add_argument('--again', action='store_true', help='repeat what is there already')
    options = parser.parse_args()
    if options.list:
        for name, (group, description, *_) in EXPERIMENTS.items():
            print(f'{name:16} {group:11} {description}')
        return
    source, text = helpers.read(), (helpers.ROOT / 'input.txt').read_bytes()
    done = results.read().get('experiments', {})
    names = options.names or list(EXPERIMENTS)

    # The times of 'built up' are shown, so each of these runs has the machine for itself.
    for alone in (True, False):
        todo = []
        for seed in range(1337, 1337 + options.seeds):
            for name in names:
                if (EXPERIMENTS[name][0] == 'built up') == alone:
                    program = edited(name, source, seed)
                    known = done.get(name, {}).get(str(seed), {}).get('key')
                    if options.again or known != key(program, text):
                        todo.append((name, seed, program))
        jobs, threads = (1, os.cpu_count()) if alone else (os.cpu_count(), 1)
        with tempfile.TemporaryDirectory() as folder, tqdm(total=len(todo)) as bar:
            tasks = [(program, f'{folder}/{i}', text) for i, (*_, program) in enumerate(todo)]
            for number, result in run_all(tasks, jobs, threads):
                name, seed, program = todo[number]
                done.setdefault(name, {})[str(seed)] = {**result, 'key': key(program, text)}
                results.write('experiments', done)
                bar.update()
                bar.write(f'{name:16} seed {seed}: {result["loss"]:.4f}')


if __name__ == '__main__':
    main()
