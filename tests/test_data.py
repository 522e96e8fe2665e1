"""The text as numbers, and the batches cut from it."""

import ast
import hashlib

import pytest
import torch

import helpers

ALPHABETS = {
    'one character': 'a' * 200,
    'Latin, Greek, emoji': ''.join(map(chr, [*range(32, 127), *range(945, 970), 0x1F600])) * 3,
    '5,000 characters': ''.join(map(chr, range(0x4E00, 0x4E00 + 5000))),
}


def test_input_txt_is_the_text_it_should_be(gpt):
    digest = hashlib.sha256((helpers.ROOT / 'input.txt').read_bytes()).hexdigest()
    assert digest == '7d649c267252844887b7b18bc6d3f59a8e2178e74d9ab6378f4e5592c1d61bb1'
    assert len(gpt.text) == len(gpt.data) == 1_254_089 and gpt.vocab_size == 65


def test_the_articles_worked_examples(gpt):
    assert gpt.encode_string('hello') == [46, 43, 50, 50, 53]
    assert gpt.decode_list([46, 43, 50, 50, 53]) == 'hello'
    assert gpt.data[:9].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58]


@pytest.mark.parametrize('name', ALPHABETS)
def test_encode_and_decode_go_there_and_back(tiny, name):
    text = ALPHABETS[name]
    gpt = tiny(text=text)
    codes = gpt.encode_string(text)
    assert gpt.decode_list(codes) == text and gpt.data.tolist() == codes
    chars = sorted(set(text))
    assert [chars[code] for code in codes] == list(text) and gpt.vocab_size == len(chars)
    assert gpt.encode_string('') == [] and gpt.decode_list([]) == ''


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    """gpt.py on 400 characters in the order of the alphabet: each one's number is its position."""
    text = ''.join(map(chr, range(0x4E00, 0x4E00 + 400)))
    settings = {**helpers.TINY, 'block_size': 7, 'batch_size': 64}
    return helpers.load(helpers.copy(tmp_path_factory.mktemp('numbered'), text=text, **settings))


def test_the_first_90_percent_are_for_training(numbered):
    assert numbered.train_data.tolist() == list(range(360))
    assert numbered.val_data.tolist() == list(range(360, 400))


def test_batches_are_pieces_of_a_part_and_reach_both_its_ends(numbered):
    """An end that is off by one leaves characters out, or goes beyond the part."""
    torch.manual_seed(0)
    starts = set()
    for _ in range(60):
        x, y = numbered.get_batch(numbered.val_data)
        assert x.shape == y.shape == (64, 7) and x.dtype == y.dtype == torch.int64
        assert torch.equal(x, x[:, :1] + torch.arange(7))
        assert torch.equal(y, x + 1)
        starts.update(x[:, 0].tolist())
    assert starts == set(range(360, 399 - 7 + 1))  # the last piece's y ends with the last number


def test_batches_land_on_the_device(gpt, monkeypatch):
    monkeypatch.setattr(gpt, 'device', 'meta')
    assert [part.device.type for part in gpt.get_batch(gpt.val_data)] == ['meta', 'meta']


def test_gpt_and_bigram_prepare_the_text_in_the_same_words():
    """From 'The text, as numbers' to the split, to the letter. Of get_batch, the code."""
    shared, codes = [], []
    for name in ('gpt.py', 'bigram.py'):
        _, start, rest = helpers.read(name).partition('# The text, as numbers\n')
        inside, end, _ = rest.partition('train_data, val_data = data[:n], data[n:]\n')
        assert start and end, name
        shared.append(inside)
        functions = {getattr(each, 'name', ''): each for each in ast.parse(rest).body}
        codes.append([ast.dump(line) for line in functions['get_batch'].body[1:]])
    assert shared[0] == shared[1] and codes[0] == codes[1] and len(codes[0]) == 4
