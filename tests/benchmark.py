"""How fast gpt.py is and where the time goes, as Markdown tables: python tests/benchmark.py [--quick]

It takes under 10 minutes on 2 cores; --quick, which only tests the benchmark, one or two. What is compared is run by
turns, in one process, and given as the median and, in brackets, the least and the greatest. The numbers also go into
results.json, section 'benchmark' (not those of --quick, which mean nothing). Linux and macOS."""
import contextlib
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import program
import results
import torch
from torch.profiler import ProfilerActivity, profile

import textbook

QUICK = '--quick' in sys.argv
ARTICLE = dict(batch_size=64, block_size=256, n_embd=384, n_head=6, n_layer=6)
if QUICK:
    ARTICLE = dict(batch_size=2, block_size=64, n_embd=96, n_head=6, n_layer=6)
REPEATS = 3 if QUICK else 40
# Where the time of a step goes, by torch's names of operations; the first line that fits counts.
GROUPS = {
    'matrix products': ('aten::mm', 'aten::addmm', 'aten::bmm', 'aten::baddbmm'),
    'loss': ('log_softmax', 'nll_loss', 'cross_entropy'),
    'attention': ('scaled_dot_product', 'softmax', 'masked_fill'),
    'layer norm': ('layer_norm',),
    'clipping': ('norm', 'aten::_foreach', 'aten::clamp', 'aten::stack'),
    'optimizer': ('Optimizer', '_fused_adamw'),
    'ReLU, additions, copies': ('clamp_min', 'relu', 'threshold_backward', 'aten::add', 'aten::copy_', 'aten::cat',
                                'aten::sum', 'aten::fill_', 'aten::clone', 'embedding', 'aten::index', 'aten::mul'),
}
folder = Path(tempfile.gettempdir(), f'benchmark-{os.getpid()}')
measured = {}


def gpt(text=None, **settings):
    """The program as a module, edited; always on the CPU."""
    place = Path(tempfile.mkdtemp(dir=folder))
    return program.load(program.copy(place, text=text, device='cpu', **settings))


def table(name, head, rows):
    """Print a section and keep it."""
    measured[name] = {'head': head, 'rows': rows}
    print(f'\n### {name}\n\n| ' + ' | '.join(head) + ' |\n|' + '---|' * len(head))
    for row in rows:
        print('| ' + ' | '.join(str(cell) for cell in row) + ' |')
    sys.stdout.flush()


def spread(values, form='{:,.0f}'):
    """'median (least to most)'."""
    return '{} ({} to {})'.format(*(form.format(f(values)) for f in (statistics.median, min, max)))


def peak(pid='self'):
    """The most memory that a process has had so far, in MB. (On Linux getrusage() would count the parent's as well.)"""
    if sys.platform == 'linux':
        return int(Path(f'/proc/{pid}/status').read_text().split('VmHWM:')[1].split()[0]) / 1024
    usage = resource.getrusage(resource.RUSAGE_SELF if pid == 'self' else resource.RUSAGE_CHILDREN)
    return usage.ru_maxrss / 2 ** 20


def by_turns(functions, repeats, warm=2):
    """Seconds of each of the functions {name: f}, run A, B, A, B ...: {name: list}."""
    seconds = {name: [] for name in functions}
    for i in range(warm + repeats):
        for name, f in functions.items():
            start = time.perf_counter()
            f()
            if i >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def stepper(g, model, optimizer, batch):
    """A function that makes one whole training step."""
    def step():
        x, y = batch()
        _, loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), g.grad_clip)
        optimizer.step()
    return step


def our_step(g, model=None):
    """The step of gpt.py."""
    model = model or g.GPTLanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, g.beta2), weight_decay=g.weight_decay,
                                  fused=True)
    draws = torch.Generator().manual_seed(1)
    return stepper(g, model, optimizer, lambda: g.get_batch('train', draws))


def textbook_step(g, weights):
    """The textbook's step from the same weights; the model as well."""
    model = textbook.GPTLanguageModel(g.vocab_size, g.block_size, g.n_embd, g.n_head, g.n_layer, g.dropout)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all('tril' in name for name in missing), (missing, unexpected)
    data = g.train_data.long()

    def batch():
        starts = torch.randint(len(data) - g.block_size, (g.batch_size,))
        return (torch.stack([data[i:i + g.block_size] for i in starts]),
                torch.stack([data[i + 1:i + g.block_size + 1] for i in starts]))
    return stepper(g, model, torch.optim.AdamW(model.parameters(), lr=1e-3), batch), model


