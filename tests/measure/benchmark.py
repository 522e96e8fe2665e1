"""Speed and memory, each figure against something that one can judge it by.

    python tests/measure/benchmark.py           all of it, into results.json (about six minutes)
    python tests/measure/benchmark.py step      only some: step, growth, other, torchrun, text

Run it on a machine that does nothing else. What is compared runs in turns, A B A B ..., and the
medians are compared, because the speed of a machine drifts. ms: milliseconds for a training step.
"""

import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import default_run
import results

import helpers
import textbook

TURNS = 60
ARTICLE = {'block_size': 256, 'n_embd': 384, 'n_head': 6, 'n_layer': 6, 'batch_size': 64}
PRECISIONS = {'float32': False, 'bfloat16': True}


def program(**settings):
    """gpt.py with the settings for a CPU, and some of them changed, as a module."""
    folder = tempfile.mkdtemp()
    settings = {'device': 'cpu', **settings}
    return helpers.load(helpers.copy(folder, text=helpers.INPUT, **settings))


def new_step(module, model=None):
    """A function that takes one training step of gpt.py."""
    model = model or module.GPTLanguageModel()
    options = {'betas': (0.9, 0.99), 'weight_decay': module.weight_decay, 'fused': True}
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    return lambda: module.learn(model, optimizer, 200)


def textbook_step(module):
    """The same for the textbook version: heads one by one, plain AdamW, as in the article."""
    sizes = (module.vocab_size, module.block_size, module.n_embd, module.n_head, module.n_layer)
    model = textbook.GPTLanguageModel(*sizes, module.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step():
        x, y = module.get_batch('train')
        with torch.autocast('cpu', torch.bfloat16, enabled=module.bfloat16):
            logits, loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def in_turns(functions, turns=TURNS, warm=5):
    """{name: median seconds of a call}, and {name: all of them}."""
    for function in functions.values():
        for _ in range(warm):
            function()
    seconds = {name: [] for name in functions}
    for _ in range(turns):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}, seconds


def arithmetic(module):
    """Floating-point operations of a training step."""
    matrices = 12 * module.n_layer * module.n_embd**2 + module.n_embd * module.vocab_size
    attention = 12 * module.n_layer * module.block_size * module.n_embd / 2
    return (6 * matrices + attention) * module.batch_size * module.block_size


