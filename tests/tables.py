"""Write the tables of README.md from results.json, between the comments that mark their places.

    python tests/tables.py
"""
import math
import re
import statistics

import experiments
import program
import results

PAGE = program.ROOT / 'README.md'
SHAKESPEARE = 'tiny shakespeare'


def fence(text):
    """`text` as a block of plain text."""
    return f'```text\n{text.rstrip()}\n```'


def rows(head, lines):
    """A Markdown table."""
    return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in [head, ['---'] * len(head), *lines])


def mean(runs, key='val'):
    """The mean over the seeds of an experiment."""
    return statistics.mean(run[key] for run in runs.values())


def worth(r, name):
    """The validation loss of an experiment and its distance from the baseline, in words."""
    loss, base = mean(r['experiments'][name]), mean(r['experiments']['baseline'])
    return f'{loss:.3f} in place of {base:.3f}'


def sample(r):
    return fence(r['default']['input.txt']['sample'][:400].strip('\n'))


def screen(r):
    run = r['default']['input.txt']
    first, last = run['curve'][0], run['curve'][-1]
    line = 'step {}: train loss {:.4f}, val loss {:.4f}'
    best = min(run['curve'], key=lambda step: step[2])
    return fence('\n'.join([
        f"{run['device']}: {run['parameters']:,} parameters, text {run['characters']}, alphabet {run['alphabet']}",
        line.format(*first), r['growth']['0'], '...', line.format(*last), r['growth'][str(last[0])],
        f"best val loss {best[2]:.4f} at step {best[0]}, {run['training_seconds']:.0f} seconds"]))


def growth(r):
    lines = sorted(r['growth'].items(), key=lambda item: int(item[0]))
    return rows(['steps', 'it writes'],
                [[step, '`` ' + line.replace('|', '\\|').strip() + ' ``'] for step, line in lines])


def curve(r):
    steps = r['default']['input.txt']['curve']
    bigram = r['ladder']['counted bigram'][1]
    points = [f'{val:.3f}' for _, _, val in steps]
    return '\n'.join([
        '```mermaid', 'xychart-beta', '    title "validation loss (falling: GPT, level: counted bigram)"',
        f'    x-axis "steps" [{", ".join(str(step) for step, _, _ in steps)}]',
        '    y-axis "nats per character" 1 --> 4.4',
        f'    line [{", ".join(points)}]', f'    line [{", ".join([f"{bigram:.3f}"] * len(steps))}]', '```', '',
        rows(['step', 'train loss', 'val loss', 'counted bigram'],
             [[step, f'{train:.3f}', f'{val:.3f}', f'{bigram:.3f}'] for step, train, val in steps])])


def table_of_experiments(r):
    text = experiments.table(r['experiments'])
    blind = next(iter(r['experiments']['no-mask'].values()))['sample'][:20].replace('\n', ' / ')
    return (f'{text}\n\nWithout the mask the loss falls through the floor and means nothing: every place reads off the '
            'character that it is to predict. When the model has to write, there is nothing to read off: '
            f'`` {blind.strip()} ``')


def results_table(r):
    return rows(['text', 'seconds', 'loss over the whole validation text', 'bits per character', 'best step',
                 'words of the sample that occur in the text'], [
        [name, f"{run['seconds']:.0f} ({', '.join(f'{s:.0f}' for s in run['all_seconds'])})", f"{run['loss']:.3f}",
         f"{run['bits']:.2f}", run['best_step'], f"{run['words']:.1%}"]
        for name, run in ((name, r['default'][name]) for name in ('input.txt', SHAKESPEARE))])


def ladder(r):
    steps = r['ladder']
    named = [('knowing nothing (ln 65)', steps['knowing nothing'][1]),
             ('letter frequencies', steps['letter frequencies'][1]), ('counted bigram', steps['counted bigram'][1]),
             ('trained bigram', steps['trained bigram'][1])]
    packed = [(f'{name}, a compressor', value['nats']) for name, value in r['compressors']['input.txt'].items()]
    ours = [('GPT with one head (n_head = 1)', steps['one head'][1]),
            ('the default GPT', r['default']['input.txt']['loss'])]
    lines = [[name, f'{nats:.3f}', f'{nats / math.log(2):.3f}'] for name, nats in named + packed + ours]
    return rows(['predictor', 'nats per character', 'bits per character'],
                [*lines, ["the article's GPT, on a GPU", 'not measured', 'not measured']])


