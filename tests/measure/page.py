"""Fill the tables and numbers of README.md and tests/README.md from results.json.

    python tests/measure/page.py

They stand between comments, <!-- name --> and <!-- end -->. Everything else on the pages is written
by hand. A test sees to it that the pages and the results agree.
"""

import math
import re
import statistics

import experiments
import results

import helpers

PAGES = [helpers.ROOT / 'README.md', helpers.ROOT / 'tests' / 'README.md']
TINY = 'Tiny Shakespeare'


def table(head, rows, right=()):
    """A Markdown table. `right` are the numbers of the columns with numbers in them."""
    line = ['--:' if i in right else '---' for i in range(len(head))]
    rows = [head, line, *rows]
    return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in rows)


def fence(text, language='text'):
    return f'```{language}\n{text.strip()}\n```'


def code(text):
    """`text` as code inside a table: a | would end the cell."""
    return f'`` {text.replace("|", chr(92) + "|")} ``'


def seconds(value):
    return f'{value:.0f} s'


def losses(r, name, key='loss'):
    """The losses of an experiment, one for each seed."""
    return [run[key] for run in r['experiments'][name].values()]


def mean(r, name):
    return statistics.mean(losses(r, name))


def spread(r, name):
    values = losses(r, name)
    return f'{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}'


def sample(r):
    output = r['default']['input.txt']['output']
    end = next(i for i, line in enumerate(output) if line.startswith('best val loss'))
    return fence('\n'.join(output[end + 1 :])[:300].rpartition('\n\n')[0])


def screen(r):
    output = r['default']['input.txt']['output']
    steps = [i for i, line in enumerate(output) if line.startswith('step ')]
    end = next(i for i, line in enumerate(output) if line.startswith('best val loss'))
    shown = output[: steps[2]] + ['...'] + output[steps[-1] : end + 1]
    return fence('\n'.join(shown))


def growth(r):
    rows = [[step, code(line.strip('\'"'))] for step, line in r['growth']]
    return table(['steps', 'it writes'], rows, right=[0])


def built_up(r):
    ladder = r['ladder']['input.txt']
    rows = [['counted bigram', f'{ladder["losses"]["counted bigram"]:.3f}', '4,225', '—']]
    bigram = seconds(ladder['bigram seconds'])
    rows.append(['learned bigram', f'{ladder["losses"]["learned bigram"]:.3f}', '4,225', bigram])
    for name, (group, description, *_) in experiments.EXPERIMENTS.items():
        if group == 'built up':
            runs = r['experiments'][name].values()
            took = statistics.median(run['seconds'] for run in runs)
            parameters = next(iter(runs))['parameters']
            rows.append(
                [f'+ {description}', f'{mean(r, name):.3f}', f'{parameters:,}', seconds(took)]
            )
    whole = r['default']['input.txt']
    size, took = f'{whole["parameters"]:,}', seconds(whole['seconds'])
    rows.append([f'+ more steps: {whole["steps"]:,}', f'{whole["loss"]:.3f}', size, took])
    rows[2][0] = 'a GPT with ' + rows[2][0][2:]
    return table(['model', 'loss', 'parameters', 'time'], rows, right=[1, 2, 3])


def taken_away(r):
    rows = [['gpt.py as it is', spread(r, 'baseline'), '±0']]
    for name, (group, description, *_) in experiments.EXPERIMENTS.items():
        if group == 'taken away':
            change = mean(r, name) - mean(r, 'baseline')
            rows.append([description, spread(r, name), f'{change:+.3f}'])
    return table(['change', 'loss', 'difference'], rows, right=[1, 2])


def blind(r):
    """What the model without a mask writes."""
    samples = [run['sample'] for run in r['experiments']['no-mask'].values()]
    sample = max(samples, key=lambda text: len(set(text)))
    return f'`{sample[:20]!r}`'


def bits(r, name):
    return mean(r, name) / math.log(2)


def exercise_numbers(r):
    """The numbers of the exercises: {marker: text}."""
    found = r['exercises']
    base = losses(r, 'baseline')
    words = [f'{share:.0%}' for share in found['words'].values()]
    speed = found['characters per second']
    tied = next(iter(r['experiments']['tied'].values()))['parameters']
    whole = next(iter(r['experiments']['baseline'].values()))['parameters']
    different, lines = found['greedy lines']
    return {
        'seeds': f'{min(base):.3f} to {max(base):.3f}',
        'baseline': f'{mean(r, "baseline"):.3f}',
        'temperatures': f'{words[0]}, {words[1]}, {words[2]} and {words[3]}',
        'greedy': f'{different} of its {lines} lines',
        'wide head': f'{mean(r, "wide-head"):.3f}',
        'high rate': f'{mean(r, "high-rate"):.3f}',
        'no warm-up': f'{mean(r, "no-warm-up"):.3f}',
        'dropout': f'{mean(r, "dropout"):.3f}',
        'trigram': f'{found["trigram"]:.3f}',
        'counted': f'{r["ladder"]["input.txt"]["losses"]["counted bigram"]:.3f}',
        'whole loss': f'{found["whole loss"]:.3f}',
        'tied': f'{mean(r, "tied"):.3f}',
        'fewer': f'{whole - tied:,}',
        'bits': f'{bits(r, "baseline"):.2f}',
        'bits 512': f'{bits(r, "byte-pairs-512"):.2f}',
        'bits 1024': f'{bits(r, "byte-pairs-1024"):.2f}',
        'rotary': f'{mean(r, "rotary"):.3f}',
        'cache': f'{speed["with kept keys and values"] / speed["as it is"]:.1f}',
        'wrong scale': f'{mean(r, "wrong-scale"):.3f}',
    }


