"""What is each idea in gpt.py worth? Change it in a copy, train the copy, and look at the loss.

    python tests/measure/experiments.py 3           all of experiments.txt, with three seeds each
    python tests/measure/experiments.py 5 no-mask   only some, with five seeds

All runs have 1,200 steps, in 32 bits. Every run is saved in results.json as soon as it ends, and
not repeated as long as it stands there.
"""

import ast
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import measuring

import helpers

SOLUTIONS = helpers.ROOT / 'tests' / 'exercise' / 'solutions'
STEPS = {'device': 'cpu', 'bfloat16': False, 'max_iters': 1200, 'eval_interval': 1200}
LINES = ['x = x + self.sa(self.ln1(x))', 'x = x + self.ffwd(self.ln2(x))', 'x = self.ln_f(x)']
BLOCKS = {  # what becomes of these lines
    'attention only': ['x = self.sa(x)', '', ''],
    'without residuals': ['x = self.sa(x)', 'x = self.ffwd(x)', ''],
    'without norms': ['x = x + self.sa(x)', 'x = x + self.ffwd(x)', ''],
}


def read_experiments():
    """{name: (group, description, edit, settings)} of experiments.txt."""
    found = {}
    for line in (measuring.FOLDER / 'experiments.txt').read_text(encoding='utf-8').splitlines():
        if '|' in line and not line.startswith('#'):
            name, group, words, edit, settings = [part.strip() for part in line.split('|')]
            pairs = [pair.split('=') for pair in settings.split(', ') if pair]
            settings = {setting: ast.literal_eval(value) for setting, value in pairs}
            found[name] = (group, words, edit, settings)
    return found


EXPERIMENTS = read_experiments()


def write_program(name, folder, seed):
    """Write the program of an experiment, edited, into a folder. Returns its path."""
    _, _, edit, settings = EXPERIMENTS[name]
    edits = list(zip(LINES, BLOCKS[edit])) if edit in BLOCKS else []
    path = helpers.copy(folder, text=helpers.INPUT, edits=edits)
    if edit and not edits:
        apply_solution(edit, folder)
    return helpers.change(path, **{**STEPS, **settings, 'seed': seed})


def apply_solution(name, folder):
    """Apply the diff of a solution to the program in a folder, as the page says."""
    diff = str(SOLUTIONS / f'{name}.diff')
    command = ['git', 'apply', diff] if shutil.which('git') else ['patch', '-p1', '-i', diff]
    env = helpers.environment(GIT_CEILING_DIRECTORIES=str(Path(folder).parent))
    subprocess.run(command, cwd=folder, env=env, check=True)


def run(name, seed):
    """Train: {'loss', 'train_loss', 'seconds', 'parameters', 'curve', 'sample'}."""
    os.environ['OMP_NUM_THREADS'] = '1'
    with tempfile.TemporaryDirectory() as folder:
        path = write_program(name, folder, seed)
        lines, seconds = measuring.watch([sys.executable, str(path)])
        module = helpers.load(path)
        model = module.GPTLanguageModel()
        model(*module.get_batch(module.train_data))[1].backward()
        used = sum(p.numel() for p in model.parameters() if p.grad is not None)
        rows, printed = measuring.curve(lines), [line for _, line in lines]
        bits = [float(b) for b in re.findall(r'^ +([\d.]+) bits per', '\n'.join(printed), re.M)]
        result = {'loss': rows[-1][3], 'train_loss': rows[-1][2], 'seconds': round(seconds, 1)}
        result |= {'parameters': used, 'curve': rows}
        result['sample'] = '\n'.join(printed[printed.index('') + 1 :])[:100]
        return {**result, 'bits': bits[-1]} if bits else result


def main():
    seeds, *names = sys.argv[1:] or sys.exit(__doc__)
    seeds, done = range(1337, 1337 + int(seeds)), measuring.read().get('experiments', {})
    todo = [(name, seed) for seed in seeds for name in names or EXPERIMENTS]
    todo = [(name, seed) for name, seed in todo if str(seed) not in done.get(name, {})]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for (name, seed), result in zip(todo, pool.map(lambda task: run(*task), todo)):
            done.setdefault(name, {})[str(seed)] = result
            measuring.write('experiments', {**done, 'machine': measuring.machine()})
            print(f'{name:17} seed {seed}: {result["loss"]:.4f}', flush=True)


if __name__ == '__main__':
    main()