def arithmetic(g):
    """Floating-point operations of a training step per character, as the design counts them."""
    matrices = 12 * g.n_layer * g.n_embd ** 2 + g.n_embd * g.vocab_size
    return 6 * matrices + 12 * g.n_layer * g.block_size * g.n_embd / 2


def against_textbook():
    """(1) Training steps against the textbook version. Returns our characters per second at each setting."""
    rows, speeds = [], {}
    cases = [("the CPU's values", {}, 5 * REPEATS), ("the article's values, dropout 0", {**ARTICLE, 'dropout': 0.0}, 3),
             ("the article's values, dropout 0.2", {**ARTICLE, 'dropout': 0.2}, 2)]
    for name, settings, repeats in cases:
        g = gpt(**settings)
        torch.manual_seed(1)
        model = g.GPTLanguageModel()
        theirs, other = textbook_step(g, model.state_dict())
        x, y = g.get_batch('val', torch.Generator().manual_seed(1))
        with torch.no_grad():
            first = [m.eval()(x, y)[1].item() for m in (model, other)]
        assert abs(first[0] - first[1]) < 1e-4, first
        for m in (model, other):
            m.train()
        seconds = by_turns({'ours': our_step(g, model), 'theirs': theirs}, repeats, warm=5 if repeats > 3 else 1)
        characters = g.batch_size * g.block_size
        ours, book = ([characters / s for s in seconds[key]] for key in ('ours', 'theirs'))
        ratios = [b / a for a, b in zip(seconds['ours'], seconds['theirs'])]
        rows.append([name, spread(ours), spread(book), spread(ratios, '{:.2f}'), '{:.4f}, {:.4f}'.format(*first)])
        speeds[name] = statistics.median(ours), arithmetic(g)
    table('A training step against the textbook version, characters per second',
          ['setting', 'gpt.py', 'textbook', 'gpt.py / textbook', 'first losses'], rows)
    return speeds


def share_of_rate(speeds):
    """(2) What training reaches of the machine's float32 matrix rate, and where the rest goes."""
    n = 512 if QUICK else 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    out = torch.empty(n, n)
    rate = 2 * n ** 3 / statistics.median(by_turns({'': lambda: torch.mm(a, b, out=out)}, 8)[''])
    table("Share of the machine's float32 matrix rate",
          ['setting', 'characters/s', 'operations per character', 'GFLOP/s', 'matrix rate, GFLOP/s', 'share'],
          [[name, f'{speed:,.0f}', f'{work:,.0f}', f'{speed * work / 1e9:.1f}', f'{rate / 1e9:.1f}',
            f'{speed * work / rate:.0%}'] for name, (speed, work) in speeds.items()])
    g = gpt()
    step = our_step(g)
    by_turns({'': step}, 5)
    steps = 3 if QUICK else 30
    with profile(activities=[ProfilerActivity.CPU]) as measurements:
        for _ in range(steps):
            step()
    times = dict.fromkeys([*GROUPS, 'other'], 0.0)
    for event in measurements.key_averages():
        group = next((group for group, names in GROUPS.items() if any(
            event.key == name or (name not in GROUPS['matrix products'] and name in event.key) for name in names)
            and not (group == 'clipping' and 'clamp_min' in event.key)), 'other')
        times[group] += event.self_cpu_time_total / 1e3 / steps
    whole = sum(times.values())
    work = arithmetic(g) * g.batch_size * g.block_size / rate * 1e3
    rows = [[name, f'{ms:.2f}', f'{ms / whole:.1%}'] for name, ms in times.items()]
    table("Where a step goes at the CPU's values (under torch's profiler)", ['part', 'ms', 'share'],
          [*rows, ['sum', f'{whole:.2f}', '100%'], ['its arithmetic at the matrix rate', f'{work:.2f}',
                                                  f'{work / whole:.1%}']])


CHILD = '''
import json, sys, time
sys.path.insert(0, {tests!r})
import pathlib, program, torch
from benchmark import our_step, peak
before, start = peak(), time.perf_counter()
g = program.load(pathlib.Path({path!r}))
load, loaded = time.perf_counter() - start, peak()
steps = []
if {steps}:
    tiny = torch.nn.Linear(64, 64)  # what torch itself loads and keeps is not counted
    optimizer = torch.optim.AdamW(tiny.parameters(), fused=True)
    tiny(torch.ones(64, 64)).sum().backward()
    optimizer.step()
ready = peak()
if {steps}:
    step = our_step(g)
    for _ in range({steps}):
        start = time.perf_counter(); step(); steps.append(time.perf_counter() - start)
print(json.dumps([load, loaded - before, sorted(steps)[len(steps) // 2] if steps else 0, peak() - ready]))
'''


