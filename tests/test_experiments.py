"""The experiments: each edit still applies to gpt.py, trains, and does what its name says; results are kept."""
import bz2
import json
import math

import pytest
import torch
from torch.nn import functional as F

import experiments
import measure
import program
import results

TEXT = (program.ROOT / 'input.txt').read_bytes()[:20000]
SOURCE = program.edit((program.ROOT / 'gpt.py').read_text(encoding='utf-8'), **{**program.TINY, 'max_iters': 3})
NAMES = list(experiments.EXPERIMENTS)


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Results go to a file of the test's own; one thread and a narrow terminal make the tiny runs faster."""
    monkeypatch.setattr(results, 'PATH', tmp_path / 'results.json')
    monkeypatch.setenv('COLUMNS', '5')
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(folder, name, **settings):
    """The program of an experiment as a module, further edited."""
    folder = folder / name
    folder.mkdir()
    (folder / 'input.txt').write_bytes(TEXT)
    (folder / 'gpt.py').write_text(experiments.edited(name, program.edit(SOURCE, **settings)), encoding='utf-8')
    return program.load(folder / 'gpt.py')


def pair(folder, name, **settings):
    """The module of an experiment and that of the baseline, and a model of each; the weights are large, and the same if
    the models are alike in shape."""
    modules = [load(folder, name, **settings), load(folder, 'baseline', **settings)]
    models = [module.GPTLanguageModel().eval() for module in modules]
    for model in models:
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return *modules, *models


