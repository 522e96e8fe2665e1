"""Everything that only a GPU can show, in one command (about 9 minutes on an H200).

    python tests/measure/gpu.py --nanogpt nanoGPT --output gpu.json

Its parts are the methods below. Each is printed and saved as soon as it ends, also if it fails.
With --dry, every line runs on a CPU, with tiny sizes.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

import benchmark
import experiments
import measuring

import helpers

LARGE = {'block_size': 256, 'n_embd': 384, 'n_head': 6, 'n_layer': 6, 'batch_size': 64}
LARGE |= {'weight_decay': 0.1, 'max_iters': 2500}
SMALL = {**helpers.TINY, 'max_iters': 4, 'eval_interval': 2}  # for --dry, and for checkpoints
STEPS = 20  # timed at a time


class Part:
    """The parts: each is a method. What it returns goes into the results."""

    def __init__(self, options):
        self.dry, self.nano = options.dry, options.nanogpt
        texts = measuring.texts(self.nano) if self.nano else {'Tiny Shakespeare': helpers.INPUT}
        self.text = helpers.TEXT if self.dry else texts['Tiny Shakespeare']
        self.device, half = ('cpu', 10) if self.dry else ('cuda', 100)
        self.twice = {'max_iters': 2 * half, 'eval_interval': half, 'max_new_tokens': 1}
        tests = '--version' if self.dry else str(helpers.ROOT / 'tests')
        command = [sys.executable, '-m', 'pytest', '-q', tests]
        self.begun = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def settings(self, **settings):
        """These, on the GPU. Tiny ones for --dry."""
        sizes = {**SMALL, 'n_head': settings.get('n_head', 2) // 3 or 1} if self.dry else settings
        return {**sizes, 'device': self.device}

    def recipes(self):
        """The larger model, four recipes at the same time, with fused attention, to save time."""
        begun = {}
        for rate, dropout in itertools.product((1e-3, 2e-3), (0.2, 0.3)):
            recipe = self.settings(**LARGE, learning_rate=rate, dropout=dropout)
            path = helpers.copy(tempfile.mkdtemp(), text=self.text, **recipe)
            experiments.apply_solution('fused-attention', path.parent)
            begun[f'rate {rate}, dropout {dropout}'] = helpers.Running(path)
        return {name: running.end(timeout=300).stdout[-3000:] for name, running in begun.items()}

    def default_alone(self):
        """A whole process of `python gpt.py`, with nothing beside it."""
        return measuring.whole_run(self.text, **self.settings())

    def steps(self, solution=None, number=STEPS, **settings):
        """A function that takes some training steps and waits for the GPU."""
        compiled = solution == 'torch.compile'
        settings = self.settings(**settings)
        module = benchmark.program(None if compiled else solution, self.text, **settings)
        wrap = torch.compile if compiled and not self.dry else lambda model: model
        step = benchmark.new_step(module, wrap)

        def take():
            for _ in range(2 if self.dry else number):
                step()
            if not self.dry:
                torch.cuda.synchronize()

        return take

    def attention(self):
        """Milliseconds for STEPS steps, with heads computed in three ways, and compiled."""
        result = {}
        for size, settings in (('default', {}), ('larger', {**LARGE, 'dropout': 0.2})):
            ways = (None, 'all-heads-at-once', 'fused-attention', 'torch.compile')
            functions = {way or 'one by one': self.steps(way, **settings) for way in ways}
            result[size] = benchmark.in_turns(functions, turns=3, warm=1)
        return result

    def profile(self):
        """One step of the larger model: where its time goes, by operation."""
        step = self.steps(number=1, **LARGE, dropout=0.2)
        step()
        kinds = [ProfilerActivity.CPU] + ([] if self.dry else [ProfilerActivity.CUDA])
        with profile(activities=kinds) as profiled:
            step()
        by = f'self_{"cpu" if self.dry else "device"}_time_total'
        return profiled.key_averages().table(sort_by=by, row_limit=20).splitlines()

    def torchrun(self):
        """One process under torchrun. Its losses are to be those of checkpoints(), in one go."""
        command = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
        settings = {**self.settings(), **self.twice}
        with tempfile.TemporaryDirectory() as folder:
            path = helpers.copy(folder, text=self.text, **settings)
            lines, _ = measuring.watch([*command, '--nproc-per-node=1', str(path)])
        return measuring.curve(lines)

    def checkpoints(self):
        """A run that goes from the CPU to the GPU and back; and one that is resumed on the GPU."""
        losses = {}
        with tempfile.TemporaryDirectory() as folder:
            for steps, device in ((2, 'cpu'), (4, self.device), (6, 'cpu')):
                settings = {**SMALL, 'max_iters': steps, 'device': device, 'resume': steps > 2}
                done = helpers.quick(helpers.copy(folder, **settings))
                losses[f'to step {steps} on {device}'] = helpers.steps(done)
        stop = helpers.at_call('os.replace', 0, 'sys.exit()')  # after its first save
        for name, patches in (('in one go', []), ('stopped and resumed', [stop])):
            with tempfile.TemporaryDirectory() as folder:
                path = helpers.copy(folder, text=self.text, **{**self.settings(), **self.twice})
                done = helpers.quick(path, patches=patches)
                if patches:
                    done = helpers.quick(helpers.change(path, resume=True))
                losses[name] = helpers.steps(done)
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
    parser = argparse.ArgumentParser(description='All that only a GPU can show.')
    parser.add_argument('--nanogpt', help='a folder of nanoGPT, with its text prepared')
    parser.add_argument('--output', type=Path, default=Path('gpu.json'))
    parser.add_argument('--dry', action='store_true', help='on a CPU, with tiny sizes')
    options = parser.parse_args()
    part, gpu = Part(options), 'no GPU' if options.dry else torch.cuda.get_device_name()
    results = {'machine': f'{gpu}, {measuring.machine()}'}
    order = 'recipes default_alone attention profile checkpoints torchrun nanogpt tests'
    for name in order.split():
        began = time.perf_counter()
        try:
            results[name] = getattr(part, name)()
        except Exception:
            results[name] = traceback.format_exc()
        seconds = time.perf_counter() - began
        print(f'{name} ({seconds:.0f} s):', str(results[name])[:700], flush=True)
        options.output.write_text(json.dumps(results, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
