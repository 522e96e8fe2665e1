"""What is each idea in gpt.py worth? Change it in a copy, as a reader would, train, and see how much worse it predicts.

    python tests/experiments.py                 all experiments, with three seeds each, and a table of the results
    python tests/experiments.py no-mask one-head    only these
    python tests/experiments.py --list          their names, and what they are

A run has the CPU's settings and 1200 steps, about a third of the default's. Its validation loss is that of the best
weights over the whole validation text. Every finished run is saved in tests/results.json at once and is not repeated,
unless the code or the text has changed since; so after an interruption the same command goes on.
"""
import argparse
import ast
import concurrent.futures
import contextlib
import hashlib
import io
import multiprocessing
import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from tqdm import tqdm

import measure
import program
import results


def cpu(source, name):
    """The value that the line `name = ...` of `source` gives on a CPU."""
    return eval(re.search(rf'^{name} = (.*)$', source, flags=re.MULTILINE)[1], {'gpu': False})


def change(*replacements, **settings):
    """A function from a program to the edited one: (old, new) pieces of code, and settings, each a new value or a
    function of the CPU's value."""
    def apply(source):
        for old, new in replacements:
            source = program.replace(source, old, new)
        return program.edit(source, **{
            name: value(cpu(source, name)) if callable(value) else value for name, value in settings.items()})
    return apply


def half(number):
    """Half of a whole number."""
    return number // 2


def twice(number):
    """Twice a number."""
    return number * 2


STEPS = 1200  # about a third of the default's
SCORES = 'scores = q @ k.transpose(-2, -1) * '
EXPERIMENTS = {
    'baseline': ('gpt.py as it is', change()),
    'no-residual': ('no residual connections', change(
        ('x = x + self.sa(self.ln1(x))', 'x = self.sa(self.ln1(x))'),
        ('x = x + self.ffwd(self.ln2(x))', 'x = self.ffwd(self.ln2(x))'))),
    'no-layer-norm': ('no layer norm', change(
        ('self.sa(self.ln1(x))', 'self.sa(x)'), ('self.ffwd(self.ln2(x))', 'self.ffwd(x)'), ('self.ln_f(x)', 'x'))),
    'no-position': ('no position embeddings', change(('tok_emb + pos_emb', 'tok_emb'))),
    'no-feed-forward': ('no feed-forward', change(('x = x + self.ffwd(self.ln2(x))', 'pass'))),
    'one-head': ('one head, as wide as the four', change(n_head=1)),
    'wrong-scale': ("the article's scale, `* C ** 0.5`", change(
        (SCORES + 'head_size ** -0.5', SCORES + 'n_embd ** 0.5'), fast_attention=False)),
    'no-mask': ('no causal mask: it sees what it is to predict', change(
        ("scores = scores.masked_fill(later, float('-inf'))", 'pass'), fast_attention=False)),
    'no-warm-up': ('no warm-up', change(warmup_iters=0)),
    'high-rate': ('ten times the learning rate', change(learning_rate=lambda rate: 10 * rate)),
    'half-context': ('half the context', change(block_size=half)),
    'twice-context': ('twice the context', change(block_size=twice)),
    'half-depth': ('half the depth', change(n_layer=half)),
    'twice-depth': ('twice the depth', change(n_layer=twice)),
    'half-width': ('half the width', change(n_embd=half)),
    'twice-width': ('twice the width', change(n_embd=twice)),
    'tenth-of-text': ('10% of the training text', change(
        ('data[:int(0.9 * len(data))]', 'data[:int(0.1 * 0.9 * len(data))]'))),
    'third-of-text': ('30% of the training text', change(
        ('data[:int(0.9 * len(data))]', 'data[:int(0.3 * 0.9 * len(data))]'))),
    'dropout': ('dropout 0.2', change(dropout=0.2)),
}


def code(source):
    """What `source` does: its syntax tree without comments and docstrings, a string."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def edited(name, source, steps=None):
    """`source` with the experiment's change, trained for `steps` (default: STEPS). ValueError if an edit no longer
    applies or changes nothing."""
    try:
        result = EXPERIMENTS[name][1](source)
    except ValueError as error:
        raise ValueError(f'experiment {name}: {error}') from None
    if name != 'baseline' and code(result) == code(source):
        raise ValueError(f'experiment {name}: it changes nothing')
    steps = steps or STEPS
    return program.edit(result, device='cpu', max_iters=steps, eval_interval=max(1, steps // 4))


def key(source, text):
    """What a run depends on, in 16 characters: the code and the text (bytes)."""
    return hashlib.sha256(code(source).encode() + text).hexdigest()[:16]


def run(source, folder, text):
    """Train the program `source` on `text` (bytes) in a folder that it makes and removes; the results, a dict. 'train'
    is None if the training ended early because the loss was not finite."""
    path = Path(folder) / 'gpt.py'
    path.parent.mkdir()
    path.write_text(source, encoding='utf-8')
    (path.parent / 'input.txt').write_bytes(text)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}  # train() sets its own
    began = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
            module = program.load(path)
            try:
                module.check_settings()
                exit_code = module.train(None)[1]
            except SystemExit as error:
                exit_code = 0 if 'finite' in errors.getvalue() else error.code
            if exit_code >= 128:
                raise KeyboardInterrupt
            if exit_code:
                raise RuntimeError(f'exit code {exit_code}: {errors.getvalue()}')
            model = module.load_model()
            loss = measure.whole_loss(module, model)
            model(*module.get_batch('train'))[1].backward()
            steps = measure.curve(output.getvalue())
            return {'val': loss, 'train': steps[-1][1] if steps[-1][0] == module.max_iters else None,
                    'best_step': min(steps, key=lambda line: line[2])[0], 'seconds': round(time.perf_counter() - began),
                    'parameters': sum(p.numel() for p in model.parameters() if p.grad is not None),
                    'sample': module.sample(model, 60)}
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        shutil.rmtree(path.parent)


def begin_worker():
    """Prepare a process that trains: on one core, and ending when its parent does."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()


