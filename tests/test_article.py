"""The article's mistakes: each is put back into a copy of the program, and a check that ours passes has to fail."""
import contextlib
import io
import math
import re
import runpy
import signal
import sys
from unittest import mock

import numpy as np
import pytest
import torch

import program

TEXT = (program.ROOT / 'input.txt').read_text(encoding='utf-8')[:30_000]
SETTINGS = {
    'gpt.py': dict(device='cpu', block_size=16, n_embd=32, n_head=2, n_layer=1, batch_size=8, max_iters=4,
                   warmup_iters=1, dropout=0.0, eval_interval=2, eval_iters=3, max_new_tokens=20),
    'bigram.py': dict(device='cpu', batch_size=8, max_iters=4, max_new_tokens=20)}
STEP = re.compile(r'step (\d+): train loss (\d+\.\d{4}), val loss (\d+\.\d{4})')


def load(path, **settings):
    """The program at `path`, further edited, as a module."""
    path.write_text(program.edit(path.read_text(encoding='utf-8'), **settings), encoding='utf-8')
    return program.load(path)


def run(path, **settings):
    """Run the program at `path`, further edited: (exit code, standard output, standard error)."""
    path.write_text(program.edit(path.read_text(encoding='utf-8'), **settings), encoding='utf-8')
    out, errors, numbers = io.StringIO(), io.StringIO(), (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.getsignal(number) for number in numbers]
    code = 0
    try:
        with (contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors),
              mock.patch.object(sys, 'argv', [str(path)])):
            runpy.run_path(str(path), run_name='__main__')
    except SystemExit as stopped:
        code = stopped.code or 0
    finally:  # the program's handlers go with it
        for number, handler in zip(numbers, handlers):
            signal.signal(number, handler)
    return code, out.getvalue(), errors.getvalue()


def new_model(module):
    torch.manual_seed(0)
    return getattr(module, 'GPTLanguageModel', getattr(module, 'BigramLanguageModel', None))()


# ---- The checks: each takes the path of a copy of the program ----
def check_text(path):
    """The alphabet is the whole text's, and the data is the text."""
    module = load(path)
    assert module.chars == sorted(set(TEXT))
    assert module.decode_list(module.data.tolist()) == TEXT


def check_batches(path):
    module = load(path)
    for split, part in (('train', TEXT[:27_000]), ('val', TEXT[27_000:])):
        x, y = module.get_batch(split)
        for row, following in zip(x.tolist(), y.tolist()):
            assert row[1:] == following[:-1] and module.decode_list(row + following[-1:]) in part


def check_data_on_device(path):
    """With 'meta', a device without numbers, in the place of a GPU."""
    path.write_text(program.replace(path.read_text(encoding='utf-8'), 'data[0].item()', 'None'), encoding='utf-8')
    module = load(path, device='meta')
    assert {module.train_data.device.type, module.val_data.device.type} == {'meta'}
    assert {part.device.type for part in module.get_batch('train')} == {'meta'}


class Seen(Exception):
    pass


def check_model_on_device(path):
    """What the optimizer is given is on `device`."""
    module = load(path)
    module.device = 'meta'

    def optimizer(parameters, *others, **options):
        raise Seen({parameter.device.type for parameter in parameters})
    with mock.patch('torch.optim.AdamW', optimizer), pytest.raises(Seen) as seen:
        module.train(*[None] * module.train.__code__.co_argcount)
    assert seen.value.args == ({'meta'},)


def check_positions_on_device(path):
    """Positions are made where the characters' numbers are, wherever that is."""
    module, arange, devices = load(path), torch.arange, set()
    model, module.device = new_model(module), 'meta'
    with mock.patch('torch.arange', lambda *ends, device=None, **options: devices.add(str(device)) or arange(*ends)):
        model(torch.zeros(1, 5, dtype=torch.long))
    assert devices == {'cpu'}


def check_formula(path):
    """Scores over sqrt(head_size), softmax, weighted sum, place by place."""
    module = load(path, fast_attention=False)
    q, k, v = torch.randn(3, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    out = module.attention(q, k, v).numpy()
    for t in range(6):
        e = np.exp([(q[t] @ k[j]).item() / math.sqrt(8) for j in range(t + 1)])
        assert np.abs(out[t] - (e / e.sum()) @ v[:t + 1].numpy()).max() < 1e-12


def check_heads(path):
    """Heads whose sizes do not add up to n_embd."""
    module = load(path)
    assert module.MultiHeadAttention(3, 5)(torch.zeros(2, 4, 32)).shape == (2, 4, 32)


def check_head_count(path):
    """An n_head that does not divide n_embd is refused in one line that names both."""
    code, out, errors = run(path, n_head=5)
    assert code == 2 and out == '' and re.fullmatch(r'.*n_embd = 32.*n_head = 5.*\n', errors)


def check_dropout(path):
    """The dropout after proj zeroes numbers in training."""
    module = load(path, dropout=0.5)
    heads = module.MultiHeadAttention(2, 16).train()
    assert (heads(torch.randn(4, 8, 32)) == 0).float().mean() > 0.4


def check_forward(path):
    """forward gives logits (B, T, vocab_size), the same with and without targets; a loss only with targets."""
    module = load(path)
    model, (x, y) = new_model(module), module.get_batch('train')
    (with_targets, loss), (without, none) = model(x, y), model(x)
    assert with_targets.shape == without.shape == (*x.shape, module.vocab_size)
    assert loss.dim() == 0 and none is None


def check_generate(path):
    module = load(path)
    model, seen = new_model(module), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output[0].requires_grad))
    assert model.generate(torch.zeros(2, 1, dtype=torch.long), 30).shape == (2, 31)
    assert seen == [False] * 30


