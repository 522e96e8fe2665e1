"""The text as numbers, and the batches cut from it."""

import hashlib

import pytest
import torch

import helpers

WINDOWS = b'\xef\xbb\xbf' + helpers.TEXT.replace('\n', '\r\n').encode()  # a BOM, and its line ends
LATIN, GREEK, EMOJI = range(0x20, 0x7F), range(0x3B1, 0x3CA), range(0x1F600, 0x1F640)
ALPHABETS = {
    'one character': 'a' * 100,
    'Latin, Greek, emoji': ''.join(map(chr, [*EMOJI, *GREEK, *LATIN])) * 2,
    '5,000 characters': ''.join(map(chr, range(0x4E00, 0x4E00 + 5000))),
}


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    """gpt.py on 400 characters in the order of the alphabet: each one's number is its position."""
    text = ''.join(map(chr, range(0x4E00, 0x4E00 + 400)))
    settings = {**helpers.TINY, 'block_size': 7, 'batch_size': 64}
    return helpers.load(helpers.copy(tmp_path_factory.mktemp('numbered'), text=text, **settings))


def test_input_txt_is_the_text_it_should_be(gpt):
    digest = hashlib.sha256((helpers.ROOT / 'input.txt').read_bytes()).hexdigest()
    assert digest == '99956689838e2d6e51754660cfc8c454d8252c6b4d196e286f05bf2a32c8a9cb'
    assert len(gpt.text) == len(gpt.data) == 1_162_807 and gpt.vocab_size == 65


def test_the_articles_worked_examples(gpt):
    assert gpt.encode_string('hello') == [46, 43, 50, 50, 53]
    assert gpt.decode_list([46, 43, 50, 50, 53]) == 'hello'
    assert gpt.data[:9].tolist() == [18, 47, 56, 57, 58, 1, 15, 47, 58]


@pytest.mark.parametrize('name', ALPHABETS)
def test_encode_and_decode_go_there_and_back(tmp_path, name):
    text = ALPHABETS[name]
    gpt = helpers.load(helpers.copy(tmp_path, text=text, **helpers.TINY))
    codes = gpt.encode_string(text)
    assert gpt.decode_list(codes) == text and gpt.data.tolist() == codes
    chars = sorted(set(text))
    assert [chars[code] for code in codes] == list(text) and gpt.vocab_size == len(chars)
    assert gpt.encode_string('') == [] and gpt.decode_list([]) == ''


def test_windows_line_ends_and_a_bom_change_nothing(tmp_path):
    windows = helpers.load(helpers.copy(tmp_path, text=WINDOWS, **helpers.TINY))
    assert windows.text == helpers.TEXT


def test_the_first_90_percent_are_for_training(numbered):
    assert numbered.train_data.tolist() == list(range(360))
    assert numbered.val_data.tolist() == list(range(360, 400))


@pytest.mark.parametrize('split, first, last', [('train', 0, 359), ('val', 360, 399)])
def test_batches_are_pieces_of_their_part_and_reach_both_its_ends(numbered, split, first, last):
    """An end that is off by one leaves characters out, or mixes the two parts."""
    generator, starts = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        x, y = numbered.get_batch(split, generator)
        assert x.shape == y.shape == (64, 7) and x.dtype == y.dtype == torch.int64
        assert torch.equal(x, x[:, :1] + torch.arange(7))
        assert torch.equal(y, x + 1)
        starts.update(x[:, 0].tolist())
    assert starts == set(range(first, last - 7 + 1))  # the last piece's y ends with the last number


def test_batches_with_a_generator_leave_torchs_random_state_alone(gpt):
    def batch(seed):
        return gpt.get_batch('train', torch.Generator().manual_seed(seed))[0]

    before = torch.get_rng_state()
    assert torch.equal(batch(1), batch(1)) and not torch.equal(batch(1), batch(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(gpt.get_batch('train')[0], gpt.get_batch('train')[0])


def test_batches_land_on_the_device(gpt, monkeypatch):
    monkeypatch.setattr(gpt, 'device', 'meta')
    assert [part.device.type for part in gpt.get_batch('val')] == ['meta', 'meta']


@pytest.mark.parametrize(
    'first, last',
    [
        ('# The text, as numbers\n', "    return ''.join([index_to_char[index] for index in l])\n"),
        ('# The model learns from the first 90%', 'train_data, val_data = data[:n], data[n:]\n'),
    ],
    ids=['reading the text', 'the split'],
)
def test_gpt_and_bigram_prepare_the_text_in_the_same_words(first, last):
    shared = []
    for name in ('gpt.py', 'bigram.py'):
        start, found, rest = helpers.read(name).partition(first)
        inside, end, _ = rest.partition(last)
        assert found and end, f'{name} lacks {first!r} or {last!r}'
        shared.append(inside)
    assert shared[0] == shared[1]
