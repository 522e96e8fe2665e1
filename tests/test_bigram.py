"""bigram.py: the story that it prints, and all its numbers against counting in plain Python."""

import contextlib
import io
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


@pytest.fixture(scope='module')
def full_run(tmp_path_factory):
    """bigram.py as it stands, after it has run on the whole input.txt, and what it has printed."""
    path = helpers.copy(tmp_path_factory.mktemp('bigram'), 'bigram.py', helpers.INPUT, device='cpu')
    with contextlib.redirect_stdout(io.StringIO()) as stdout:
        module = helpers.load(path)
    return module, stdout.getvalue()


def losses_by_counting(text):
    """What the table shows of guessing, characters and pairs: training, then validation."""
    size, n = len(set(text)), int(0.9 * len(text))
    pairs, val_pairs = Counter(pairwise(text[:n])), Counter(pairwise(text[n:]))
    firsts, seconds = Counter(text[: n - 1]), Counter(text[1:n])

    def loss(counts, probability):
        logs = [count * math.log(probability(*pair)) for pair, count in counts.items()]
        return -math.fsum(logs) / counts.total()

    losses = [math.log(size), math.log(size)]
    for counts in (pairs, val_pairs):
        losses.append(loss(counts, lambda a, b: (seconds[b] + 1) / (n - 1 + size)))
    for counts in (pairs, val_pairs):
        losses.append(loss(counts, lambda a, b: (pairs[a, b] + 1) / (firsts[a] + size)))
    return [*losses, loss(pairs, lambda a, b: pairs[a, b] / firsts[a])]


def check_story(stdout, text, length):
    """What a run prints on `text` is true, and in this order. Returns the learned losses."""
    chars, head = sorted(set(text)), '\nloss                   training  validation\n'
    *by_counting, train, val = re.findall(r'\d\.\d{4}', stdout.partition(head)[2])
    counting = re.search(r'Counting gives a training loss of (.*)\.\n', stdout)[1]
    expected = losses_by_counting(text)
    assert list(map(float, [*by_counting, counting])) == pytest.approx(expected, abs=1e-4)
    sample = stdout.partition('writes:\n\n')[2].partition(head)[0].removesuffix('\n')
    assert len(sample) == length and set(sample) <= set(chars)
    story = [
        f'input.txt: {len(text):,} characters, {len(chars)} distinct\n',
        f'The first 20: {text[:20]!r} -> {[chars.index(char) for char in text[:20]]}\n',
        '\nWhat is there to predict?\n\n',
        *[f'{text[:t]!r:12} -> {text[t]!r}\n' for t in range(1, 9)],
        '\nHow well can we guess?\n\nCounting gives',
        '\nCan we learn to guess as well?\n\nStep 0: loss ',
        f'Learning gives a training loss of {train}.\n\nThe model writes:\n\n{sample}\n{head}pure guessing ',
        *['\ncounted characters ', '\ncounted bigram     ', '\nlearned bigram     '],
    ]
    places = [stdout.find(part) for part in story]
    assert -1 not in places and places == sorted(places)
    return float(train), float(val)


def test_the_story_in_its_order_and_learning_comes_close_to_counting(full_run):
    train, val = check_story(full_run[1], helpers.INPUT, 300)
    *_, counted_val, lowest = losses_by_counting(helpers.INPUT)
    assert lowest < train < lowest + 0.02 and abs(val - counted_val) < 0.02
    batches = [float(loss) for loss in re.findall(r'Step \d+: loss (\S+)', full_run[1])]
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


TOO_MANY = ''.join(map(chr, range(0x4E00, 0x4E00 + 12_000)))


@pytest.mark.parametrize(
    'text, words',
    [
        ('', 'too short'),
        (ENGLISH[:640], 'too short for block_size=64'),
        (TOO_MANY, '12000 distinct'),
    ],
    ids=['empty', 'one character too short', 'too large an alphabet'],
)
def test_a_text_that_will_not_do_is_refused_at_once(tmp_path, capsys, text, words):
    """char-rnn PR 12, nanoGPT 109: thousands of characters took minutes"""
    with pytest.raises(AssertionError, match=words):
        helpers.load(helpers.copy(tmp_path, 'bigram.py', text, **SHORT))
    assert capsys.readouterr().out == ''


def test_generate_draws_by_the_probabilities_in_the_last_characters_row(full_run):
    model, seen = full_run[0].BigramLanguageModel(), []
    model.register_forward_hook(lambda module, _, output: seen.append(output[0].requires_grad))
    chosen = model.generate(torch.tensor([[9, 3]]).expand(20_000, 2), 1)[:, -1]
    scores = np.exp(model.token_embedding.weight[3].detach().double().numpy())
    shares = np.bincount(chosen.numpy(), minlength=65) / 20_000
    assert np.abs(shares - scores / scores.sum()).max() < 0.02 and seen == [False]