def check_generate_without_dropout(path):
    module = load(path, dropout=0.5)
    model = new_model(module).train()
    with torch.no_grad():
        model.lm_head.weight *= 30
    start = torch.zeros(4, 1, dtype=torch.long)
    first = model.generate(start, 25, temperature=0)
    assert torch.equal(model.generate(start, 25, temperature=0), first) and model.training


def check_evaluation_without_dropout(path):
    module = load(path, dropout=0.5)
    model = new_model(module)
    assert module.estimate_loss(model) == module.estimate_loss(model)


def check_eval_iters(path):
    """An evaluation takes eval_iters batches of each part."""
    module, calls = load(path), []
    get_batch = module.get_batch
    module.get_batch = lambda split, *rest: calls.append(split) or get_batch(split, *rest)
    module.estimate_loss(new_model(module))
    assert sorted(calls) == ['train'] * 3 + ['val'] * 3


def check_gpt_output(path):
    """What it trains on; at each evaluation the loss and one line of text; the closing line; the sample."""
    code, out, errors = run(path, temperature=1.0)
    assert code == 0 and errors == ''
    lines = out.split('\n')
    assert [STEP.fullmatch(line)[1] for line in lines[1:6:2]] == ['0', '2', '4']
    assert lines[7].startswith('best val loss ')
    assert len('\n'.join(lines[8:])) == 20 + 1


def check_bigram_output(path):
    code, out, _ = run(path)
    assert code == 0 and re.search(r':\n\n.{20}\n\nloss ', out, flags=re.DOTALL)


def check_losses(path):
    """The same seed gives the same losses, another learning rate others."""
    def losses(learning_rate):
        return re.findall(r'loss .*?(\d\.\d{4})', run(path, learning_rate=learning_rate)[1])
    torch.manual_seed(0)
    first = losses(0.01)
    assert len(first) > 1 and losses(0.01) == first
    assert losses(0.2) != first


