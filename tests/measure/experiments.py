"""What is each idea in gpt.py worth? Change it in a copy, train the copy, and look at the loss.

    python tests/measure/experiments.py                   all experiments, with three seeds each
    python tests/measure/experiments.py no-mask --seeds 5 only some, with more seeds
    python tests/measure/experiments.py --list            their names, and what they are

All runs have 1,200 steps. What is edited is a solution in tests/exercise/solutions, or stands here.
Every run is saved in results.json as soon as it ends, and not repeated while its code is the same.
"""

import argparse
import ast
import concurrent.futures
import hashlib
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import torch

import measuring

import helpers

SOLUTIONS = helpers.ROOT / 'tests' / 'exercise' / 'solutions'
STEPS = {'device': 'cpu', 'max_iters': 1200, 'eval_interval': 300, 'max_new_tokens': 300}
ATTENTION = '        x = x + self.sa(self.ln1(x))\n'
FEED_FORWARD = '        x = x + self.ffwd(self.ln2(x))\n'


def block(attention, feed_forward):
    """Edits: other lines in Block.forward, and no layer norm at the end."""
    lines = [(ATTENTION, attention), (FEED_FORWARD, feed_forward)]
    edits = [(old, f'        x = {new}\n' if new else '') for old, new in lines]
    return [*edits, ('        x = self.ln_f(x)  # (B, T, C)\n', '')]


EXPERIMENTS = {  # name: (group, description, edits or the name of a solution, settings)
    'one-head': ('built up', 'one attention head', block('self.sa(x)', ''), {'n_head': 1}),
    'two-heads': ('built up', 'two heads', block('self.sa(x)', ''), {}),
    'feed-forward': ('built up', 'feed-forward', block('self.sa(x)', 'self.ffwd(x)'), {}),
    'residual': ('built up', 'residuals', block('x + self.sa(x)', 'x + self.ffwd(x)'), {}),
    'norm': ('built up', 'layer norm', [], {}),
    'baseline': ('built up', 'a second block: gpt.py as it is', [], {}),
    'no-residuals': ('taken away', 'no residual connections', 'no-residuals', {}),
    'no-norm': ('taken away', 'no layer norm', 'no-norm', {}),
    'no-positions': ('taken away', 'no position embeddings', 'no-positions', {}),
    'no-feed-forward': ('taken away', 'no feed-forward', [(FEED_FORWARD, '')], {}),
    'wide-head': ('taken away', 'one wide head instead of two', [], {'n_head': 1}),
    'four-heads': ('taken away', 'four heads instead of two', [], {'n_head': 4}),
    'no-scale': ('taken away', 'scores not scaled', 'no-scale', {}),
    'times-sqrt-c': ('taken away', "the article's scale, `* C ** 0.5`", 'times-sqrt-c', {}),
    'no-mask': ('taken away', 'no causal mask', 'no-mask', {}),
    'no-warm-up': ('taken away', 'no warm-up', [], {'warmup_iters': 0}),
    'no-clipping': ('taken away', 'no clipping', 'no-clipping', {}),
    'no-weight-decay': ('taken away', 'no weight decay', [], {'weight_decay': 0.0}),
    'sgd-1': ('taken away', 'SGD instead of AdamW', 'sgd', {'learning_rate': 1.0}),
    'sgd-0.3': ('other', 'SGD, rate 0.3', 'sgd', {'learning_rate': 0.3}),
    'sgd-3': ('other', 'SGD, rate 3', 'sgd', {'learning_rate': 3.0}),
    'pytorch-init': ('taken away', "PyTorch's initial parameters", 'pytorch-init', {}),
    'half-context': ('taken away', 'half the context', [], {'block_size': 32}),
    'less-text': ('taken away', 'a tenth of the training text', 'less-text', {}),
    'high-rate': ('exercise', 'ten times the learning rate', [], {'learning_rate': 4e-2}),
    'dropout': ('exercise', 'dropout 0.2', [], {'dropout': 0.2}),
    'depth-1': ('exercise', '1 block, 180 wide', [], {'n_layer': 1, 'n_embd': 180}),
    'depth-4': ('exercise', '4 blocks, 90 wide', [], {'n_layer': 4, 'n_embd': 90}),
    'depth-8': ('exercise', '8 blocks, 64 wide', [], {'n_layer': 8, 'n_embd': 64}),
    'overfit': ('exercise', 'overfit 10,000 characters', 'overfit', {}),
    'tied-weights': ('exercise', 'tied weights', 'tied-weights', {}),
    'rms-norm': ('exercise', 'RMSNorm', 'rms-norm', {}),
    'rotary-positions': ('exercise', 'rotary positions', 'rotary-positions', {}),
    'squared-relu': ('exercise', 'squared ReLU', 'squared-relu', {}),
    'byte-pairs': ('exercise', '512 byte-pair tokens', 'byte-pairs', {}),
}
for name in ('one-head', 'two-heads', 'feed-forward', 'residual', 'norm'):
    EXPERIMENTS[name][3]['n_layer'] = 1


