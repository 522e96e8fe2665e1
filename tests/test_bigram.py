"""bigram.py against counts made another way, and from start to end."""
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import program

ROWS = ['knowing nothing', 'letter frequencies', 'counted bigram', 'trained bigram']
QUICK = dict(device='cpu', max_iters=20, batch_size=32, max_new_tokens=30)
GREEK = 'Μῆνιν ἄειδε, θεά,\nΠηληϊάδεω Ἀχιλῆος\n' * 30
CHINESE = '道可道,非常道。名可名,非常名。\n無名天地之始;有名萬物之母。\n' * 20
ENGLISH = 'Speak, friend, and enter.\n\nWho is there? Nobody, my lord.\n' * 30


@pytest.fixture(scope='module')
def bigram(tmp_path_factory):
    return program.load(program.copy(tmp_path_factory.mktemp('bigram'), 'bigram.py', device='cpu'))


@pytest.fixture(scope='module')
def stdout(tmp_path_factory):
    """What the program prints as it stands."""
    done = program.run(program.copy(tmp_path_factory.mktemp('bigram-run'), 'bigram.py', device='cpu'))
    assert done.stderr == ''
    return done.stdout


def quick(folder, text, cwd=None, env=None, code=0, **settings):
    """A short run on `text`."""
    return program.run(program.copy(folder, 'bigram.py', text, **QUICK | settings), cwd=cwd, env=env, code=code)


def table(stdout):
    """The closing table, {row: (training loss, validation loss)}."""
    found = re.findall(rf'^({"|".join(ROWS)}) +(\d+\.\d{{4}}) +(\d+\.\d{{4}})$', stdout, flags=re.MULTILINE)
    assert [name for name, *_ in found] == ROWS and stdout.endswith(''.join(found[-1][2:]) + '\n')
    return {name: (float(train), float(val)) for name, train, val in found}


def expected_table(text):
    """The rows that need no training, by counting the characters themselves."""
    train, val = text[:int(0.9 * len(text))], text[int(0.9 * len(text)):]
    size = len(set(text))
    pairs, firsts, seconds = Counter(zip(train, train[1:])), Counter(train[:-1]), Counter(train[1:])

    def loss(part, probability):
        total = len(part) - 1
        return -math.fsum(n * math.log(probability(a, b)) for (a, b), n in Counter(zip(part, part[1:])).items()) / total
    return {
        'knowing nothing': (math.log(size), math.log(size)),
        'letter frequencies': (loss(train, lambda a, b: seconds[b] / (len(train) - 1)),
                               loss(val, lambda a, b: (seconds[b] + 1) / (len(train) - 1 + size))),
        'counted bigram': (loss(train, lambda a, b: pairs[a, b] / firsts[a]),
                           loss(val, lambda a, b: (pairs[a, b] + 1) / (firsts[a] + size)))}


def check(stdout, text, length):
    """Everything that a run prints on `text`; the closing table."""
    chars, size = sorted(set(text)), int(re.search('^block_size = (.*?)  #', (program.ROOT / 'bigram.py').read_text(
        encoding='utf-8'), flags=re.MULTILINE)[1])
    codes = [chars.index(char) for char in text[:size + 1]]
    lines = [line for line in stdout.split('\n') if line.startswith('when the context is ')]
    assert len(lines) == size
    for t, line in enumerate(lines, start=1):
        assert line == f'when the context is {codes[:t]} the next is {codes[t]}: {text[:t + 1]!r}'
    assert re.search(rf':\n\n.{{{length}}}\n\nloss ', stdout, flags=re.DOTALL)  # the sample
    losses = table(stdout)
    for name, (train, val) in expected_table(text).items():
        assert losses[name] == pytest.approx((train, val), abs=1.5e-4)
    assert f'{losses["counted bigram"][0]:.4f} on the training text' in stdout
    assert losses['trained bigram'][0] >= losses['counted bigram'][0] - 1e-4  # nothing does better
    return losses


# ---- Shared with gpt.py ----
def test_the_two_files_share_a_section_to_the_letter():
    sections = []
    for name in ('gpt.py', 'bigram.py'):
        source = (program.ROOT / name).read_text(encoding='utf-8')
        sections.append(re.search(r'^# ---- Text to numbers.*?(?=^# ---- )', source, flags=re.DOTALL | re.MULTILINE)[0])
    assert 'def get_batch(' in sections[0] and 'def encode_text(' in sections[0]
    assert sections[0] == sections[1]


# ---- Its parts ----
def test_importing_trains_nothing(tmp_path, capsys):
    bigram = program.load(program.copy(tmp_path, 'bigram.py', ENGLISH, **QUICK))
    assert capsys.readouterr() == ('', '') and bigram.chars == sorted(set(ENGLISH))
    assert {path.name for path in tmp_path.iterdir()} - {'__pycache__'} == {'bigram.py', 'input.txt'}