def child(steps, text=None, **settings):
    """In a process of its own: seconds and MB to load the program and its text, then seconds and MB of a step."""
    place = Path(tempfile.mkdtemp(dir=folder))
    path = program.copy(place, text=text, device='cpu', **settings)
    code = CHILD.format(tests=str(Path(__file__).resolve().parent), path=str(path), steps=steps)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, check=True)
    return json.loads(done.stdout)


def slope(xs, ys):
    """The exponent b of y = a * x ** b that fits best."""
    xs, ys = ([math.log(max(v, 1e-9)) for v in values] for values in (xs, ys))
    x, y = statistics.mean(xs), statistics.mean(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys)) / sum((a - x) ** 2 for a in xs)


def scaling():
    """(3) Time and memory of a step, and of loading the text, as things grow."""
    rows = []
    grow = {'block_size': [64, 128, 256, 512], 'n_embd': [128, 256, 512], 'n_layer': [2, 4, 8, 16],
            'batch_size': [24, 48, 96, 192]}
    for name, sizes in [('batch_size', [24, 96])] if QUICK else grow.items():
        seconds, memory, work = [], [], []
        for size in sizes:
            _, _, s, mb = child(2 if QUICK else 5, **{name: size})
            g = gpt(**{name: size})
            seconds.append(s)
            memory.append(mb)
            work.append(arithmetic(g) * g.batch_size * g.block_size)
        rows.append([name, ', '.join(map(str, sizes)), ', '.join(f'{s * 1e3:.0f}' for s in seconds),
                     f'{slope(sizes, work):.2f}', f'{slope(sizes, seconds):.2f}',
                     ', '.join(f'{mb:.0f}' for mb in memory), '1 to 2' if name == 'n_embd' else '1',
                     f'{slope(sizes, memory):.2f}'])
    table('As the model grows: a training step', ['what doubles', 'values', 'ms', 'exponent of its arithmetic',
                                                  'measured', 'MB', 'expected exponent', 'measured'], rows)
    text = (program.ROOT / 'input.txt').read_bytes()
    sizes = [2, 8] if QUICK else [4, 8, 16, 32, 64]
    loads = [child(0, text=(text * (size + 1))[:size * 10 ** 6]) for size in sizes]
    seconds, memory = [load[0] for load in loads], [load[1] for load in loads]
    table('As the text grows: reading and encoding it', ['MB of text', 's', 'exponent (expected 1)', 'MB of memory',
                                                         'exponent (expected 1)'],
          [[', '.join(map(str, sizes)), ', '.join(f'{s:.2f}' for s in seconds), f'{slope(sizes, seconds):.2f}',
            ', '.join(f'{mb:.0f}' for mb in memory), f'{slope(sizes, memory):.2f}']])


def sampling():
    """(4) Characters written per second."""
    rows = []
    for name, settings in (("the CPU's values", {}), ("the article's values", ARTICLE)):
        g = gpt(**settings)
        model = g.GPTLanguageModel().eval()
        length = 20 if QUICK else 300 if not settings else 60
        start = torch.zeros(1, g.block_size, dtype=torch.long)  # the context is full, as in most of a sample
        seconds = by_turns({'': lambda: model.generate(start, length)}, 3, warm=1)['']
        rows.append([name, spread([length / s for s in seconds])])
    table('Sampling with a full context', ['setting', 'characters/s'], rows)