def step():
    """A step against the textbook version, and against the machine's rate for large matrices."""
    rows = []
    functions, modules = {}, {}
    for name, bfloat16 in PRECISIONS.items():
        module = modules[name] = program(bfloat16=bfloat16)
        functions[name, 'gpt.py'] = new_step(module)
        functions[name, 'textbook'] = textbook_step(module)
        functions[name, 'as written'] = new_step(program(bfloat16=bfloat16, fast_attention=False))
        a = torch.randn(2048, 2048).to(torch.bfloat16 if bfloat16 else torch.float32)
        functions[name, 'matrix'] = lambda a=a: a @ a
    medians, seconds = in_turns(functions)
    for name, module in modules.items():
        ours, book = medians[name, 'gpt.py'], medians[name, 'textbook']
        pairs = zip(seconds[name, 'textbook'], seconds[name, 'gpt.py'], strict=True)
        ratios = sorted(b / a for b, a in pairs)
        least, most = ratios[len(ratios) // 10], ratios[-len(ratios) // 10]
        rate = 2 * 2048**3 / medians[name, 'matrix']
        rows.append(
            [
                name,
                f'{1000 * ours:.1f}',
                f'{1000 * medians[name, "as written"]:.1f}',
                f'{1000 * book:.1f}',
                f'{book / ours:.2f} ({least:.2f} to {most:.2f})',
                f'{rate / 1e9:.0f}',
                f'{arithmetic(module) / ours / rate:.0%}',
            ]
        )
    head = [
        'numbers',
        'gpt.py, ms',
        'fast_attention = False, ms',
        'textbook, ms',
        'times as fast as the textbook',
        'matrix rate, GFLOP/s',
        'share of it',
    ]
    return [{'title': 'A training step', 'head': head, 'rows': rows}]


CHILD = """
import json, resource, statistics, sys, time
sys.path[:0] = {paths!r}
import benchmark, torch
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
step = benchmark.new_step(benchmark.program(bfloat16=False, **{settings!r}))
seconds = []
for _ in range(8):
    began = time.perf_counter()
    step()
    seconds.append(time.perf_counter() - began)
print(json.dumps([statistics.median(seconds[1:]), peak()]))
"""


def slope(xs, ys):
    """The exponent b of the curve y = a * x**b that fits best."""
    xs, ys = [math.log(x) for x in xs], [math.log(max(y, 1e-9)) for y in ys]
    x, y = statistics.mean(xs), statistics.mean(ys)
    over = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return over / sum((a - x) ** 2 for a in xs)


def growth():
    """How time and memory grow with the context, the width, the depth and the batch."""
    rows = []
    paths = [str(results.PATH.parent), str(results.PATH.parent.parent)]
    for name, sizes in {
        'block_size': [64, 128, 256, 512],
        'n_embd': [128, 256, 512],
        'n_layer': [2, 4, 8, 16],
        'batch_size': [24, 48, 96, 192],
    }.items():
        measured, work = [], []
        for size in sizes:
            code = CHILD.format(paths=paths, settings={name: size})
            done = subprocess.run([sys.executable, '-c', code], capture_output=True, check=True)
            measured.append(json.loads(done.stdout))
            work.append(arithmetic(program(**{name: size})))
        seconds, memory = zip(*measured, strict=True)
        rows.append(
            [
                name,
                ', '.join(map(str, sizes)),
                ', '.join(f'{1000 * s:.0f}' for s in seconds),
                f'{slope(sizes, seconds):.2f}',
                f'{slope(sizes, work):.2f}',
                ', '.join(f'{mb:.0f}' for mb in memory),
            ]
        )
    head = ['what doubles', 'values', 'ms', 'exponent', 'of its arithmetic', 'peak memory, MB']
    return [{'title': 'As the model grows (float32)', 'head': head, 'rows': rows}]


def first_line(path, beginning, command=()):
    """Seconds from the start of the process to the first line that begins so."""
    lines, _ = default_run.watch([sys.executable, *command, str(path)])
    return next(seconds for seconds, line in lines if line.startswith(beginning))


def other():
    """Starting, sampling, and what evaluations and samples cost in the default run."""
    folder = tempfile.mkdtemp()
    text = helpers.INPUT
    path = helpers.copy(folder, text=text, device='cpu', max_iters=1, max_new_tokens=1)
    start = statistics.median(first_line(path, 'step 0') for _ in range(3))
    loading = ['import torch', 'import torch, numpy, tqdm']
    functions = {
        code: lambda code=code: subprocess.run([sys.executable, '-c', code], check=True)
        for code in loading
    }
    imports, _ = in_turns(functions, turns=3, warm=1)
    rows = [
        ['from the start of the process to the first training step', f'{start:.2f} s'],
        *([f'`{code}` alone', f'{imports[code]:.2f} s'] for code in loading),
    ]
    module = program()
    model = module.GPTLanguageModel()
    full = torch.zeros((1, module.block_size), dtype=torch.long)
    medians, _ = in_turns(
        {
            'step': new_step(module, model),
            'evaluation': lambda: module.estimate_loss(model),
            'sample': lambda: module.sample(model, 60),
            'characters': lambda: model.generate(full, 100),
        },
        turns=7,
        warm=1,
    )
    evaluations = module.max_iters // module.eval_interval + 1
    extra = evaluations * (medians['evaluation'] + medians['sample'])
    share = extra / (extra + module.max_iters * medians['step'])
    rows += [
        ['sampling with a full context', f'{100 / medians["characters"]:.0f} characters/s'],
        ['evaluations and samples, share of the default run', f'{share:.1%}'],
    ]
    return [{'title': 'Starting and sampling', 'head': ['what', 'measured'], 'rows': rows}]


def torchrun():
    """Processes on the cores of one machine."""
    folder = tempfile.mkdtemp()
    settings = {'device': 'cpu', 'max_iters': 200, 'eval_interval': 200, 'eval_iters': 2}
    path = helpers.copy(folder, text=helpers.INPUT, max_new_tokens=1, **settings)
    launch = ['-m', 'torch.distributed.run', '--standalone']
    kinds = {
        '`python gpt.py`': [],
        '`torchrun`, 1 process': [*launch, '--nproc-per-node=1'],
        '`torchrun`, 2 processes': [*launch, '--nproc-per-node=2'],
    }
    seconds = {name: [] for name in kinds}
    for _ in range(3):
        for name, command in kinds.items():
            lines, _ = default_run.watch([sys.executable, *command, str(path)])
            rows = default_run.curve(lines)
            seconds[name].append(rows[-1][0] - rows[0][0])
    rows = [[name, f'{1000 * statistics.median(s) / 200:.1f}'] for name, s in seconds.items()]
    return [{'title': 'Processes on a CPU', 'head': ['started by', 'ms'], 'rows': rows}]


PEAK = """
import resource, runpy, sys
sys.argv = [{path!r}]
runpy.run_path({path!r}, run_name='__main__')
print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def text():
    """A text of 100 MB: time to the first step, and memory."""
    large = (helpers.INPUT * 100)[: 100 * 10**6]
    folder = tempfile.mkdtemp()
    settings = {'device': 'cpu', 'max_iters': 1, 'max_new_tokens': 1}
    path = helpers.copy(folder, text=large, **settings)
    code = PEAK.format(path=str(path))
    lines, _ = default_run.watch([sys.executable, '-c', code])
    seconds = next(seconds for seconds, line in lines if line.startswith('step 0'))
    peak = float(lines[-1][1].split()[1])
    Path(path.parent / 'input.txt').unlink()
    head = ['MB of text', 'seconds to the first step', 'peak memory, MB']
    return [
        {'title': 'A large text', 'head': head, 'rows': [['100', f'{seconds:.1f}', f'{peak:.0f}']]}
    ]


def main():
    parts = {'step': step, 'growth': growth, 'other': other, 'torchrun': torchrun, 'text': text}
    kept = results.read().get('benchmark', {})
    for name in sys.argv[1:] or parts:
        kept[name] = parts[name]()
        print(json.dumps(kept[name], indent=1), flush=True)
        results.write('benchmark', {**kept, 'machine': results.machine()})


if __name__ == '__main__':
    main()
