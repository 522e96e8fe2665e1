"""Everything that only a GPU can show, in one command of at most 8 minutes (on an H100).

    python tests/measure/gpu.py --nanogpt nanoGPT --output gpu.json

The larger model with four recipes; the default alone; a step with heads one by one, all at once,
and fused; a step profiled; checkpoints between CPU and GPU; torchrun; nanoGPT's own configuration
on the same card; torch.compile; the tests. Each part is printed and saved as soon as it ends, also
if it fails. With --dry, every line runs on a CPU, with tiny sizes.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

import experiments
import measuring

import helpers

LARGE = {'block_size': 256, 'n_embd': 384, 'n_head': 6, 'n_layer': 6, 'batch_size': 64}
LARGE |= {'weight_decay': 0.1, 'max_iters': 2500}
SMALL = {**helpers.TINY, 'max_iters': 4, 'eval_interval': 2}  # for --dry, and for checkpoints
STEPS, TURNS = 20, 3  # timed at a time, in turns


def rows_of(output):
    """The losses in what a run has printed."""
    return measuring.curve([(0, line) for line in output.splitlines()])


class Part:
    """The parts: each is a method. What it returns goes into the results."""

    def __init__(self, options):
        self.dry, self.nano = options.dry, options.nanogpt and Path(options.nanogpt).resolve()
        nano_text = self.nano and self.nano / 'data' / 'shakespeare_char' / 'input.txt'
        self.text = nano_text.read_text(encoding='utf-8') if self.nano else helpers.INPUT
        self.device, self.results = 'cpu' if self.dry else 'cuda', {}
        tests = [] if self.dry else [str(helpers.ROOT / 'tests')]  # none: pytest's own help
        command = [sys.executable, '-m', 'pytest', '-q', *(tests or ['--version'])]
        self.begun = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def settings(self, **settings):
        """These, on the GPU. Tiny ones for --dry."""
        sizes = {**SMALL, 'n_head': settings.get('n_head', 2) // 3 or 1} if self.dry else settings
        return {**sizes, 'device': self.device}

    def sync(self):
        if not self.dry:
            torch.cuda.synchronize()

    def recipes(self):
        """The larger model, four recipes at the same time, with fused attention, to save time."""
        begun, result = {}, {}
        for rate in (1e-3, 2e-3):
            for dropout in (0.2, 0.3):
                recipe = self.settings(**LARGE, learning_rate=rate, dropout=dropout)
                path = helpers.copy(tempfile.mkdtemp(), text=self.text, **recipe)
                experiments.apply_solution('fused-attention', path.parent)
                begun[f'rate {rate}, dropout {dropout}'] = helpers.Running(path)
        for name, running in begun.items():
            done = running.end(timeout=300)
            result[name] = {'rows': rows_of(done.stdout), 'said': done.stdout[-400:]}
        return result

    def alone(self, **settings):
        """A whole process of `python gpt.py`, with nothing beside it."""
        return measuring.whole_run(self.text, **self.settings(**settings))

    def best_recipe_alone(self):
        """The larger model as it is. (Not among the parts that run by default: three minutes.)"""
        losses = {name: run['rows'][-1][3] for name, run in self.results['recipes'].items()}
        best = min(losses, key=losses.get)
        rate, dropout = [float(word.split()[1]) for word in best.split(',')]
        return {'recipe': best, **self.alone(**LARGE, learning_rate=rate, dropout=dropout)}

    def default_alone(self):
        return self.alone()

    def load(self, solution=None, **settings):
        """(the module, a model, its optimizer), perhaps edited by the solution of an exercise."""
        folder = tempfile.mkdtemp()
        path = helpers.copy(folder, text=self.text)
        if solution:
            experiments.apply_solution(solution, folder)
        module = helpers.load(helpers.change(path, **self.settings(**settings)))
        model = module.GPTLanguageModel().to(self.device)
        options = {'betas': (0.9, 0.99), 'weight_decay': module.weight_decay, 'fused': True}
        return module, model, torch.optim.AdamW(model.parameters(), **options)

    def milliseconds(self, steps):
        """The median time of a step of each function, in turns."""
        seconds = {name: [] for name in steps}
        for _ in range(TURNS + 1):  # the first warms up
            for name, step in steps.items():
                self.sync()
                began = time.perf_counter()
                for _ in range(2 if self.dry else STEPS):
                    step()
                self.sync()
                seconds[name].append((time.perf_counter() - began) / STEPS)
        return {
            name: round(1000 * sorted(each[1:])[TURNS // 2], 2) for name, each in seconds.items()
        }

    def attention(self):
        """A step of the default and of the larger model, with heads computed in three ways."""
        result = {}
        for size, settings in (('default', {}), ('larger', {**LARGE, 'dropout': 0.2})):
            steps = {}
            for name in ('one by one', 'all-heads-at-once', 'fused-attention'):
                solution = None if name == 'one by one' else name
                module, model, optimizer = self.load(solution, **settings)
                steps[name] = lambda m=module, n=model, o=optimizer: m.learn(n, o, 1)
            result[size] = self.milliseconds(steps)
        return result

    def profile(self):
        """One step of the larger model: where its time goes, by operation."""
        from torch.profiler import ProfilerActivity, profile

        module, model, optimizer = self.load(**LARGE, dropout=0.2)
        for _ in range(3):
            module.learn(model, optimizer, 1)
        kinds = [ProfilerActivity.CPU] + ([] if self.dry else [ProfilerActivity.CUDA])
        with profile(activities=kinds) as profiled:
            began = time.perf_counter()
            module.learn(model, optimizer, 1)
            self.sync()
            wall = time.perf_counter() - began
        where = 'self_cpu_time_total' if self.dry else 'self_device_time_total'
        rows = sorted(profiled.key_averages(), key=lambda row: -getattr(row, where))
        total = sum(getattr(row, where) for row in rows)
        top = [[row.key[:60], row.count, round(getattr(row, where) / 1000, 3)] for row in rows[:15]]
        launches = sum(row.count for row in rows if 'LaunchKernel' in row.key)
        busy = {'wall ms': round(1000 * wall, 2), 'device ms': round(total / 1000, 2)}
        return {**busy, 'launches': launches, 'operation, calls, ms': top}

    def compiled(self):
        """torch.compile, on the default and on the larger model."""
        result = {}
        for size, settings in (('default', {}), ('larger', {**LARGE, 'dropout': 0.2})):
            module, model, optimizer = self.load(**settings)
            network = model if self.dry else torch.compile(model)
            began = time.perf_counter()
            module.learn(network, optimizer, 1)
            self.sync()
            seconds = round(time.perf_counter() - began, 1)
            step = lambda m=module, n=network, o=optimizer: m.learn(n, o, 1)  # noqa: E731
            result[size] = {
                'seconds for the first step': seconds,
                **self.milliseconds({'ms': step}),
            }
        return result

    def torchrun(self):
        """One process under torchrun, and the same without: the losses agree."""
        result = {}
        for name, extra in (('without', []), ('with', ['-m', 'torch.distributed.run'])):
            settings = self.settings(max_iters=200, eval_interval=200, max_new_tokens=10)
            with tempfile.TemporaryDirectory() as folder:
                path = helpers.copy(folder, text=self.text, **settings)
                options = ['--standalone', '--nproc-per-node=1'] if extra else []
                lines, seconds = measuring.watch([sys.executable, *extra, *options, str(path)])
            result[name] = {'seconds': round(seconds, 1), 'rows': measuring.curve(lines)}
        return result

    def checkpoints(self):
        """A run that goes from the CPU to the GPU and back; and one that is resumed on the GPU."""
        losses = {}
        with tempfile.TemporaryDirectory() as folder:
            for steps, device in ((2, 'cpu'), (4, self.device), (6, 'cpu')):
                settings = {**SMALL, 'max_iters': steps, 'device': device, 'resume': steps > 2}
                done = helpers.quick(helpers.copy(folder, **settings))
                losses[f'to step {steps} on {device}'] = rows_of(done.stdout)
        go_on = '        if step < max_iters:\n'
        stop = (go_on, f'        if step == 100 and not resume:\n            sys.exit()\n{go_on}')
        settings = {'max_iters': 200, 'eval_interval': 100, 'max_new_tokens': 1}
        for name, edits in (('in one go', []), ('stopped and resumed', [stop])):
            with tempfile.TemporaryDirectory() as folder:
                path = helpers.copy(folder, text=self.text, edits=edits, **self.settings())
                output = helpers.quick(helpers.change(path, **settings)).stdout
                if edits:
                    output += helpers.quick(helpers.change(path, resume=True)).stdout
                losses[name] = rows_of(output)
        return losses

    def nanogpt(self):
        """nanoGPT's config/train_shakespeare_char.py, as it is."""
        if self.nano is None:
            return 'not measured: no folder given'
        command = [sys.executable, '-u', 'train.py', 'config/train_shakespeare_char.py']
        tiny = '--device=cpu --compile=False --max_iters=2 --eval_interval=1 --eval_iters=1 '
        tiny += '--n_layer=1 --n_head=1 --n_embd=8 --batch_size=2 --block_size=8 --dtype=float32'
        lines, seconds = measuring.watch([*command, *(tiny.split() if self.dry else [])], self.nano)
        return {'seconds': round(seconds, 1), 'curve': measuring.curve(lines), 'last': lines[-1][1]}

    def tests(self):
        """The project's tests, in this environment. They were begun before all other parts."""
        return self.begun.communicate(timeout=200)[0][-1500:]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--nanogpt', help='a folder of nanoGPT, with its text prepared')
    parser.add_argument('--output', type=Path, default=Path('gpu.json'))
    parser.add_argument('--dry', action='store_true', help='on a CPU, with tiny sizes')
    parser.add_argument('parts', nargs='*', help='only these')
    options = parser.parse_args()
    part = Part(options)
    name = 'a CPU' if part.dry else torch.cuda.get_device_name()
    about = f'{name}; Python {platform.python_version()}, torch {torch.__version__}'
    part.results['machine'] = f'{about}; {time.strftime("%Y-%m-%d")}'
    order = 'recipes default_alone attention profile checkpoints torchrun nanogpt compiled tests'
    for name in options.parts or order.split():
        began = time.perf_counter()
        try:
            part.results[name] = getattr(part, name)()
        except Exception:
            part.results[name] = traceback.format_exc()
        seconds = time.perf_counter() - began
        print(f'{name} ({seconds:.0f} s):', str(part.results[name])[:700], flush=True)
        options.output.write_text(json.dumps(part.results, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