def write_program(name, folder, seed):
    """Write the program of an experiment, edited, into a folder. Returns its path."""
    _, _, edits, settings = EXPERIMENTS[name]
    solution = isinstance(edits, str)
    path = helpers.copy(folder, text=helpers.INPUT, edits=() if solution else edits)
    if solution:
        apply_solution(edits, folder)
    return helpers.change(path, **{**STEPS, **settings, 'seed': seed})


def apply_solution(name, folder):
    """Apply the diff of a solution to the program in a folder, as the page says."""
    diff = str(SOLUTIONS / f'{name}.diff')
    command = ['git', 'apply', diff] if shutil.which('git') else ['patch', '-p1', '-i', diff]
    env = helpers.environment(GIT_CEILING_DIRECTORIES=str(Path(folder).parent))
    subprocess.run(command, cwd=folder, env=env, check=True)


def key(path):
    """What a run depends on, in 16 characters: the program without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def run(name, seed, threads):
    """Train: {'loss', 'train_loss', 'seconds', 'parameters', 'curve', 'sample', 'key'}."""
    os.environ['OMP_NUM_THREADS'] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        path = write_program(name, folder, seed)
        lines, seconds = measuring.watch([os.sys.executable, str(path)])
        module = helpers.load(path)
        model = module.GPTLanguageModel()
        model(*module.get_batch(module.train_data))[1].backward()
        used = sum(p.numel() for p in model.parameters() if p.grad is not None)
        rows, printed = measuring.curve(lines), [line for _, line in lines]
        bits = [float(b) for b in re.findall(r'^ +([\d.]+) bits per', '\n'.join(printed), re.M)]
        result = {'loss': rows[-1][3], 'train_loss': rows[-1][2], 'seconds': round(seconds, 1)}
        result |= {'parameters': used, 'curve': rows, 'key': key(path)}
        result['sample'] = '\n'.join(printed[printed.index('') + 1 :])[:100]
        return {**result, 'bits': bits[-1]} if bits else result


def mean_and_deviation(runs):
    """Of the losses of some runs, {seed: result}. The deviation is None for a single run."""
    losses = [run['loss'] for run in runs.values()]
    return statistics.mean(losses), statistics.stdev(losses) if len(losses) > 1 else None


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('names', nargs='*', metavar='NAME', help='run only these')
    parser.add_argument('--list', action='store_true', help='print their names')
    parser.add_argument('--seeds', type=int, default=3, metavar='N', help='runs of each')
    options = parser.parse_args()
    if options.list:
        for name, (group, description, *_) in EXPERIMENTS.items():
            print(f'{name:17} {group:11} {description}')
        return

    todo, done = [], measuring.read().get('experiments', {})
    for seed in range(1337, 1337 + options.seeds):
        for name in options.names or EXPERIMENTS:
            with tempfile.TemporaryDirectory() as folder:
                now = key(write_program(name, folder, seed))
            if done.get(name, {}).get(str(seed), {}).get('key') != now:
                todo.append((name, seed))
    # 'built up' shows times, so each of these runs has the machine for itself.
    for alone in (True, False):
        jobs, threads = (1, torch.get_num_threads()) if alone else (os.cpu_count(), 1)
        context = multiprocessing.get_context('spawn')
        with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
            tasks = [task for task in todo if (EXPERIMENTS[task[0]][0] == 'built up') == alone]
            futures = {pool.submit(run, *task, threads): task for task in tasks}
            for future in concurrent.futures.as_completed(futures):
                name, seed = futures[future]
                done.setdefault(name, {})[str(seed)] = future.result()
                measuring.write('experiments', {**done, 'machine': measuring.machine()})
                print(f'{name:17} seed {seed}: {future.result()["loss"]:.4f}', flush=True)


if __name__ == '__main__':
    main()