def run_all(tasks, jobs):
    """Yield (number of the task, results) as the runs finish, `jobs` at a time; with 1 in this very process. A task is
    what run() takes."""
    if jobs == 1:
        torch.set_num_threads(1)
        yield from ((number, run(*task)) for number, task in enumerate(tasks))
        return
    if not tasks:
        return
    context = multiprocessing.get_context('spawn')
    pool = concurrent.futures.ProcessPoolExecutor(min(jobs, len(tasks)), context, begin_worker)
    try:
        futures = {pool.submit(run, *task): number for number, task in enumerate(tasks)}
        for future in concurrent.futures.as_completed(futures):
            yield futures[future], future.result()
    except BaseException:  # above all Ctrl-C: do not wait for the runs under way
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        raise
    pool.shutdown()


def spread(values, form):
    """The mean and, of several values, the standard deviation, in Markdown; a dash if one is missing."""
    if None in values:
        return '–'
    return f'{statistics.mean(values):{form}}' + (f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else '')


def table(runs, names=tuple(EXPERIMENTS)):
    """The results of `runs`, {name: {seed: results}}, as a table in Markdown: the losses in nats per character."""
    lines = ['| change | parameters | validation loss | difference | training loss |', '|---|--:|--:|--:|--:|']
    mean = {name: statistics.mean(run['val'] for run in seeds.values()) for name, seeds in runs.items() if seeds}
    for name in names:
        if name in mean:
            seeds = list(runs[name].values())
            known = name != 'baseline' and 'baseline' in mean
            difference = f'{mean[name] - mean["baseline"]:+.3f}' if known else ''
            lines.append(f"| {EXPERIMENTS[name][0]} | {seeds[0]['parameters']:,} | "
                         f"{spread([run['val'] for run in seeds], '.3f')} | {difference} | "
                         f"{spread([run['train'] for run in seeds], '.3f')} |")
    return '\n'.join(lines)


def main(arguments=None, source=None, text=None):
    """The command line; `source` and `text` (bytes) are gpt.py and input.txt unless given. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('names', nargs='*', metavar='NAME', help='run only these')
    parser.add_argument('--list', action='store_true', help='print the names, and what they are')
    parser.add_argument('--seeds', type=int, default=3, metavar='N', help='runs of each, 3 by default')
    parser.add_argument('--steps', type=int, metavar='N', help='steps of a run (the results are kept apart)')
    parser.add_argument('--jobs', type=int, default=2, metavar='N', help='runs at a time, 2 by default')
    parser.add_argument('--keep', action='store_true', help='accept results of an older program or text')
    parser.add_argument('--again', action='store_true', help='forget the results that are there, and run again')
    options = parser.parse_args(arguments)
    if options.list:
        print('\n'.join(f'{name:16} {description}' for name, (description, _) in EXPERIMENTS.items()))
        return 0
    for name in options.names:
        if name not in EXPERIMENTS:
            parser.error(f'no experiment {name!r}; --list names them')
    if min(options.seeds, options.jobs) < 1 or (options.steps or 1) < 1:
        parser.error('--seeds, --steps and --jobs must be 1 or more')
    source = source or (program.ROOT / 'gpt.py').read_text(encoding='utf-8')
    text = text or (program.ROOT / 'input.txt').read_bytes()
    names = [name for name in EXPERIMENTS if name in (options.names or EXPERIMENTS)]
    section = 'experiments' + (f' in {options.steps} steps' if options.steps else '')

    sources = {(name, seed): program.edit(edited(name, source, options.steps), seed=seed)
               for seed in range(cpu(source, 'seed'), cpu(source, 'seed') + options.seeds) for name in names}
    keys = {pair: key(program_text, text) for pair, program_text in sources.items()}
    done = results.read().get(section, {})
    if options.again:
        done = {name: seeds for name, seeds in done.items() if name not in names}
        results.write(section, done)
    # Only what these runs give is shown: a result of an older program or of a seed not asked for is left out.
    current = {pair for pair in sources if str(pair[1]) in done.get(pair[0], {})
               and (options.keep or done[pair[0]][str(pair[1])]['key'] == keys[pair])}
    todo = [pair for pair in sources if pair not in current]

    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(sources), initial=len(current), unit='run') as bar:
        tasks = [(sources[pair], f'{folder}/{number}', text) for number, pair in enumerate(todo)]
        try:
            for number, result in run_all(tasks, options.jobs):
                name, seed = todo[number]
                done.setdefault(name, {})[str(seed)] = {**result, 'key': keys[name, seed]}
                results.write(section, done)
                bar.update()
                bar.set_postfix_str(f'{name} {result["val"]:.3f}')
        except KeyboardInterrupt:
            bar.close()
            print('interrupted; what is finished is saved, and the same command goes on', file=sys.stderr)
            return 130
    shown = {name: {seed: done[name][seed] for seed in done[name] if (name, int(seed)) in sources} for name in names}
    if 'baseline' in done and 'baseline' not in names:
        shown['baseline'] = done['baseline']
    print(table(shown, names))
    return 0


if __name__ == '__main__':
    def terminate(*_):
        """SIGTERM ends the program as Ctrl-C does."""
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main())
