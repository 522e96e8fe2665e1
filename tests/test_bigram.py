"""bigram.py: the story that it prints, and all its numbers against counting in plain Python."""

import math
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

import helpers

SHORT = {'device': 'cpu', 'max_iters': 20, 'max_new_tokens': 30}
ENGLISH = 'Speak, friend, and enter.\n\nWho is there? Nobody, my lord.\n' * 30
TEXTS = {
    'Chinese': '道可道,非常道。名可名,\n' * 60,
    'z only at the end': ENGLISH + 'zigzag, zebra; ' * 5,  # no z in the training text
    'from Windows': '\ufeff' + ENGLISH.replace('\n', '\r\n'),  # a BOM, and its line ends
}


def losses_by_counting(text):
    """What the table shows of guessing, characters and pairs: training, then validation."""
    size, n = len(set(text)), int(0.9 * len(text))
    pairs, val_pairs = Counter(pairwise(text[:n])), Counter(pairwise(text[n:]))
    firsts, seconds = Counter(text[: n - 1]), Counter(text[1:n])

    def losses(probability, parts=(pairs, val_pairs)):
        for counts in parts:
            logs = [count * math.log(probability(*pair)) for pair, count in counts.items()]
            yield -math.fsum(logs) / counts.total()

    yield from losses(lambda a, b: 1 / size)
    yield from losses(lambda a, b: (seconds[b] + 1) / (n - 1 + size))
    yield from losses(lambda a, b: (pairs[a, b] + 1) / (firsts[a] + size))
    yield from losses(lambda a, b: pairs[a, b] / firsts[a], [pairs])


def check_story(stdout, text, length):
    """What a run prints on `text` is true, and in this order. Returns the learned losses."""
    chars, steps = sorted(set(text)), r'(?:Step \d+: loss \S+ on the batch\n)+'
    examples = ''.join(f'{text[:t]!r:12} -> {text[t]!r}\n' for t in range(1, 9))
    codes = [chars.index(char) for char in text[:20]]
    begin = (
        f'input.txt: {len(text):,} characters, {len(chars)} distinct\nThe first 20: {text[:20]!r}'
    )
    begin += f' -> {codes}\n\nWhat is there to predict?\n\n{examples}\nHow well can we guess?\n\n'
    losses = r'Counting gives a training loss of (\S+)\.\n\nCan we learn to guess as well\?\n\n'
    losses += rf'{steps}Learning gives a training loss of (\S+)\.\n\nThe model writes:\n\n'
    table = r'\n\nloss                   training  validation\n'
    for name in ('pure guessing', 'counted characters', 'counted bigram', 'learned bigram'):
        table += rf'{name:20} +(\d\.\d+) +(\d\.\d+)\n'
    counting, learning, sample, *found, train, val = re.fullmatch(
        rf'{re.escape(begin)}{losses}((?s:.){{{length}}}){table}', stdout
    ).groups()
    assert list(map(float, [*found, counting])) == pytest.approx(
        [*losses_by_counting(text)], abs=1e-4
    )
    assert learning == train and set(sample) <= set(chars)
    return float(train), float(val)


def test_the_story_in_its_order_and_learning_comes_close_to_counting(tmp_path):
    path = helpers.copy(tmp_path, 'bigram.py', helpers.INPUT, device='cpu')
    stdout = helpers.quick(path).stdout
    train, val = check_story(stdout, helpers.INPUT, 300)
    *_, counted_val, lowest = losses_by_counting(helpers.INPUT)
    assert lowest < train < lowest + 0.02 and abs(val - counted_val) < 0.02
    batches = [float(loss) for loss in re.findall(r'Step \d+: loss (\S+)', stdout)]
    assert len(batches) == 5 and batches[0] > 4.2 and max(batches[1:]) < 2.6


@pytest.mark.parametrize('name', TEXTS)
def test_other_texts(tmp_path, capsys, name):
    """RWKV-LM 119 (BOM). Also, the same seed repeats the run, and another one does not."""
    outputs, text = [], TEXTS[name].lstrip('\ufeff').replace('\r\n', '\n')
    for seed in (1337, 1337, 7):
        helpers.load(helpers.copy(tmp_path, 'bigram.py', TEXTS[name], seed=seed, **SHORT))
        outputs.append(capsys.readouterr())
    first, again, other = [check_story(stdout, text, 30) for stdout, _ in outputs]
    assert outputs[0] == outputs[1] and first == again != other and outputs[0].err == ''


@pytest.mark.parametrize(
    'size, words', [(0, 'short'), (640, 'too short'), (12_000, '12000 distinct')]
)
def test_a_text_that_will_not_do_is_refused_at_once(tmp_path, capsys, size, words):
    """char-rnn PR 12, nanoGPT 109: thousands of characters took minutes"""
    text = ''.join(map(chr, range(0x4E00, 0x4E00 + size)))
    with pytest.raises(AssertionError, match=words):
        helpers.load(helpers.copy(tmp_path, 'bigram.py', text, **SHORT))
    assert capsys.readouterr().out == ''


def test_generate_draws_by_the_probabilities_in_the_last_characters_row(tmp_path):
    module = helpers.load(helpers.copy(tmp_path, 'bigram.py', helpers.INPUT, **SHORT))
    model, seen = module.BigramLanguageModel(), []
    model.register_forward_hook(lambda module, _, output: seen.append(output[0].requires_grad))
    chosen = model.generate(torch.tensor([[9, 3]]).expand(20_000, 2), 1)[:, -1]
    scores = np.exp(model.token_embedding.weight[3].detach().double().numpy())
    shares = np.bincount(chosen.numpy(), minlength=65) / 20_000
    assert np.abs(shares - scores / scores.sum()).max() < 0.02 and seen == [False]