def benchmark(r):
    parts = [f"{r['benchmark']['machine']}; {r['benchmark']['seconds']} seconds in all."]
    for name, value in r['benchmark'].items():
        if name not in ('machine', 'seconds'):
            parts.append(f"**{name}**\n\n{rows(value['head'], value['rows'])}")
    return '\n\n'.join(parts)


def machine(r):
    return (f"All numbers on this page are from one machine: {r['benchmark']['machine']}. Yours will be faster or "
            'slower; the losses hardly change.')


def classroom(r):
    run = r['classroom']
    lines = '\n'.join(f'{name} = {value}' for name, value in run['settings'].items())
    return (f"```python\n{lines}\n```\n\nThe whole process took {run['seconds']:.0f} seconds, for a validation loss of "
            f"{run['loss']:.2f}; {run['words']:.0%} of the words that it writes occur in the text "
            "(`python tests/lessons.py classroom`).")


# What the article does, what that costs ({scale} is measured), and the test that shows it.
MISTAKES = [
    ('multiplies the attention scores by `C ** 0.5`; to be divided by the square root of the head size', '{scale}',
     'scores times sqrt(C)'),
    ('the simple self-attention before that has no scale at all', 'softmax saturates as the vectors grow',
     'scores not scaled'),
    ('downloads the text, and never reads it into `text`', '`NameError`', 'no text read'),
    ('a comment takes the alphabet of "the first 1000 characters"; the line takes it of all',
     'followed, it would be a `KeyError`', 'alphabet of the first 1000 characters'),
    ('"Use 90% of the data for training": no line does', 'nothing to validate on', 'data never split'),
    ('`get_batch` uses `train` and `val_data`, `block_size` and `batch_size`, which do not exist yet', '`NameError`',
     'get_batch uses train'),
    ('the width is `C1` in one place and `n_embd`, which does not exist, in another', '`NameError`',
     'n_embd not defined, C1 is'),
    ('the projection assumes that the heads add up to `C1`; nothing checks it', '`RuntimeError` for other sizes',
     'head count that does not divide'),
    ("the bigram's `forward` has no default for targets, but `generate` calls it without", '`TypeError`',
     'targets without a default, in generate'),
    ('logits have another shape with targets than without', 'surprises whoever uses them',
     'logits in another shape with targets'),
    ('`targets.view` needs targets that lie in one piece', '`RuntimeError` with batches cut from one window',
     'targets that lie apart in memory'),
    ('`MultiHeadAttention` makes a dropout and does not use it', 'less dropout than it says',
     'dropout made and not used'),
    ('`device` is defined; neither batches nor model are moved to it', 'no GPU is used, or `RuntimeError`',
     'model not moved to the device'),
    ('positions are made on the global device', '`RuntimeError` if the model is elsewhere',
     'positions on the global device'),
    ('neither model is ever made', '`NameError: model`', 'model never made'),
    ('the bigram is never trained', 'it writes noise', 'bigram never trained'),
    ('`learning_rate` is defined, the optimizer gets `3e-4`', 'changing it changes nothing', 'learning_rate not used'),
    ('`max_iters` in the training loop, but `eval_interval` and `eval_iters` nowhere', 'no evaluation at all',
     'no evaluation'),
    ('prints the number of every iteration', '5,000 lines that tell nothing', 'a line at every step'),
    ('nothing is ever sampled', 'one trains for hours and sees no text', 'nothing sampled'),
    ('`generate` keeps gradients', 'work and memory for gradients that nobody uses', 'generation with gradients'),
    ('`generate` runs with dropout on', 'worse samples than the model can write', 'generation with dropout'),
    ('the seed is set for the bigram only', 'no run can be repeated', 'no seed'),
]


