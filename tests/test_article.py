"""The article's mistakes: each one, put back into a copy of the program, turns a check red."""

import re
import traceback
from unittest import mock

import pytest
import torch
from torch.nn import functional as F

import helpers

GPT, BIGRAM = 'gpt.py', 'bigram.py'
SETTINGS = {
    GPT: {**helpers.TINY, 'max_iters': 4, 'eval_interval': 2, 'eval_iters': 3, 'warmup_iters': 1},
    BIGRAM: {'device': 'cpu', 'batch_size': 8, 'max_iters': 20, 'max_new_tokens': 20},
}
TRAIN_TEXT, VAL_TEXT = helpers.TEXT[:18000], helpers.TEXT[18000:]
MISTAKES = []  # name, file, ours, the article's in its place, the check that has to turn red


def article(name, file, ours, articles):
    """Note a mistake of the article. The function below is the check that has to find it."""

    def note(check):
        MISTAKES.append((name, file, ours, articles, check))
        return check

    return note


def load(path, **settings):
    """The program at `path` as a module, and a model: an untrained GPT, or the trained bigram."""
    module = helpers.load(helpers.change(path, **settings))
    torch.manual_seed(0)
    return module, module.GPTLanguageModel() if path.name == GPT else module.model


# ----------------------------------------------------------
# The mistakes, each with a check that takes the path of a copy of the program


@article('alphabet of the first 1000 characters', GPT, 'set(text)', 'set(text[:1000])')
@article('alphabet of the first 1000 characters', BIGRAM, 'set(text)', 'set(text[:1000])')
def check_alphabet(path):
    """Every character of the text has its number."""
    module, _ = load(path)
    assert module.decode_list(module.data.tolist()) == helpers.TEXT


@article('data never split', GPT, '= data[:n], data[n:]', '= data, data')
@article('data never split', BIGRAM, '= data[:n], data[n:]', '= data, data')
def check_split(path):
    """Batches for training and batches for validation come from different parts of the text."""
    module, _ = load(path)
    for split, part in [('train', TRAIN_TEXT), ('val', VAL_TEXT)]:
        for row in module.get_batch(split)[0].tolist():
            assert module.decode_list(row) in part


@article('batches not moved to the device', GPT, 'x.to(device), y.to(device)', 'x, y')
@article('model not moved to the device', GPT, 'Model().to(device)\n\n', 'Model()\n\n')
def check_device_of_gpt(path):
    """Torch's device without numbers, 'meta', stands in for a GPU."""
    module, _ = load(path, device='meta')
    with mock.patch('torch.optim.AdamW', side_effect=InterruptedError) as optimizer:
        with pytest.raises(InterruptedError):
            module.train()
    for tensor in [*optimizer.call_args.args[0], *module.get_batch('train')]:
        assert tensor.device.type == 'meta'


@article('batches not moved to the device', BIGRAM, 'x.to(device), y.to(device)', 'x, y')
@article('model not moved to the device', BIGRAM, 'Model().to(device)', 'Model()')
def check_device_of_bigram(path):
    """As above, as far as the training goes. (What follows it needs the numbers.)"""
    lines = path.read_text(encoding='utf-8').partition('\nlearned = ')[0]
    path.write_text(lines, encoding='utf-8')
    module, model = load(path, device='meta')
    for tensor in [*model.parameters(), *module.get_batch('train')]:
        assert tensor.device.type == 'meta'


@article('positions on the global device', GPT, 'device=idx.device', 'device=device')
def check_positions(path):
    """They are made where the text is. So the model works even if `device` can't be used here."""
    module, model = load(path)
    module.device = 'no such device'
    assert model(torch.zeros(1, 5, dtype=torch.long))[0].isfinite().all()


@article('scores times sqrt(C)', GPT, '/ math.sqrt(head_size)', '* math.sqrt(n_embd)')
@article('scores not scaled', GPT, '/ math.sqrt(head_size)', '')
def check_formula(path):
    """Against torch's own attention."""
    q, k, v = torch.randn(3, 6, 8, dtype=torch.float64)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(load(path)[0].attention(q, k, v), expected)


@article('proj takes C1 whatever the heads give', GPT, '(num_heads * head_size, n', '(n_embd, n')
def check_head_sizes(path):
    """Heads whose sizes do not add up to n_embd."""
    heads = load(path)[0].MultiHeadAttention(3, 5)
    assert heads(torch.zeros(2, 4, 32)).shape == (2, 4, 32)


@article('head count that does not divide', GPT, 'if n_embd % n_head != 0', 'if False')
def check_head_count(path):
    """One line says what does not fit."""
    done = helpers.quick(helpers.change(path, n_head=5), code=1)
    helpers.one_line(done, 'n_embd=32', 'n_head=5')


@article('dropout made and not used', GPT, 'self.dropout(self.proj(out))', 'self.proj(out)')
def check_dropout(path):
    """In training, the dropout after proj zeroes numbers."""
    heads = load(path, dropout=0.5)[0].MultiHeadAttention(2, 16)
    assert (heads(torch.randn(4, 8, 32)) == 0).float().mean() > 0.4


