"""Each mistake of a user gets one clear line, before anything is written.

An error in a line that a learner has edited is none of these. There, the traceback helps.
"""

import sys

import pytest
import torch

import helpers
from helpers import TEXT, Source, quick

SETTINGS = {**helpers.TINY, 'max_iters': 4, 'eval_interval': 2, 'max_new_tokens': 5}
INF, NAN = Source("float('inf')"), Source("float('nan')")

# Values of a wrong type, or out of range. None of them may be mistaken for another setting's.
WRONG = {
    'block_size': [0, '16'],
    'n_embd': [0, 32.0],
    'n_head': [0, None],
    'n_layer': [0, [2]],
    'batch_size': [0, True],
    'max_iters': [0, Source('1e4'), 2**63, INF],
    'eval_interval': [0, '10'],
    'eval_iters': [0, NAN],
    'warmup_iters': [-1, 0.5],
    'max_new_tokens': [-1, 1.0],
    'top_k': [-1, False],
    'seed': [-1, 2**63],
    'learning_rate': [-0.001, '1e-3', INF, NAN, 10**400],
    'weight_decay': [-0.1, None],
    'temperature': [-0.1, NAN],
    'grad_clip': [0, INF],
    'dropout': [1.0, True],
    'resume': ['yes', 1],
    'fast_attention': ['no', None],
    'bfloat16': [16, 0.0],
}

# Other mistakes, and the words that have to be in the answer.
MISTAKES = [
    ({'n_embd': 33, 'n_head': 4}, 'n_embd=33 must be a multiple of n_head=4'),
    ({'prompt': 'To bé'}, "prompt='To bé' must be a string of characters from input.txt"),
    ({'prompt': 5}, 'prompt=5 must be'),
    ({'device': 'gpu'}, "device='gpu' cannot be used"),
    ({'device': 'xla'}, "device='xla' cannot be used"),
    ({'device': 'meta'}, "device='meta' cannot be used"),
    ({'device': []}, 'device=[] cannot be used'),
    ({'checkpoint_path': ''}, "checkpoint_path='' must be a file name ending in .pt"),
    ({'checkpoint_path': 'input.txt'}, "checkpoint_path='input.txt' must be"),
    ({'checkpoint_path': 'folder.pt'}, "checkpoint_path='folder.pt' must be"),
    ({'checkpoint_path': 5}, 'checkpoint_path=5 must be'),
    ({'text_path': 'missing.txt'}, "text_path = 'missing.txt'"),
    ({'text_path': 'folder.pt'}, "text_path = 'folder.pt'"),
    ({'text_path': 3}, 'text_path = 3'),
    ({'text': b'abc\xff' * 100}, 'in position 3'),
    ({'text': ''}, 'input.txt is too short'),
    ({'text': TEXT[:160]}, 'must be longer than block_size=16'),
]

# What may look like a mistake, and is none.
ODD = [
    {'learning_rate': 0, 'weight_decay': 0, 'dropout': 0, 'grad_clip': 1, 'temperature': 1},
    {'temperature': 0},
    {'top_k': 10**6},
    {'warmup_iters': 0, 'max_new_tokens': 0},
    {'warmup_iters': 10**6, 'eval_interval': 10**6},
    {'n_head': 32, 'dropout': 0.99},
    {'text': TEXT[:161], 'prompt': TEXT[:100]},
    {'text': 'a' * 200},
    {'batch_size': 1, 'block_size': 1, 'n_embd': 1, 'n_head': 1, 'max_iters': 1},
]


def label(value):
    """The name of a case: 'n_embd=33, n_head=4'."""
    if not isinstance(value, dict):
        return repr(value)[:20]
    return ', '.join(f'{name}={each!r:.20}' for name, each in value.items())


def refused(folder, *words, **settings):
    """Run the program with these settings. The answer is one line, and nothing is written."""
    path = helpers.copy(folder, **{**SETTINGS, **settings})
    (folder / 'folder.pt').mkdir(exist_ok=True)
    before = set(folder.iterdir())
    done = quick(path, code=1)
    assert done.stdout == '' and set(folder.iterdir()) == before
    return helpers.one_line(done, *words)


@pytest.mark.parametrize('name', WRONG)
def test_a_value_that_is_wrong_by_itself(tmp_path, name):
    for value in WRONG[name]:
        value_read = eval(value) if isinstance(value, Source) else value
        refused(tmp_path, f'{name} = {value_read!r}: it must be ', **{name: value})


@pytest.mark.parametrize('settings, words', MISTAKES, ids=label)
def test_a_mistake(tmp_path, settings, words):
    refused(tmp_path, words, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_where_there_is_none(tmp_path):
    refused(tmp_path, "device='cuda' cannot be used here", device='cuda')


@pytest.mark.parametrize('settings', ODD, ids=label)
def test_an_odd_setting_that_works(tmp_path, settings):
    done = quick(helpers.copy(tmp_path, **{**SETTINGS, **settings}))
    assert 'best val loss' in done.stdout and done.stderr == ''


@pytest.mark.parametrize('argument', ['--help', '--max_iters=5', ''])
def test_arguments_are_refused_with_the_docstring(tmp_path, argument):
    done = quick(helpers.copy(tmp_path, **SETTINGS), argument, code=1)
    assert done.stdout == '' and 'A GPT in one file.' in done.stderr
    assert done.stderr.endswith('There are no options. Edit the lines at the top of gpt.py.\n')
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    'settings', [{'learning_rate': 1e9}, {'learning_rate': 100.0, 'eval_interval': 1}], ids=label
)
def test_a_learning_rate_that_is_far_too_high(tmp_path, settings):
    """The loss may stop being a number some steps before the parameters do."""
    path = helpers.copy(tmp_path, **{**SETTINGS, 'max_iters': 40, 'warmup_iters': 0, **settings})
    helpers.one_line(quick(path, code=1), 'blew up', 'learning_rate')


LIMIT = """
import resource
pages = int(open('/proc/self/statm').read().split()[0])
limit = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))"""


@pytest.mark.skipif(sys.platform != 'linux', reason='limits memory as Linux does')
@pytest.mark.parametrize('settings', [{'n_embd': 10**6}, {'batch_size': 10**8}], ids=label)
def test_out_of_memory(tmp_path, settings):
    done = quick(helpers.copy(tmp_path, **{**SETTINGS, **settings}), patches=[LIMIT], code=1)
    helpers.one_line(done, 'out of memory: try a smaller batch_size, block_size, n_embd or n_layer')


# A line of the program, what a learner makes of it, and what Python says to that.
EDITS = [
    ('x = tok_emb + pos_emb', 'x = tok_emb + pos_emb[:3]', 'RuntimeError: The size of tensor a'),
    ('x = self.ln_f(x)', "raise RuntimeError('cannot allocate seats')", 'RuntimeError: cannot'),
    ('x = self.ln_f(x)', "x = open('missing.txt')", 'FileNotFoundError: '),
    ('or [0]', "+ encode_string('é')", "KeyError: 'é'"),
]


@pytest.mark.parametrize('old, new, error', EDITS, ids=['shape', 'allocate', 'file', 'key'])
def test_an_error_in_an_edit_keeps_its_traceback(tmp_path, old, new, error):
    """If it were taken for a lack of memory, a bad device or a bad file, that would hide it."""
    path = helpers.copy(tmp_path, edits=[(old, new)], **SETTINGS)
    stderr = quick(path, code=1).stderr
    number = path.read_text(encoding='utf-8').partition(new)[0].count('\n') + 1
    assert f'File "{path}", line {number}, in ' in stderr
    assert stderr.splitlines()[-1].startswith(error)