def size(model):
    """The number of its parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def same(a, b):
    """Whether two tensors are equal but for rounding."""
    return torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_every_edit_applies_and_trains(tmp_path, name):
    result = experiments.run(experiments.edited(name, SOURCE, 1), tmp_path / 'run', TEXT)
    assert set(result) == {'val', 'train', 'best_step', 'seconds', 'parameters', 'sample'}
    assert 3 < result['val'] < 5 and 3 < result['train'] < 5 and len(result['sample']) == 60
    assert not (tmp_path / 'run').exists()


def test_every_edit_applies_to_the_program_as_it_is():
    source = (program.ROOT / 'gpt.py').read_text(encoding='utf-8')
    codes = {experiments.code(experiments.edited(name, source)) for name in NAMES}
    assert len(codes) == len(NAMES)
    cpu = experiments.cpu
    assert cpu(experiments.edited('baseline', source), 'max_iters') == experiments.STEPS
    assert cpu(experiments.edited('high-rate', source), 'learning_rate') == 10 * cpu(source, 'learning_rate')


def test_no_residual(tmp_path):
    _, _, model, baseline = pair(tmp_path, 'no-residual')
    x = torch.randn(2, 5, 32)
    for each in (model, baseline):
        for layer in (each.blocks[0].sa.proj, each.blocks[0].ffwd.net[2]):
            torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    assert not model.blocks[0](x).any() and torch.equal(baseline.blocks[0](x), x)


def test_no_layer_norm(tmp_path):
    _, _, model, baseline = pair(tmp_path, 'no-layer-norm')
    calls = []
    for each in (model, baseline):
        for module in each.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.register_forward_hook(lambda *_, each=each: calls.append(each is model))
    for each in (model, baseline):
        each(torch.zeros(1, 3, dtype=torch.long))
    assert calls == [False] * 5


def test_no_position(tmp_path):
    _, _, model, baseline = pair(tmp_path, 'no-position')
    idx = torch.full((1, 6), 3)  # one character, over and over: only its place could tell one from another
    assert same(model(idx)[0], model(idx)[0][:, :1]) and not same(baseline(idx)[0], baseline(idx)[0][:, :1])


def test_no_feed_forward(tmp_path):
    _, _, model, baseline = pair(tmp_path, 'no-feed-forward')
    idx = torch.arange(6)[None]
    before = [each(idx)[0] for each in (model, baseline)]
    for each in (model, baseline):
        for block in each.blocks:
            torch.nn.init.normal_(block.ffwd.net[2].weight)
    assert torch.equal(model(idx)[0], before[0]) and not same(baseline(idx)[0], before[1])


def test_one_head(tmp_path):
    _, _, model, baseline = pair(tmp_path, 'one-head')
    assert [len(each.blocks[0].sa.heads) for each in (model, baseline)] == [1, 2] and size(model) == size(baseline)


def test_wrong_scale(tmp_path):
    module, _, _, _ = pair(tmp_path, 'wrong-scale')
    q, k, v = torch.randn(3, 2, 5, 16)
    assert same(module.attention(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=32 ** 0.5))


def test_no_mask(tmp_path):
    _, _, model, baseline = pair(tmp_path, 'no-mask')
    idx = torch.arange(6)[None]
    other = idx.clone()
    other[0, -1] = 9  # a later character ...
    assert not same(model(idx)[0][:, 0], model(other)[0][:, 0])  # ... changes an earlier prediction
    assert same(baseline(idx)[0][:, :-1], baseline(other)[0][:, :-1])


@pytest.mark.parametrize('name, setting, factor', [
    ('half-context', 'block_size', 0.5), ('twice-context', 'block_size', 2), ('half-depth', 'n_layer', 0.5),
    ('twice-depth', 'n_layer', 2), ('half-width', 'n_embd', 0.5), ('twice-width', 'n_embd', 2)])
def test_size(tmp_path, name, setting, factor):
    module, other, model, baseline = pair(tmp_path, name)
    assert getattr(module, setting) == factor * getattr(other, setting)
    assert (size(model) < size(baseline)) == (factor < 1) and size(model) != size(baseline)


@pytest.mark.parametrize('name, share', [('tenth-of-text', 0.1), ('third-of-text', 0.3)])
def test_less_text(tmp_path, name, share):
    module, other, _, _ = pair(tmp_path, name)
    assert len(module.train_data) == pytest.approx(share * len(other.train_data), abs=2)
    assert torch.equal(module.train_data, other.train_data[:len(module.train_data)])
    assert torch.equal(module.val_data, other.val_data)


def test_dropout(tmp_path):
    module, _, model, baseline = pair(tmp_path, 'dropout')
    idx = torch.arange(6)[None]
    assert same(model(idx)[0], baseline(idx)[0])
    assert not same(model.train()(idx)[0], model(idx)[0]) and same(baseline.train()(idx)[0], baseline(idx)[0])


def test_an_edit_that_no_longer_applies_is_an_error():
    with pytest.raises(ValueError, match='experiment no-position: 0 occurrences'):
        experiments.edited('no-position', program.replace(SOURCE, 'tok_emb + pos_emb', 'pos_emb + tok_emb'))
    with pytest.raises(ValueError, match='experiment no-warm-up: 0 lines'):
        experiments.edited('no-warm-up', SOURCE.replace('warmup_iters', 'warm_up'))
    with pytest.raises(ValueError, match='experiment one-head: it changes nothing'):
        experiments.edited('one-head', program.edit(SOURCE, n_head=1))


def test_the_key_sees_code_and_text_but_no_comments():
    assert experiments.key(SOURCE, TEXT) == experiments.key(SOURCE + '\n# a remark\n', TEXT)
    assert experiments.key(SOURCE, TEXT) == experiments.key(SOURCE.replace('"""A GPT', '"""One GPT'), TEXT)
    assert experiments.key(SOURCE, TEXT) != experiments.key(program.edit(SOURCE, seed=2), TEXT)
    assert experiments.key(SOURCE, TEXT) != experiments.key(SOURCE, TEXT + b'.')


def test_a_training_that_goes_wrong_is_a_result_and_a_wrong_setting_an_error(tmp_path):
    broken = program.replace(SOURCE, 'loss.backward()', '(loss * math.nan).backward()')
    result = experiments.run(experiments.edited('baseline', broken, 1), tmp_path / 'run', TEXT)
    assert result['train'] is None and result['val'] < 5 and result['best_step'] == 0
    with pytest.raises(RuntimeError, match='n_head'):
        experiments.run(program.edit(SOURCE, n_head=5), tmp_path / 'run', TEXT)
    assert list(tmp_path.iterdir()) == []


def test_list(capsys):
    assert experiments.main(['--list']) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == NAMES


def test_an_unknown_name(capsys):
    with pytest.raises(SystemExit) as ended:
        experiments.main(['no-hope'])
    assert ended.value.code == 2 and "'no-hope'" in capsys.readouterr().err


def test_what_is_done_is_kept_and_an_interrupted_run_goes_on(monkeypatch, capsys):
    runs, real = [], experiments.run

    def run(*task):
        """The third one is interrupted."""
        runs.append(task[0])
        if len(runs) == 3:
            raise KeyboardInterrupt
        return real(*task)
    monkeypatch.setattr(experiments, 'run', run)

    def main(*arguments, source=SOURCE):
        """Run the two; the exit code and how many runs it took."""
        before = len(runs)
        code = experiments.main(['one-head', 'baseline', '--seeds', '2', '--jobs', '1', *arguments], source, TEXT)
        return code, len(runs) - before
    results.write('other', 1)
    assert main() == (130, 3)
    assert {name: list(seeds) for name, seeds in results.read()['experiments'].items()} == {
        'baseline': ['1337'], 'one-head': ['1337']}
    assert main() == (0, 2)
    output = capsys.readouterr().out
    assert len(output.splitlines()) == 4 and '| gpt.py as it is | ' in output
    assert main() == (0, 0) and capsys.readouterr().out == output
    assert output.strip() == experiments.table(results.read()['experiments'])
    changed = program.edit(SOURCE, beta2=0.9)
    assert main('--keep', source=changed) == (0, 0) and main(source=changed) == (0, 4)
    assert main('--again', source=changed) == (0, 4)
    saved = results.read()
    assert main('--steps', '2', source=changed) == (0, 4)
    assert {name: results.read()[name] for name in saved} == saved and 'experiments in 2 steps' in results.read()


def test_a_run_in_a_process_of_its_own_gives_the_same():
    seen = []
    for jobs in ('1', '2'):
        arguments = ['no-mask', '--seeds', '1', '--steps', '1', '--again', '--jobs', jobs]
        assert experiments.main(arguments, SOURCE, TEXT) == 0
        seen.append({**results.read()['experiments in 1 steps']['no-mask']['1337'], 'seconds': 0})
    assert seen[0] == seen[1]


def test_the_table():
    runs = {'baseline': {'1': {'val': 1.0, 'train': 0.5, 'parameters': 1000},
                         '2': {'val': 2.0, 'train': 0.7, 'parameters': 1000}},
            'high-rate': {'1': {'val': 3.25, 'train': None, 'parameters': 1000}}}
    assert experiments.table(runs).splitlines()[2:] == [
        '| gpt.py as it is | 1,000 | 1.500 ± 0.707 |  | 0.600 ± 0.141 |',
        '| ten times the learning rate | 1,000 | 3.250 | +1.750 | – |']


def test_whole_loss_counts_every_character_once(tmp_path):
    module = load(tmp_path, 'baseline')
    model = module.GPTLanguageModel()
    data, losses = module.val_data.long(), []
    with torch.no_grad():
        for start in range(0, len(data) - 1, module.block_size):
            window = data[start:start + module.block_size + 1]
            losses += F.cross_entropy(model(window[None, :-1])[0][0], window[1:], reduction='none').tolist()
    assert len(losses) == len(data) - 1
    assert measure.whole_loss(module, model) == pytest.approx(math.fsum(losses) / len(losses), abs=1e-5)


def test_measure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, 'LENGTH', 100)
    (tmp_path / 'some.txt').write_bytes(TEXT)
    measure.main([str(tmp_path / 'some.txt')], **{**program.TINY, 'max_new_tokens': 30})
    (name, run), = results.read()['default'].items()
    assert name.startswith('some.txt (') and list(results.read()['compressors']) == [name]
    assert [line[0] for line in run['curve']] == [0, 10, 20] and run['best_step'] in (0, 10, 20)
    assert run['bits'] == pytest.approx(run['loss'] / math.log(2)) and 3 < run['loss'] < 4.5
    assert len(run['sample']) == 500 and 0 <= run['words_in_training'] <= run['words'] < 1
    bits = results.read()['compressors'][name]['bzip2']['bits']
    assert bits == (len(bz2.compress(TEXT)) - len(bz2.compress(TEXT[:18000]))) * 8 / 2000
    assert json.loads(results.PATH.read_text(encoding='utf-8')) == results.read()
    assert measure.text_name(program.ROOT / 'x.txt', (program.ROOT / 'input.txt').read_bytes()) == 'input.txt'