@article('logits in another shape with targets', GPT, 'logits, F.', 'logits.flatten(0, 1), F.')
@article('logits in another shape with targets', BIGRAM, 'logits, F.', 'logits.flatten(0, 1), F.')
@article('targets that lie apart in memory', GPT, 'targets.flatten()', 'targets.view(-1)')
@article('targets that lie apart in memory', BIGRAM, 'targets.flatten()', 'targets.view(-1)')
def check_forward(path):
    """The same logits with targets and without. The targets may be cut from a larger tensor."""
    module, model = load(path)
    pieces = module.data[:34].view(2, 17)
    x, y = pieces[:, :-1], pieces[:, 1:]
    (with_targets, loss), (without, no_loss) = model(x, y), model(x)
    assert with_targets.shape == without.shape == (2, 16, module.vocab_size)
    assert loss.dim() == 0 and no_loss is None


@article('targets without a default, in generate', BIGRAM, 'targets=None', 'targets')
@article('generation with gradients', GPT, '@torch.no_grad()\n    def g', 'def g')
@article('generation with gradients', BIGRAM, '@torch.no_grad()  # only', '# only')
def check_generate(path):
    """It calls the model without targets, and keeps no gradients."""
    _, model = load(path)
    gradients = []
    model.register_forward_hook(lambda *call: gradients.append(call[2][0].requires_grad))
    assert model.generate(torch.zeros(2, 1, dtype=torch.long), 30).shape == (2, 31)
    assert gradients == [False] * 30


@article('generation with dropout', GPT, 'model.eval()  # turns dropout off\n    idx', 'idx')
def check_sample(path):
    """A model that was in training, with dropout on, writes the same sample every time."""
    module, model = load(path, dropout=0.5)
    torch.nn.init.normal_(model.lm_head.weight, std=5)  # so that dropout would matter
    first = module.sample(model.train(), 50)
    assert module.sample(model.train(), 50) == first


@article('eval_iters not used', GPT, 'in range(eval_iters)', 'in range(1)')
def check_eval_iters(path):
    """An evaluation takes eval_iters batches of each part."""
    module, model = load(path)
    with mock.patch.object(module, 'get_batch', wraps=module.get_batch) as get_batch:
        module.estimate_loss(model)
    assert [call.args[0] for call in get_batch.call_args_list] == ['train'] * 3 + ['val'] * 3


@article('no evaluation', GPT, 'if step % eval_interval == 0', 'if False')
@article('a line at every step', GPT, '    model.train()', '    print(step); model.train()')
@article('nothing sampled', GPT, 'say(prompt + sample(model, max_new_tokens))', 'pass')
def check_output_of_gpt(path):
    """Two lines on what it learns, two for each evaluation, the best loss, the sample."""
    evaluations = ''.join(rf'step {step}: train .+\n    .+\n' for step in (0, 2, 4))
    lines = rf'learning .+\nmodel: .+\n{evaluations}best val loss .+\n\n(?s:.{{20}})\n'
    assert re.fullmatch(lines, helpers.quick(path).stdout)


@article('nothing sampled', BIGRAM, 'print(decode_list(model', '(decode_list(model')
def check_output_of_bigram(path):
    """A sample of 20 characters."""
    assert re.search(r'writes:\n\n(?s:.{20})\n\nloss ', helpers.quick(path).stdout)


@article('learning_rate not used', GPT, 'return learning_rate *', 'return 3e-4 *')
def check_learning_rate(path):
    """Another learning rate gives other losses."""
    runs = [helpers.quick(helpers.change(path, learning_rate=rate)) for rate in (0.01, 0.1)]
    assert helpers.steps(runs[0])[4] != helpers.steps(runs[1])[4]


@article('no seed', GPT, 'torch.manual_seed(seed)\n    model', 'model')
def check_seed(path):
    """A run repeats, even if something has used random numbers before it, as in a notebook."""
    earlier = 'import torch; torch.rand(1)'
    first, second = [helpers.quick(path, patches=patches) for patches in ([], [earlier])]
    assert helpers.steps(first) == helpers.steps(second)


@article('bigram never trained', BIGRAM, 'optimizer.step()', 'pass')
def check_training(path):
    """20 steps are enough to be much better than pure guessing, log(59) = 4.08."""
    module, _ = load(path)
    assert module.mean_loss(module.learned, module.val_counts) < 3.5


# ----------------------------------------------------------


@pytest.mark.parametrize(
    'file, ours, articles, check',
    [mistake[1:] for mistake in MISTAKES],
    ids=[f'{name}, {file}' for name, file, *_ in MISTAKES],
)
def test_the_mistake_is_found(tmp_path, file, ours, articles, check):
    """By an assertion of the check, or by an error that passes through the program's lines.

    The program without the mistake passes.
    """
    check(helpers.copy(tmp_path, file, **SETTINGS[file]))

    path = helpers.copy(tmp_path, file, edits=[(ours, articles)], **SETTINGS[file])
    with pytest.raises(Exception) as found:
        check(path)
    frames = traceback.extract_tb(found.value.__traceback__)
    assert found.type is AssertionError or str(path) in {frame.filename for frame in frames}