def watch(path, command=(), **env):
    """Run a program to its end: ([(seconds since the start, line of its output)], peak memory in MB)."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, 'PYTHONUNBUFFERED': '1', **env})
    lines, most = [], 0
    for line in process.stdout:
        lines.append((time.perf_counter() - start, line.decode()))
        with contextlib.suppress(OSError, IndexError):  # it may have ended
            most = max(most, peak(process.pid))
    errors = process.stderr.read().decode()
    assert process.wait() == 0, errors
    return lines, most or peak(process.pid)


def seconds_to(lines, beginning):
    """When the first line that begins so was printed."""
    return next(seconds for seconds, line in lines if line.startswith(beginning))


def start_up():
    """(5) From the start of the process to the first training step, and what evaluating and sampling take in all."""
    path = program.copy(Path(tempfile.mkdtemp(dir=folder)), device='cpu', max_iters=1, max_new_tokens=1)
    repeats = 1 if QUICK else 3
    first = [seconds_to(watch(path)[0], 'step 0') for _ in range(repeats)]

    def alone(code):
        return by_turns({'': lambda: subprocess.run([sys.executable, '-c', code], check=True)}, repeats, warm=0)['']
    table('Starting', ['from the start of the process', 's'], [
        ['to the first training step (the evaluation before it included)', spread(first, '{:.2f}')],
        ['of these: import torch', spread(alone('import torch'), '{:.2f}')],
        ['of these: import torch, numpy, tqdm', spread(alone('import torch, numpy, tqdm'), '{:.2f}')]])
    g = gpt(**({'eval_iters': 2} if QUICK else {}))
    model = g.GPTLanguageModel()
    seconds = by_turns({'step': our_step(g, model), 'evaluation': lambda: g.estimate_loss(model),
                        'line': lambda: g.sample(model, 79)}, 3 if QUICK else 5)
    step, evaluation, line = (statistics.median(seconds[name]) for name in ('step', 'evaluation', 'line'))
    count = len([i for i in range(g.max_iters + 1) if i % g.eval_interval == 0 or i == g.max_iters])
    rest = count * (evaluation + line) + line * g.max_new_tokens / 79
    whole = rest + g.max_iters * step
    table("Evaluations and samples in the default run, at the CPU's values",
          ['step, ms', 'evaluation, s', 'line of a sample, s', 'evaluations', 'evaluations and samples, s',
           'the whole run, s', 'share'],
          [[f'{step * 1e3:.1f}', f'{evaluation:.2f}', f'{line:.2f}', count, f'{rest:.1f}', f'{whole:.0f}',
            f'{rest / whole:.1%}']])


def processes():
    """(6) torchrun."""
    steps = 20 if QUICK else 150
    path = program.copy(Path(tempfile.mkdtemp(dir=folder)), device='cpu', max_iters=steps, eval_interval=steps,
                        eval_iters=2, max_new_tokens=1)
    launch = ['-m', 'torch.distributed.run', '--standalone']
    kinds = {'python gpt.py': [], 'torchrun, 1 process': [*launch, '--nproc_per_node=1'],
             'torchrun, 2 processes': [*launch, '--nproc_per_node=2']}
    speeds = {name: [] for name in kinds}
    characters = 24 * 64 * steps
    for _ in range(1 if QUICK else 2):
        for name, command in kinds.items():
            lines = watch(path, command)[0]
            speeds[name].append(characters / (seconds_to(lines, f'step {steps}') - seconds_to(lines, 'step 0')))
    table('torchrun on the CPU', ['started by', 'characters/s'], [[name, spread(v)] for name, v in speeds.items()])


def large_text():
    """(7) A large text, in a process of its own."""
    size = 5 if QUICK else 100
    text = (program.ROOT / 'input.txt').read_bytes()
    path = program.copy(Path(tempfile.mkdtemp(dir=folder)), text=(text * (size + 1))[:size * 10 ** 6], device='cpu',
                        max_iters=1, max_new_tokens=1)
    lines, peak = watch(path)
    table('A large text', ['MB of text', 's from the start of the process to the first step', 'peak memory, MB'],
          [[size, f"{seconds_to(lines, 'step 0'):.1f}", f'{peak:.0f}']])


def bfloat16():
    """(8) Numbers of 16 bits on the CPU, for information."""
    rows = []
    for name, settings in (("the CPU's values", {}), ('n_embd twice as large', {'n_embd': 256})):
        functions = {}
        for kind, fast, half in (('float32', True, False), ('bfloat16', True, True), ('the formula', False, True)):
            functions[kind] = our_step(gpt(**settings, fast_attention=fast, bfloat16=half))
        seconds = by_turns(functions, max(3, REPEATS // 2))
        whole = statistics.median(seconds['float32'])
        rows.append([name, *(f"{spread([s * 1e3 for s in v], '{:.1f}')}: {whole / statistics.median(v):.2f}x"
                             for v in seconds.values())])
    table('bfloat16 on this CPU, ms of a step',
          ['setting', 'float32', 'bfloat16 = True', 'bfloat16 = True, fast_attention = False'], rows)


def machine():
    """What this ran on."""
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        model = next((line.split(':')[1].strip() for line in lines if line.startswith('model name')), model)
    return (f'{model}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; '
            f'Python {platform.python_version()}, torch {torch.__version__}')


def main():
    """Everything, in order."""
    start = time.perf_counter()
    folder.mkdir()
    print(f'## Benchmark{" (quick: the numbers mean nothing)" if QUICK else ""}\n\n{machine()}')
    try:
        share_of_rate(against_textbook())
        for section in (scaling, sampling, start_up, processes, large_text, bfloat16):
            section()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(time.perf_counter() - start)
    print(f'\n{seconds} seconds in all')
    if not QUICK:
        results.write('benchmark', {'machine': machine(), 'seconds': seconds, **measured})


if __name__ == '__main__':
    main()