def article(r):
    """The article's mistakes."""
    scale = f"a validation loss of {worth(r, 'wrong-scale')} (see the experiments)"
    return rows(['the article', 'what it costs', 'the test'],
                [[what, cost.format(scale=scale), f'`test_article.py`: "{name}"'] for what, cost, name in MISTAKES])


def exercises(r):
    """Ten exercises, each with what there is to see."""
    e, x, default = r['exercises'], r['experiments'], r['default']['input.txt']
    seeds = [run['val'] for run in x['baseline'].values()]
    words = [f'{share:.0%}' for share in e['words'].values()]
    different, lines = e['greedy lines']
    fewer = default['parameters'] - e['tied']['parameters']
    return '\n'.join(f'{number}. {text}' for number, text in enumerate([
        '**Another seed.** Change `seed` and train again (with `max_iters = 1200` to be quick). The sample is another, '
        f'the loss hardly: {min(seeds):.3f} to {max(seeds):.3f} for three seeds. A difference like that means nothing.',
        '**Temperature.** With `resume = True`, try `temperature` 0.5, 0.8, 1.0 and 1.5. Of the words in 20,000 '
        f'characters {", ".join(words)} occur in the text. At 0 it goes round in circles: {different} different lines '
        f'of {lines} that are not empty, in 1000 characters.',
        '**A prompt that it cannot read.** Set `prompt = "Käse"`. One line tells which character the text does not '
        'have; the exit code is 2.',
        f"**One head.** Set `n_head = 1`, for 1200 steps: {worth(r, 'one-head')}. The number of parameters stays.",
        f"**Ten times the learning rate**, for 1200 steps: {worth(r, 'high-rate')}. And without warm-up: "
        f"{worth(r, 'no-warm-up')}.",
        f"**Dropout.** Set `dropout = 0.2`, for 1200 steps: {worth(r, 'dropout')}. Compare the train loss with the val "
        'loss in both runs: in so short a training there is hardly any learning by heart to cure.',
        '**See the attention.** Set `fast_attention = False`, `resume = True`, `prompt = \'KING\'` and '
        '`max_new_tokens = 1`, and print `weights[0, 0]` before `return weights @ v`: the first head of each block. '
        'Every row adds up to 1, all above the diagonal is 0, and the first row is 1, 0, 0, 0: the first character '
        'has only itself to look at.',
        '**Count trigrams** in bigram.py: P(next | the two before), with one added to every count. Validation loss: '
        f"{e['trigram']:.3f}; the bigram's is {r['ladder']['counted bigram'][1]:.3f}.",
        '**Write the loss over the whole validation text**: windows of block_size one after the other, best weights '
        f"(`load_model()`), the mean over all characters. With the default run you should get {default['loss']:.3f}; "
        '`estimate_loss` looks at random windows only.',
        '**Tie the weights**: let `lm_head.weight` be `token_embedding_table.weight`, one line in `GPTLanguageModel`. '
        f"{fewer:,} parameters fewer, and after 1200 steps a loss of {e['tied']['loss']:.3f} in place of "
        f"{mean(x['baseline']):.3f}. What do the two tables have to do, and is it the same?",
    ], 1))


TABLES = {'sample': sample, 'screen': screen, 'growth': growth, 'curve': curve, 'article': article,
          'experiments': table_of_experiments, 'results': results_table, 'ladder': ladder, 'benchmark': benchmark,
          'machine': machine, 'classroom': classroom, 'exercises': exercises}


def filled(page):
    """`page` with every table as the results give it."""
    r = results.read()
    return re.sub(r'(<!-- table: (\w+) -->\n).*?(<!-- end -->)',
                  lambda place: f'{place[1]}{TABLES[place[2]](r)}\n{place[3]}', page, flags=re.DOTALL)


if __name__ == '__main__':
    PAGE.write_text(filled(PAGE.read_text(encoding='utf-8')), encoding='utf-8')
