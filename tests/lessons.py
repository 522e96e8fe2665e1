"""Measure what the README tells, beyond the default run: how the sample grows, the ladder, a classroom's setting, and
what the exercises should show. Saved in results.json.

    python tests/lessons.py                 all
    python tests/lessons.py growth ladder   only these (there are growth, ladder, classroom and exercises)
"""
import atexit
import functools
import re
import shutil
import sys
import tempfile

import torch

import measure
import program
import results

GROWTH = (0, 100, 300, 1000, 2000)  # the steps that the page shows; the last step is shown, too
CLASSROOM = dict(n_embd=64, learning_rate=0.01, max_iters=800, eval_interval=200)


@functools.cache
def trained():
    """The default run with an evaluation every 100 steps, which changes nothing in the training: module, output."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    path = program.copy(folder, device='cpu', eval_interval=100)
    output = program.run(path, timeout=None, env={'COLUMNS': '90'}).stdout
    return program.load(path), output


def growth():
    """{step: the line that the default run writes then}."""
    output = trained()[1].splitlines()
    lines = {int(line.split()[1][:-1]): following
             for line, following in zip(output, output[1:]) if line.startswith('step ')}
    return {str(step): lines[step] for step in (*GROWTH, max(lines))}


def ladder():
    """The table that bigram.py prints, {name: [training loss, validation loss]}, and a default GPT with one head."""
    with tempfile.TemporaryDirectory() as folder:
        output = program.run(program.copy(folder, 'bigram.py', device='cpu'), timeout=None).stdout
    table = {name: [float(train), float(val)]
             for name, train, val in re.findall(r'^([a-z ]+?) {2,}(\d\.\d+) +(\d\.\d+)$', output, flags=re.MULTILINE)}
    one_head = measure.measure((program.ROOT / 'input.txt').read_bytes(), device='cpu', n_head=1)
    return {**table, 'one head': [one_head['curve'][-1][1], one_head['loss']]}


def classroom():
    """Seconds and loss of a small setting, and a line of its sample."""
    run = measure.measure((program.ROOT / 'input.txt').read_bytes(), device='cpu', **CLASSROOM)
    return {'settings': CLASSROOM, **{name: run[name] for name in ('seconds', 'loss', 'words', 'parameters', 'sample')}}


def trigram_loss(data, split, size):
    """Mean -ln P(next | the two before) on data[split:], counted on data[:split] with one added to every count."""
    triples = (data[:-2] * size + data[1:-1]) * size + data[2:]
    counts = torch.bincount(triples[:split - 2], minlength=size ** 3).view(size, size, size).double() + 1
    logs = (counts / counts.sum(-1, keepdim=True)).log().flatten()
    return -logs[triples[split:]].mean().item()


def exercises():
    """What there is to see in the exercises that neither the default run nor an experiment shows."""
    module = trained()[0]
    model = module.load_model()
    words = {}
    for module.temperature in (0.5, 0.8, 1.0, 1.5):
        written = [word for piece in measure.write_pieces(module, model) for word in measure.words(piece)]
        words[str(module.temperature)] = measure.share(written, measure.words(module.text))
    module.temperature = 0.0
    greedy = module.sample(model, 1000)
    lines = [line for line in greedy.split('\n') if line]
    trigram = trigram_loss(module.data.long(), len(module.train_data), module.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        path = program.copy(folder, device='cpu', max_iters=1200, eval_interval=200)
        line = '        self.lm_head = nn.Linear(n_embd, vocab_size)\n'
        tie = '        self.lm_head.weight = self.token_embedding_table.weight\n'
        path.write_text(program.replace(path.read_text(encoding='utf-8'), line, line + tie), encoding='utf-8')
        program.run(path, timeout=None)
        module = program.load(path)
        model = module.load_model()
        tied = {'loss': measure.whole_loss(module, model), 'parameters': sum(p.numel() for p in model.parameters())}
    return {'words': words, 'greedy lines': [len(set(lines)), len(lines)], 'greedy': greedy[:120], 'trigram': trigram,
            'tied': tied}


if __name__ == '__main__':
    lessons = {'growth': growth, 'ladder': ladder, 'classroom': classroom, 'exercises': exercises}
    for lesson in sys.argv[1:] or lessons:
        results.write(lesson, lessons[lesson]())
        print(lesson, results.read()[lesson])