def test_pairs_are_counted(bigram):
    counts = bigram.count_pairs(bigram.train_data)
    expected = Counter(zip(bigram.train_data.tolist(), bigram.train_data[1:].tolist()))
    assert counts.shape == (65, 65) and counts.sum() == len(bigram.train_data) - 1
    assert {(a, b): n for a, row in enumerate(counts.tolist()) for b, n in enumerate(row) if n} == expected


def test_the_models_loss_is_the_tables(bigram):
    """forward's cross-entropy over a text is mean_loss of its probabilities over the text's pairs."""
    torch.manual_seed(0)
    model = bigram.BigramLanguageModel()
    assert [(name, tuple(p.shape)) for name, p in model.named_parameters()] == [('token_embedding.weight', (65, 65))]
    part = bigram.val_data[:2001].long()
    logits, loss = model(part[None, :-1], part[None, 1:])
    assert logits.shape == (1, 2000, 65)
    probs = F.softmax(model.token_embedding.weight.detach(), dim=-1)
    assert bigram.mean_loss(probs, bigram.count_pairs(part)) == pytest.approx(loss.item(), abs=1e-4)
    assert torch.equal(model(part[None, :-1])[0], logits) and model(part[None, :-1])[1] is None


def test_generate_draws_from_the_last_characters_row(bigram):
    model = bigram.BigramLanguageModel()
    with torch.no_grad():
        model.token_embedding.weight.copy_(1e4 * torch.eye(65).roll(1, 1))  # after each the next in the alphabet
    assert model.generate(torch.tensor([[5, 60]]), 10).tolist() == [[5, 60, 61, 62, 63, 64, 0, 1, 2, 3, 4, 5]]
    torch.manual_seed(0)
    model = bigram.BigramLanguageModel()
    drawn = model.generate(torch.tensor([[9, 3]]).expand(20_000, 2), 1)[:, -1]
    row = model.token_embedding.weight[3].detach().double().numpy()
    probs = np.exp(row) / np.exp(row).sum()
    assert np.abs(np.bincount(drawn.numpy(), minlength=65) / 20_000 - probs).max() < 5 * 0.5 / 20_000 ** 0.5


# ---- From start to end ----
def test_counting_and_learning_agree(stdout):
    text = (program.ROOT / 'input.txt').read_text(encoding='utf-8')
    losses = check(stdout, text, 300)
    assert abs(losses['trained bigram'][0] - losses['counted bigram'][0]) < 0.01
    assert abs(losses['trained bigram'][1] - losses['counted bigram'][1]) < 0.02
    assert losses['counted bigram'][0] < losses['letter frequencies'][0] < losses['knowing nothing'][0]


def test_greek_into_a_pipe_that_is_ascii(tmp_path):
    done = quick(tmp_path, GREEK, env={'PYTHONIOENCODING': 'ascii', 'PYTHONUTF8': '0', 'LC_ALL': 'C'})
    assert done.stderr == ''
    check(done.stdout, GREEK, 30)


def test_chinese(tmp_path):
    done = quick(tmp_path, CHINESE)
    assert done.stderr == ''
    check(done.stdout, CHINESE, 30)


def test_windows_line_ends_and_another_folder_make_no_difference(tmp_path):
    outputs = []
    windows = b'\xef\xbb\xbf' + ENGLISH.replace('\n', '\r\n').encode()
    for name, text in (('unix', ENGLISH.encode()), ('windows', windows)):
        folder = tmp_path / name
        folder.mkdir()
        outputs.append(quick(folder, text, cwd=folder if name == 'unix' else tmp_path).stdout)
    check(outputs[0], ENGLISH, 30)
    assert outputs[0] == outputs[1]
    folder = tmp_path / 'seed'
    folder.mkdir()
    other = quick(folder, ENGLISH, seed=7).stdout
    assert table(other)['trained bigram'] != table(outputs[0])['trained bigram']


def test_a_letter_only_in_the_validation_text(tmp_path):
    """It is never followed by anything in the training text, and its losses are numbers all the same."""
    text = ENGLISH + 'zigzag, zebra; ' * 5
    assert 'z' not in text[:int(0.9 * len(text))]
    check(quick(tmp_path, text).stdout, text, 30)


@pytest.mark.parametrize('text, words', [
    (''.join(map(chr, range(0x4e00, 0x4e00 + 5001))), '5001'), ('to be', 'too short'), ('', 'empty')])
def test_a_text_that_will_not_do_gets_one_line(tmp_path, text, words):
    done = quick(tmp_path, text, code=1)
    assert done.stdout == '' and re.fullmatch(r'[^\n]+\n', done.stderr) and words in done.stderr.replace(',', '')
