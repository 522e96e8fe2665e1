"""Breaks gpt.py on purpose, in one way after another, and sees which test notices.

    python tests/stress/mutants.py                       all of them, in about 15 minutes
    python tests/stress/mutants.py 'no decay' 'no mask'  only these
    python tests/stress/mutants.py --list                their names

Prints the first test that caught each mutant. One that survives is a mistake that nobody would
notice. Then the exit code is 1.
"""

import argparse
import contextlib
import io
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import helpers

# The tests that can catch them, then: what gpt.py says, and what the mutant says instead.
MUTANTS = {
    'test_data.py': {
        'targets not shifted': ('part[i + 1 : i + block_size + 1]', 'part[i : i + block_size]'),
        'validation text trained on': (
            "train_data if split == 'train'",
            "data if split == 'train'",
        ),
        'last piece never used': ('len(part) - block_size,', 'len(part) - block_size - 1,'),
    },
    'test_model.py': {
        'scores unscaled': (' / math.sqrt(head_size)', ''),
        'no mask': ("scores.masked_fill(later, float('-inf'))", 'scores'),
        'no dropout of weights': ('F.dropout(weights, dropout, training)', 'weights'),
        'heads mixed up in the fast way': ('out.transpose(1, 2).reshape', 'out.reshape'),
        'no dropout in the fast way': (
            'out = attention(q, k, v, training)',
            'out = attention(q, k, v)',
        ),
        'a GPU looks ahead': ('is_causal=True', 'is_causal=False'),
        'edits of the heads ignored': ('if fast_attention and heads_were_edited()', 'if False'),
        'no residual connection': ('x = x + self.ffwd', 'x = self.ffwd'),
        'initial numbers ten times as large': ('std=0.5 /', 'std=5 /'),
        'a temperature turned upside down': ('logits / temperature', 'logits * temperature'),
        'top_k always 1': ('best[:, -1:]', 'best[:, :1]'),
        'dropout in the sample': ('model.eval()  # turns dropout off\n    idx', 'idx'),
        'a false comment about a shape': ('# (B, k), best first', '# (k, B), best first'),
    },
    'test_training.py': {
        'no decay': ('learning_rate * warmup * decay', 'learning_rate * warmup'),
        'no warm-up': ('learning_rate * warmup * decay', 'learning_rate * decay'),
        'no clipping': ('nn.utils.clip_grad_norm_(model', 'str(model'),
        'other betas': ('betas=(0.9, 0.99)', 'betas=(0.9, 0.999)'),
        'no weight decay': ('weight_decay=weight_decay', 'weight_decay=0.0'),
        'gradients not forgotten': ('optimizer.zero_grad()', 'pass'),
        'dropout left on in evaluation': (
            'model.eval()  # turns dropout off\n    losses',
            'losses',
        ),
        'dropout left off in training': ('model.train()  #', 'model.eval()  #'),
        'other batches in each evaluation': ('get_batch(split, generator)', 'get_batch(split)'),
        'only the last batch counts': ('total += loss.item()', 'total = loss.item() * eval_iters'),
        'best weights not kept': ('copy.deepcopy(model.state_dict())', 'model.state_dict()'),
        'best weights not used': ("model.load_state_dict(best['parameters'])", 'pass'),
        'seed ignored': ('torch.manual_seed(seed)\n    model', 'torch.seed()\n    model'),
        'lines held back': ('line_buffering=True', 'line_buffering=False'),
        "the console's encoding": ("encoding='utf-8', errors='replace', ", ''),
        'a closed pipe ends the run': ('except OSError:  # a full', 'except KeyError:  # a full'),
        'signal handlers not restored': ('signal.signal(number, handler)', 'pass'),
    },
    'test_checkpoint.py': {
        'best loss kept over a change of text': (' {zlib.crc32(data.numpy())}', ''),
        'optimizer not resumed': ('optimizer.load_state_dict({', 'dict({'),
        'old settings resumed': ("'param_groups': settings}", '}'),
        'random state not resumed': ("torch.set_rng_state(state['random'])", 'pass'),
        'copied instead of renamed': (
            'temporary.replace(checkpoint)',
            'checkpoint.write_bytes(temporary.read_bytes())',
        ),
        'last run not kept': ("{checkpoint.stem}-previous'", "{checkpoint.stem}'"),
        'nothing is too early to save': (
            'if step < min(100, eval_interval, max_iters):',
            'if False:',
        ),
        'Ctrl-C does not save': ('else:\n        save_run(step', 'else:\n        str(step'),
        'damage not looked for': ('zipfile.ZipFile(checkpoint).testzip()', 'None'),
        'code in a checkpoint is run': ('weights_only=True', 'weights_only=False'),
        'another alphabet accepted': ("shape['alphabet'] =", '_ ='),
        'a failed save exits with 0': ('if save_errors:', 'if False:'),
    },
    'test_settings.py': {
        'gradients clipped to nothing': ("'grad_clip', float, 1e-9", "'grad_clip', float, 0"),
        'True is a number': ('type(value) is kind or', 'isinstance(value, kind) or'),
        'ranges not checked': ('if not fits or not least <= value <= most:', 'if not fits:'),
        'all that allocates is memory': ('(out of|allocate|not enough) memory', 'allocate|memory'),
    },
    'test_torchrun.py': {
        'each process uses the whole batch': (
            'forward(x[rank::world_size], y[rank::world_size])',
            'forward(x, y)',
        ),
        'gradients not averaged': ('Copy(model) if world_size > 1 else model', 'model'),
        'all processes print': ('if rank > 0:\n        return\n    try', 'try'),
        'a restart starts anew': ('(resume or restarts > 0)', 'resume'),
        'a restart meets the dead': ("f'attempt {restarts}'", "'attempt'"),
    },
}


