"""The text as numbers, and the batches cut from it."""

import hashlib

import pytest
import torch

import helpers

ALPHABETS = {
    'one character': 'a' * 200,
    'Latin, Greek, emoji': ''.join(map(chr, [*range(32, 127), *range(945, 970), 0x1F600])) * 3,
    '5,000 characters': ''.join(map(chr, range(0x4E00, 0x4E00 + 5000))),
}


def test_input_txt_is_the_text_it_should_be_and_the_articles_worked_examples(tiny):
    gpt = tiny(text=helpers.INPUT)
    digest = hashlib.sha256((helpers.ROOT / 'input.txt').read_bytes()).hexdigest()
    assert digest == '7d649c267252844887b7b18bc6d3f59a8e2178e74d9ab6378f4e5592c1d61bb1'
    assert len(gpt.text) == len(gpt.data) == 1_254_089 and gpt.vocab_size == 65
    assert gpt.encode_string('hello') == [46, 43, 50, 50, 53]
    assert gpt.decode_list([46, 43, 50, 50, 53]) == 'hello'
    assert gpt.data[:9].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58]


@pytest.mark.parametrize('name', ALPHABETS)
def test_encode_and_decode_go_there_and_back(tiny, name):
    gpt, text, chars = tiny(text=ALPHABETS[name]), ALPHABETS[name], sorted(set(ALPHABETS[name]))
    codes = gpt.encode_string(text)
    assert gpt.decode_list(codes) == text and gpt.data.tolist() == codes
    assert [chars[code] for code in codes] == list(text) and gpt.vocab_size == len(chars)
    assert gpt.encode_string('') == [] and gpt.decode_list([]) == ''


def test_batches_are_pieces_of_a_part_and_reach_both_its_ends(tiny):
    """The text is in the order of the alphabet, so each character's number is its position."""
    text = ''.join(map(chr, range(0x4E00, 0x4E00 + 400)))
    gpt, starts = tiny(text=text, block_size=7, batch_size=64), set()
    assert gpt.train_data.tolist() == list(range(360))  # the first 90 percent
    assert gpt.val_data.tolist() == list(range(360, 400))
    torch.manual_seed(0)
    for _ in range(60):
        x, y = gpt.get_batch(gpt.val_data)
        assert x.shape == y.shape == (64, 7) and x.dtype == y.dtype == torch.int64
        assert torch.equal(x, x[:, :1] + torch.arange(7)) and torch.equal(y, x + 1)
        starts.update(x[:, 0].tolist())
    assert starts == set(range(360, 399 - 7 + 1))  # the last piece's y ends with the last number
    gpt.device = 'meta'
    assert [part.device.type for part in gpt.get_batch(gpt.val_data)] == ['meta', 'meta']


def test_gpt_and_bigram_prepare_the_text_with_the_same_code():
    """From reading it to the split, comments too. And get_batch, but for its docstring."""
    source, other = helpers.read(), helpers.read('bigram.py')
    for first, last in (('folder = ', 'assert set('), ('    starts = ', '# ---')):
        place = source.index(first)
        assert source[place : source.index(last, place)] in other
