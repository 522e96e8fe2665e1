"""Speed and memory, each figure against something that one can judge it by.

    python tests/measure/benchmark.py           all of it, into results.json (about eight minutes)
    python tests/measure/benchmark.py steps     only some: steps, growth, other, torchrun

Run it on a machine that does nothing else. What is compared runs in turns, A B A B ..., and the
medians are compared, because the speed of a machine drifts. ms: milliseconds for a training step.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

import experiments
import measuring

import helpers

TURNS = 40


def program(solution=None, text=helpers.INPUT, **settings):
    """gpt.py, perhaps edited by the solution of an exercise, as a module."""
    path = helpers.copy(tempfile.mkdtemp(), text=text)
    if solution:
        experiments.apply_solution(solution, path.parent)
    return helpers.load(helpers.change(path, **{'device': 'cpu', **settings}))


def new_step(module, wrap=lambda model: model):
    """A function that takes one training step."""
    model = module.GPTLanguageModel().to(module.device)
    options = {'betas': (0.9, 0.99), 'weight_decay': module.weight_decay, 'fused': True}
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    network = wrap(model)
    return lambda: module.learn(network, optimizer, 1)


def in_turns(functions, turns=TURNS, warm=5):
    """{name: median milliseconds of a call}."""
    seconds = {name: [] for name in functions}
    for _ in range(warm + turns):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - began)
    return {n: round(1000 * statistics.median(each[warm:]), 2) for n, each in seconds.items()}


def arithmetic(module):
    """Floating-point operations of a training step: 6 for each weight of a matrix and character."""
    matrices = 12 * module.n_layer * module.n_embd**2 + module.n_embd * module.vocab_size
    attention = 12 * module.n_layer * module.block_size * module.n_embd
    return (6 * matrices + attention) * module.batch_size * module.block_size


def steps():
    """A step with heads computed in three ways, in both precisions, and its share of the rate."""
    functions = {}
    for bits in (32, 16):
        for name in (None, 'all-heads-at-once', 'fused-attention'):
            step = new_step(program(name, bfloat16=bits == 16))
            functions[f'{bits} bits, {name or "one by one"}'] = step
        a = torch.randn(2048, 2048, dtype=torch.bfloat16 if bits == 16 else torch.float32)
        functions[f'{bits} bits, matrix product'] = lambda a=a: a @ a
    result = in_turns(functions)
    for bits in ('32 bits', '16 bits'):
        rate = 2 * 2048**3 / result[f'{bits}, matrix product'] / 1e6
        share = arithmetic(program()) / result[f'{bits}, one by one'] / 1e6 / rate
        result |= {f'{bits}, GFLOP/s': round(rate), f'{bits}, share of it': share}
    return result


CHILD = """
import json, resource, sys
sys.path.insert(0, {folder!r})
import benchmark
program = benchmark.program(text=benchmark.helpers.TEXT, bfloat16=False, **{settings!r})
step = benchmark.new_step(program)
ms = benchmark.in_turns({{'step': step}}, turns=8, warm=1)['step']
print(json.dumps([ms, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def growth():
    """How time (ms) and memory (MB) grow with the context, the width, the depth, and the batch."""
    every = {'block_size': [64, 128, 256, 512], 'n_embd': [128, 256, 512], 'n_layer': [2, 4, 8]}
    result = {}
    for name, sizes in {**every, 'batch_size': [32, 64, 128]}.items():
        rows = []
        for size in sizes:
            code = CHILD.format(folder=str(measuring.FOLDER), settings={name: size})
            rows.append(json.loads(subprocess.check_output([sys.executable, '-c', code])))
        times, memory = [[round(row[i]) for row in rows] for i in (0, 1)]
        b, _ = np.polyfit(np.log(sizes), np.log(times), 1)  # time = a * size**b
        result[name] = {'sizes': sizes, 'ms': times, 'MB': memory, 'b': round(float(b), 2)}
    return result


def other():
    """Starting, sampling, evaluating, and a text of 100 MB."""
    module = program()
    model = module.GPTLanguageModel().eval()
    full = torch.zeros((1, module.block_size), dtype=torch.long)
    start = [sys.executable, '-c', 'import torch']
    functions = {'evaluation, ms': lambda: module.mean_loss(model, module.val_data)}
    functions['sampling 100 characters, ms'] = lambda: model.generate(full, 100)
    functions['import torch, ms'] = lambda: subprocess.run(start)
    result = in_turns(functions, turns=5, warm=1)
    for name, text in {'input.txt': helpers.INPUT, '100 MB': helpers.INPUT * 80}.items():
        with tempfile.TemporaryDirectory() as folder:
            settings = {'device': 'cpu', 'max_iters': 1, 'max_new_tokens': 1}
            path = helpers.copy(folder, text=text, **settings)
            code = f'import resource, runpy; runpy.run_path({str(path)!r}, run_name="__main__"); '
            code += 'print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)'
            lines, _ = measuring.watch([sys.executable, '-c', code])
        begun = next(seconds for seconds, line in lines if 'parameters learn' in line)
        result[f'{name}: seconds to the first step, MB'] = [round(begun, 1), lines[-1][1]]
    return result


def torchrun():
    """Processes on the cores of one machine: milliseconds for a step, median of three runs."""
    launch = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node']
    kinds, times = {'python': [], '1': [*launch, '1'], '2': [*launch, '2']}, {}
    with tempfile.TemporaryDirectory() as folder:
        settings = {'device': 'cpu', 'max_iters': 300, 'eval_interval': 300, 'max_new_tokens': 1}
        path = helpers.copy(folder, text=helpers.INPUT, eval_size=6400, **settings)
        for name in [*kinds] * 3:
            lines, _ = measuring.watch([sys.executable, *kinds[name], str(path)])
            (first, *_), *_, (last, *_) = measuring.curve(lines)
            times.setdefault(name, []).append((last - first) * 1000 / 300)
    return {name: round(statistics.median(each), 1) for name, each in times.items()}


def main():
    parts = {'steps': steps, 'growth': growth, 'other': other, 'torchrun': torchrun}
    done = measuring.read().get('benchmark', {})
    for name in sys.argv[1:] or parts:
        done[name] = {**parts[name](), 'machine': measuring.machine()}
        print(name, json.dumps(done[name], indent=1), flush=True)
        measuring.write('benchmark', done)


if __name__ == '__main__':
    main()