def published(r):
    """Published figures beside ours, from the highest loss to the lowest."""
    ours, quick, race = r['default'][TINY], r['quick'], seconds(r['race']['nanoGPT']['seconds'])

    def own(name, run):
        size = f'{run["parameters"] / 1e6:.2f} million'
        return [f'{name} ({seconds(run["seconds"])})', size, f'{run["loss"]:.3f}']

    rows = [
        own('gpt.py with the four lines above', quick),
        [f'nanoGPT, recipe for a CPU ({race} on our two cores)', '0.80 million', '1.88'],
        ['[MiniGPT](https://arxiv.org/abs/2605.17398)', '0.83 million', '1.7236'],
        own('**gpt.py**', ours),
        ['nanoGPT, on an A100 GPU (about 3 minutes)', '10.65 million', '1.4697'],
    ]
    return table(['model', 'parameters', 'validation loss'], rows, right=[1, 2])


def ladder(r):
    values = {**r['ladder'][TINY]['losses'], '**gpt.py**': r['default'][TINY]['loss']}
    rows = [
        [name, f'{loss:.3f}', f'{loss / math.log(2):.3f}']
        for name, loss in sorted(values.items(), key=lambda item: -item[1])
    ]
    return table(['predictor', 'nats per character', 'bits per character'], rows, right=[1, 2])


def times(run):
    """The seconds of all runs."""
    return ', '.join(f'{value:.0f}' for value in run['all_seconds'])


def quick(r):
    lines = [f'`{name} = {value}`' for name, value in r['quick']['settings'].items()]
    return f'{", ".join(lines[:-1])} and {lines[-1]}'


def benchmark(r):
    parts = [f'{r["benchmark"]["machine"]}.']
    for name in ('step', 'growth', 'other', 'torchrun', 'text'):
        for each in r['benchmark'][name]:
            right = range(1, len(each['head']))
            parts.append(f'**{each["title"]}**\n\n{table(each["head"], each["rows"], right)}')
    return '\n\n'.join(parts)


def numbers(r):
    """What stands inside a sentence: {marker: text}."""
    race = r['race']['seconds to its final loss']
    tiny, slow = r['default'][TINY], r['default'][f'{TINY}, float32']
    own = r['default']['input.txt']
    return {
        'machine': tiny['machine'],
        'times': times(tiny),
        'own times': times(own),
        'own loss': f'{own["loss"]:.3f}',
        'tiny loss': f'{tiny["loss"]:.3f}',
        'slow times': times(slow),
        'slow loss': f'{slow["loss"]:.3f}',
        'bigram seconds': f'{r["ladder"]["input.txt"]["bigram seconds"]:.0f}',
        **exercise_numbers(r),
        'times sooner': f'{race["nanoGPT"] / race["gpt.py"]:.1f}',
        'final loss': f'{r["race"]["gpt.py"]["curve"][-1][3]:.2f}',
        'default seconds': f'{r["default"]["input.txt"]["seconds"]:.0f}',
        'words': f'{r["default"]["input.txt"]["words"]:.0%}',
        'quick': quick(r),
        'quick seconds': f'{r["quick"]["seconds"]:.0f}',
        'quick loss': f'{r["quick"]["loss"]:.2f}',
        'blind': blind(r),
    }


BLOCKS = {
    'sample': sample,
    'screen': screen,
    'growth': growth,
    'built up': built_up,
    'taken away': taken_away,
    'published': published,
    'ladder': ladder,
    'benchmark': benchmark,
}


def filled(page, r=None):
    """`page` with every table and number as the results give it."""
    r = r or results.read()
    known = numbers(r)

    def fill(place):
        start, name, end = place.groups()
        if name in known:
            return f'{start}{known[name]}{end}'
        return f'{start}\n{BLOCKS[name](r)}\n{end}'

    return re.sub(r'(<!-- ([\w -]+) -->).*?(<!-- end -->)', fill, page, flags=re.DOTALL)


def main():
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding='utf-8')), encoding='utf-8')


if __name__ == '__main__':
    main()
