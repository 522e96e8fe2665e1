"""Write the tables that come from results.json into the pages, between their markers.

    python tests/measure/tables.py

A table stands between <!-- its name --> and <!-- end -->. (A number in a sentence is rounded, and
written by hand.) A test compares, so run this after measuring.
"""

import statistics

import experiments
import measuring
import whole_runs

import helpers

PAGES = [helpers.ROOT / 'README.md', measuring.FOLDER / 'README.md']


def table(head, rows):
    """Markdown. `head` is a string. A name in it that ends in a colon is of a column of numbers."""
    head = head.split(' | ')
    rule = ['--:' if name.endswith(':') else '---' for name in head]
    lines = [[name.rstrip(':') for name in head], rule, *rows]
    return '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines)


def summaries(group):
    """The experiments of a group, each: what it is, mean loss, standard deviation of runs, runs."""
    for name, (its_group, words, *_) in experiments.EXPERIMENTS.items():
        if its_group == group:
            runs = list(measuring.read()['experiments'][name].values())
            losses = [run['loss'] for run in runs]
            yield words, statistics.mean(losses), statistics.stdev(losses), runs


def built_up():
    ladder = measuring.read()['ladder']['input.txt']
    bigrams = ['counted bigram', 'learned bigram']
    rows = [[name, f'{ladder[name]:.3f}', '', '', '4,225'] for name in bigrams]
    for words, mean, deviation, runs in summaries('built up'):
        size = f'{runs[0]["parameters"]:,}'
        rows.append([words, f'{mean:.3f}', f'{deviation:.3f}', len(runs), size])
    return table('model | loss: | ±: | seeds: | parameters:', rows)


def taken_away():
    *_, (_, base, deviation, runs) = summaries('built up')  # gpt.py
    rows = [['gpt.py', f'{base:.3f}', f'{deviation:.3f}', len(runs), '']]
    for words, mean, deviation, runs in summaries('taken away'):
        difference = f'{round(mean, 3) - round(base, 3):+.3f}'.replace('-', '−')
        rows.append([words, f'{mean:.3f}', f'{deviation:.3f}', len(runs), difference])
    return table('change | loss: | ±: | seeds: | difference:', rows)


def published():
    results = measuring.read()
    default = results['default']
    gpu, nano = results['gpu'], default['nanoGPT, 32 bits']
    by_us = f'us: {nano["seconds"]:.0f} s, 32 bits (its README: 1.88, 3 minutes, MacBook)'
    rows = [['nanoGPT, recipe for a CPU', '0.80', f'{nano["loss"]:.2f}', by_us]]
    for bits in (32, 16):
        run = default[f'Tiny Shakespeare, {bits} bits']
        low, middle, high = sorted(run['all_seconds'])
        how = f'us: {middle:.0f} s ({low:.0f} to {high:.0f}, three runs of one seed)'
        rows.append([f'**gpt.py**, {bits} bits', '0.42', f'{run["loss"]:.3f}', how])
    nano, ours = gpu['nanogpt'], gpu['the larger model as it is']
    how = f'us: best, after 60 of {nano["seconds"]:.0f} s, H200 (its README: 1.4697, 3 min, A100)'
    rows.append(['nanoGPT, recipe for a GPU', '10.75', f'{nano["loss"]:.3f}', how])
    how = f'us: the last, after {ours["seconds"]:.0f} s, H200, 16 bits'
    rows.append(['gpt.py, the two lines for a GPU', '10.79', f'{ours["loss"]:.3f}', how])
    return table('model | parameters, millions: | loss: | measured by whom, and how', rows)


def by_budget():
    found, rows = measuring.read()['budgets'], []
    for name in whole_runs.BUDGETS:
        runs = [found[name][text] for text in ('Tiny Shakespeare', 'input.txt')]
        lines = '<br>'.join(f'`{key} = {value}`' for key, value in runs[0]['settings'].items())
        seconds = ', '.join(f'{run["seconds"]:.0f}{run.get("note", "")}' for run in runs)
        losses, size = [f'{run["loss"]:.3f}' for run in runs], runs[0]['parameters'] / 1e6
        rows.append([name, lines or 'gpt.py as it is', f'{size:.2f}', seconds, *losses])
    head = 'budget | change at the top | millions of parameters: | seconds (for each text):'
    return table(f'{head} | val loss, Tiny Shakespeare: | val loss, input.txt:', rows)


def growth():
    written = sorted(measuring.read()['growth'].items(), key=lambda item: int(item[0]))
    return table('steps: | it writes', [[step, f'`` {words} ``'] for step, words in written])


def steps():
    rows, found = [], measuring.read()['benchmark']['steps']
    for bits in (32, 16):
        ways = ['one by one', 'all-heads-at-once', 'fused-attention', 'GFLOP/s']
        numbers = [f'{found[f"{bits} bits, {way}"]:.0f}' for way in ways]
        rows.append([bits, *numbers, f'{found[f"{bits} bits, share of it"]:.0%}'])
    head = 'bits: | gpt.py, ms: | all heads at once, ms: | fused, ms: | GFLOP/s possible:'
    return table(f'{head} | of which gpt.py uses:', rows)


def larger():
    rows, measured = [], measuring.read()['benchmark']['growth']
    for name in ('block_size', 'n_embd', 'n_layer', 'batch_size'):
        values = [', '.join(map(str, measured[name][key])) for key in ('sizes', 'ms', 'MB')]
        rows.append([f'`{name}`', *values, f'{measured[name]["b"]:.1f}'])
    return table('setting | values | ms | peak memory, MB | exponent of time:', rows)


TABLES = [built_up, taken_away, published, by_budget, growth, steps, larger]


def filled(page):
    """The text of a page, with all its tables written anew."""
    for function in TABLES:
        name = function.__name__.replace('_', ' ')
        before, marker, after = page.partition(f'<!-- {name} -->\n')
        if marker:
            page = f'{before}{marker}{function()}\n{after[after.index("<!-- end -->") :]}'
    return page


if __name__ == '__main__':
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding='utf-8')), encoding='utf-8')