def with_right_checksum(source):
    """`source`, with the checksum that its heads have. A wrong one would give any mutant away."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, 'gpt.py')
        path.write_text(source, encoding='utf-8')
        path.with_name('input.txt').write_text(helpers.TEXT, encoding='utf-8')
        gpt = helpers.load(path)
        with mock.patch('zlib.crc32', wraps=zlib.crc32) as crc32:
            gpt.heads_were_edited()
    return re.sub('0x[0-9A-F]{8}', f'0x{zlib.crc32(*crc32.call_args.args):08X}', source)


def run_tests(source, file):
    """The first test of the file that fails with this gpt.py, or None. In a copy of the project."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'tests').mkdir()
        shutil.copy(helpers.ROOT / 'bigram.py', folder)
        shutil.copy(helpers.ROOT / 'input.txt', folder)
        for path in (helpers.ROOT / 'tests').glob('*.py'):
            shutil.copy(path, folder / 'tests')
        (folder / 'gpt.py').write_text(source, encoding='utf-8')
        command = [sys.executable, '-m', 'pytest', '-x', '-q', f'tests/{file}']
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, encoding='utf-8', timeout=900
            )
        except subprocess.TimeoutExpired:
            return 'the tests did not end'
    if done.returncode == 0:
        return None
    caught = re.search(r'^(?:FAILED|ERROR) tests/(.*?)(?: - .*)?$', done.stdout, re.M)
    return caught[1] if caught else done.stdout[-2000:] + done.stderr[-2000:]


def main():
    names = [name for mutants in MUTANTS.values() for name in mutants]
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('names', nargs='*', metavar='name', help='the mutants to run (all)')
    parser.add_argument('--list', action='store_true', help='only list their names')
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f'no mutant is named {", ".join(sorted(unknown))}')
    if options.list:
        print('\n'.join(names))
        return 0

    source, survived = helpers.read(), []
    for file, mutants in MUTANTS.items():
        chosen = [name for name in mutants if name in options.names or not options.names]
        sources = [with_right_checksum(helpers.replace(source, *mutants[name])) for name in chosen]
        if chosen and (failed := run_tests(source, file)):
            sys.exit(f'without any mutant, this fails: {failed}')
        for name, mutant in zip(chosen, sources, strict=True):
            caught = run_tests(mutant, file)
            print(f'{name:40} {caught or "SURVIVED"}', flush=True)
            if not caught:
                survived.append(name)
    print(f'{len(survived)} survived')
    return 1 if survived else 0


if __name__ == '__main__':
    sys.exit(main())