# name, file, the text of ours, the article's in its place, the check, the error that it has to end with
MISTAKES = [
    ('no text read', 'gpt.py', '\n    text = (folder', '\n    _ = (folder', check_text, NameError),
    ('no text read', 'bigram.py', '\n    text = (folder', '\n    _ = (folder', check_text, NameError),
    ('alphabet of the first 1000 characters', 'gpt.py', 'sorted(set(text))', 'sorted(set(text[:1000]))',
     check_text, Exception),
    ('get_batch uses train', 'gpt.py', 'part = train_data if', 'part = train if', check_batches, TypeError),
    ('get_batch uses train', 'bigram.py', 'part = train_data if', 'part = train if', check_batches, TypeError),
    ('val_data not defined', 'gpt.py', '\ntrain_data, val_data =', '\ntrain_data, _ =', check_batches, NameError),
    ('val_data not defined', 'bigram.py', '\ntrain_data, val_data =', '\ntrain_data, _ =', check_batches, NameError),
    ('data never split', 'gpt.py', '\ntrain_data, val_data =', '\ntrain_data, val_data = data, data  #', check_batches,
     AssertionError),
    ('data never split', 'bigram.py', '\ntrain_data, val_data =', '\ntrain_data, val_data = data, data  #',
     check_batches, AssertionError),
    ('sizes not defined where get_batch uses them', 'gpt.py', '\nblock_size =', '\nblock =', check_batches, NameError),
    ('batches not moved to the device', 'gpt.py', 'data = encode_text(text).to(', 'data = encode_text(text)  # ',
     check_data_on_device, AssertionError),
    ('batches not moved to the device', 'bigram.py', 'data = encode_text(text).to(', 'data = encode_text(text)  # ',
     check_data_on_device, AssertionError),
    ('model not moved to the device', 'gpt.py', '(seed)\n    model = GPTLanguageModel().to(device)',
     '(seed)\n    model = GPTLanguageModel()', check_model_on_device, AssertionError),
    ('model not moved to the device', 'bigram.py', 'BigramLanguageModel().to(device)', 'BigramLanguageModel()',
     check_model_on_device, AssertionError),
    ('positions on the global device', 'gpt.py', 'device=idx.device)', 'device=device)',
     check_positions_on_device, AssertionError),
    ('scores times sqrt(C)', 'gpt.py', '* head_size ** -0.5  #', '* n_embd ** 0.5  #', check_formula, AssertionError),
    ('scores not scaled', 'gpt.py', '* head_size ** -0.5  #', ' #', check_formula, AssertionError),
    ('n_embd not defined, C1 is', 'gpt.py', '\nn_embd =', '\nC1 =', check_forward, NameError),
    ('proj takes C1 whatever the heads give', 'gpt.py', 'nn.Linear(num_heads * head_size, n_embd)',
     'nn.Linear(n_embd, n_embd)', check_heads, RuntimeError),
    ('head count that does not divide', 'gpt.py', 'if n_embd % n_head:', 'if False:', check_head_count, AssertionError),
    ('dropout made and not used', 'gpt.py', 'return self.dropout(self.proj(out))', 'return self.proj(out)',
     check_dropout, AssertionError),
    ('targets without a default', 'gpt.py', 'def forward(self, idx, targets=None)', 'def forward(self, idx, targets)',
     check_forward, TypeError),
    ('targets without a default', 'bigram.py', 'def forward(self, idx, targets=None)',
     'def forward(self, idx, targets)', check_forward, TypeError),
    ('targets without a default, in generate', 'bigram.py', 'def forward(self, idx, targets=None)',
     'def forward(self, idx, targets)', check_generate, TypeError),
    ('logits in another shape with targets', 'gpt.py', 'return logits, None if',
     'return logits if targets is None else logits.flatten(0, 1), None if', check_forward, AssertionError),
    ('logits in another shape with targets', 'bigram.py', 'return logits, None if',
     'return logits if targets is None else logits.flatten(0, 1), None if', check_forward, AssertionError),
    ('targets that lie apart in memory', 'gpt.py', 'targets.flatten()', 'targets.view(-1)',
     check_forward, RuntimeError),
    ('model never made', 'gpt.py', '(seed)\n    model = GPTLanguageModel().to(device)', '(seed)',
     check_gpt_output, NameError),
    ('model never made', 'bigram.py', '\n    model = BigramLanguageModel().to(device)', '',
     check_bigram_output, NameError),
    ('bigram never trained', 'bigram.py', '        optimizer.step()\n        scheduler.step()\n', '',
     check_losses, AssertionError),
    ('learning_rate not used', 'gpt.py', 'model.parameters(), learning_rate,', 'model.parameters(), 3e-4,',
     check_losses, AssertionError),
    ('learning_rate not used', 'bigram.py', 'lr=learning_rate', 'lr=3e-4', check_losses, AssertionError),
    ('no seed', 'gpt.py', 'torch.manual_seed(seed)\n    model', 'model', check_losses, AssertionError),
    ('no evaluation', 'gpt.py', 'evaluating = not stopped_by and', 'evaluating = False and',
     check_gpt_output, TypeError),
    ('eval_iters not used', 'gpt.py', 'for _ in range(eval_iters)', 'for _ in range(1)',
     check_eval_iters, AssertionError),
    ('evaluation with dropout', 'gpt.py', '\n    model.eval()\n', '\n',
     check_evaluation_without_dropout, AssertionError),
    ('a line at every step', 'gpt.py', '_, loss = network(', 'print(step); _, loss = network(',
     check_gpt_output, TypeError),
    ('nothing sampled', 'gpt.py', 'print(prompt + sample(model, max_new_tokens))', 'pass',
     check_gpt_output, AssertionError),
    ('nothing sampled', 'bigram.py', '    print(decode_list(model', '    (decode_list(model', check_bigram_output,
     AssertionError),
    ('generation with gradients', 'gpt.py', '    @torch.no_grad()', '', check_generate, AssertionError),
    ('generation with gradients', 'bigram.py', '    @torch.no_grad()', '', check_generate, AssertionError),
    ('generation with dropout', 'gpt.py', 'self.eval()', 'pass', check_generate_without_dropout, AssertionError),
]


@pytest.mark.parametrize('file, ours, articles, check, error', [mistake[1:] for mistake in MISTAKES],
                         ids=[f'{name} ({file})' for name, file, *_ in MISTAKES])
def test_the_mistake_does_not_come_back(tmp_path, file, ours, articles, check, error):
    path = program.copy(tmp_path, file, TEXT, **SETTINGS[file])
    source = path.read_text(encoding='utf-8')
    check(path)
    for left in tmp_path.glob('*.pt'):
        left.unlink()
    path.write_text(program.replace(source, ours, articles), encoding='utf-8')
    with pytest.raises(error):
        check(path)
