"""A GPT in one file: it learns to write, one character at a time, from any text you give it.

    python gpt.py           train on input.txt, then print a sample of what was learnt
    python gpt.py --help    print this page

It takes about two minutes on a laptop's CPU; on a CUDA GPU it trains a far larger model. Now and then it prints how
well it predicts the text (the loss: lower is better) and a line that it writes: watch noise turn into speech. The run
is saved in gpt.pt; with `resume = True` the program goes on with it or, if it is finished, only prints a sample again.
To experiment, change a number below. To understand, read on: each idea is explained where the code first needs it.
"""
import copy, math, os, shutil, signal, sys, time, zipfile, zlib
from pathlib import Path
if __name__ == '__main__':  # Ctrl-C ends the program without a fuss, even while torch is loading
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    if sys.argv[1:] in (['--help'], ['-h']):
        sys.exit(print(__doc__))
import numpy as np
import torch, torch.distributed as dist, torch.nn as nn, torch.nn.functional as F
from tqdm import tqdm

# ---- Hyperparameters: the numbers that we choose; those that the model learns are its parameters. Skim them: the code
# that uses one explains it. Where a line has two values, the first is for a CUDA GPU, the second for all else. ----
device = 'cuda' if torch.cuda.is_available() else 'cpu'  # where to compute: 'cpu', 'cuda', 'cuda:1', 'mps' (Apple), ...
gpu = 'cuda' in str(device)  # chooses between the two values
block_size = 256 if gpu else 64  # the context: how many characters, at most, the model sees to predict the next one
n_embd = 384 if gpu else 128  # how many numbers stand for a character inside the model
n_head = 6 if gpu else 4  # attention heads in a block: as many looks, each of its own kind, at the text before
n_layer = 6 if gpu else 2  # blocks (not those of block_size), one after the other: each works over every character
dropout = 0.2 if gpu else 0.0  # share of the numbers zeroed at random in training, so that none becomes indispensable
batch_size = 64 if gpu else 24  # pieces of text that one training step learns from
max_iters = 5000 if gpu else 3500  # training steps
learning_rate = 3e-4 if gpu else 5e-3  # about how far a step may move each parameter, at its highest
warmup_iters = 100  # steps in which the learning rate rises to nearly that, before it falls to zero
beta2 = 0.99  # AdamW (see 'Training') keeps a running mean of the squared gradients: the share kept at each step
weight_decay = 0.1  # how strongly AdamW draws the parameters towards zero
grad_clip = 1.0  # a gradient (all slopes of the loss, see 'Training') longer than this is shortened to this
eval_interval = 500  # steps from one evaluation to the next
eval_iters = 200 if gpu else 25  # batches in one evaluation, for each part of the text
seed = 1337  # where all random numbers start: the same seed gives the same run
fast_attention = True  # attention by torch's own function; False: by the formula written out below
bfloat16 = gpu and torch.cuda.is_bf16_supported(False)  # multiply in 16 bits (on a CPU, set fast_attention = False too)
text_path = 'input.txt'  # the text to learn from, any UTF-8 text (this path and the next start at this file's folder)
checkpoint_path = 'gpt.pt'  # where the run is saved
resume = False  # True: go on with the saved run, or only sample if it is finished
prompt = ''  # how the sample begins
max_new_tokens = 500  # how many characters follow the prompt (token: the unit that a model reads, here a character)
temperature = 0.8  # daring: 0 always takes the likeliest character, 1 keeps the model's own probabilities
top_k = 0  # choose among the k likeliest characters only; 0: among all
if device == 'cuda':  # of several processes (see 'Many processors') each takes a GPU of its own
    device = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'

# ---- Text to numbers: a model computes with numbers, so each different character of the text gets one. ----
folder = Path(__file__).absolute().parent
try:  # the mark that some editors put before the first character is dropped, and Windows' line ends become \n
    text = (folder / str(text_path)).read_bytes().decode('utf-8').removeprefix('\ufeff').replace('\r\n', '\n')
except (OSError, ValueError) as error:
    sys.exit(f'{folder / str(text_path)}: not readable as UTF-8 text ({error}); text_path, at the top, names the text')
if not text:
    sys.exit(f'{folder / str(text_path)}: empty; put a text there to learn from')

chars = sorted(set(text))  # the alphabet
vocab_size = len(chars)
char_to_index = {char: index for index, char in enumerate(chars)}
index_to_char = {index: char for index, char in enumerate(chars)}

def encode_string(s):
    """The list of the numbers of the characters of `s`. ValueError if one of them does not occur in the text."""
    unknown = ''.join(sorted(set(s) - set(chars)))
    if unknown:
        raise ValueError(f'{unknown!r} does not occur in {text_path}, so there is no number for it')
    return [char_to_index[char] for char in s]
def decode_list(l):
    """The string whose characters have the numbers in the list `l`."""
    return ''.join([index_to_char[index] for index in l])
def encode_text(s):
    """What encode_string does, for the whole text: into a tensor (torch's array) of the smallest type that will do."""
    table = np.zeros(ord(chars[-1]) + 1, dtype=np.min_scalar_type(-vocab_size))  # table[Unicode number] = our number
    table[[ord(char) for char in chars]] = np.arange(vocab_size)
    pieces = (s[i:i + 2**20].encode('utf-32-le') for i in range(0, len(s), 2**20))  # 4 bytes a character
    return torch.from_numpy(np.concatenate([table[np.frombuffer(piece, dtype='<u4')] for piece in pieces]))

try:
    data = encode_text(text).to(torch.device(device))
    data[0].item()  # some devices prove unfit only when a number is asked back
except Exception as error:
    sys.exit(f"device = {device!r} cannot be used here ({str(error).partition(chr(10))[0]:.99}); 'cpu' always can")
# The last 10% are for checking only, 'validation': whoever learns the rest by heart ('overfitting') does badly there.
train_data, val_data = data[:int(0.9 * len(data))], data[int(0.9 * len(data)):]

def get_batch(split, generator=None):
    """Random pieces of the 'train' or 'val' text: inputs x and targets y, both (batch_size, block_size). y is x shifted
    by one: y[b, t] is the character after x[b, :t + 1]. `generator` makes the random numbers (None: torch's own)."""
    part = train_data if split == 'train' else val_data
    start = torch.randint(len(part) - block_size, (batch_size, 1), generator=generator)
    window = part[(start + torch.arange(block_size + 1)).to(device)].long()  # (batch_size, block_size + 1)
    return window[:, :-1], window[:, 1:]

# ---- Attention: how a character takes in what stands before it. In shapes such as (B, T, C), B is the batch (pieces of
# text), T the time (places in a piece), C the channels (the n_embd numbers for the character at a place). ----
def attention(q, k, v, p=0.0):
    """Causal scaled dot-product attention (Vaswani et al., 2017): q, k, v (..., T, head_size) -> (..., T, head_size).
    Each place has head_size numbers to ask with (its query), to be found by (its key) and to tell (its value). It gets
    a mean of the values up to its own place, with more weight where the key fits its query better. p: for dropout."""
    if fast_attention:  # the same in one call. To experiment with the lines below, set fast_attention = False
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
    T, head_size = q.shape[-2:]
    # How well key j fits query i: the sum of the products of their numbers (the dot product). The more numbers, the
    # larger; so we divide by sqrt(head_size): large scores give one place all the weight, and learning would stall.
    scores = q @ k.transpose(-2, -1) * head_size ** -0.5  # (..., T, T)
    # The causal mask: the score of every later place becomes -inf, no weight at all: there stands what we must predict.
    later = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)  # True above the diagonal: place j > i
    scores = scores.masked_fill(later, float('-inf'))
    # Softmax turns scores into positive weights that add up to 1: e to the power of each, over the sum of all these.
    weights = F.softmax(scores, dim=-1)
    weights = F.dropout(weights, p)  # in training zeroes a share p at random and makes up for it in the rest
    return weights @ v  # (..., T, T) @ (..., T, head_size) -> (..., T, head_size)

class Head(nn.Module):
    """One head of self-attention ('self': q, k and v all come from one x): (B, T, C) -> (B, T, head_size)."""
    def __init__(self, head_size):  # an nn.Module keeps account of the parameters in it; calling it runs forward()
        super().__init__()
        # Linear(n, m): a matrix of parameters makes m numbers out of the n at each place (bias: and adds m more).
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)
    def forward(self, x):  # one head by itself. (self.training: is the model learning just now?)
        return attention(self.query(x), self.key(x), self.value(x), dropout if self.training else 0.0)

class MultiHeadAttention(nn.Module):
    """Several heads side by side, each free to look for something different, (B, T, C) -> (B, T, C)."""
    def __init__(self, num_heads, head_size):
        super().__init__()
        self.heads = nn.ModuleList([Head(head_size) for _ in range(num_heads)])
        self.proj = nn.Linear(num_heads * head_size, n_embd)  # mixes what the heads found
        self.dropout = nn.Dropout(dropout)
    def forward(self, x):
        # This is out = torch.cat([head(x) for head in self.heads], dim=-1), only faster: no head is called; their
        # matrices, laid side by side, make one large product, and one call of attention() serves all the heads.
        B, T, C = x.shape
        layers = [getattr(head, name) for name in ('query', 'key', 'value') for head in self.heads]
        qkv = F.linear(x, torch.cat([layer.weight for layer in layers]))  # (B, T, 3 * heads * head_size)
        q, k, v = (part.view(B, T, len(self.heads), -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        out = attention(q, k, v, dropout if self.training else 0.0)  # (B, heads, T, head_size), like q, k and v
        out = out.transpose(1, 2).reshape(B, T, -1)  # (B, T, heads * head_size)
        return self.dropout(self.proj(out))

class FeedForward(nn.Module):
    """After looking around, thinking: each place by itself, in a wider layer. (B, T, C) -> (B, T, C)."""
    def __init__(self, n_embd):
        super().__init__()
        # ReLU turns negative numbers into 0: without such a bend two Linear layers could do no more than one.
        self.net = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd), nn.ReLU(), nn.Linear(4 * n_embd, n_embd), nn.Dropout(dropout))
    def forward(self, x):
        return self.net(x)

class Block(nn.Module):
    """Attention, then feed-forward, (B, T, C) -> (B, T, C). Both are residual: they add to x and do not replace it, so
    that even the first block has a direct way to the output. Both read x through a layer norm, which keeps numbers in
    range: at each place they are brought to mean 0 and variance 1, then multiplied and shifted by parameters."""
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.sa = MultiHeadAttention(n_head, n_embd // n_head)
        self.ffwd = FeedForward(n_embd)
        self.ln1, self.ln2 = nn.LayerNorm(n_embd), nn.LayerNorm(n_embd)
    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        x = x + self.ffwd(self.ln2(x))
        return x

class GPTLanguageModel(nn.Module):
    """The whole model: at every place of a piece of text, a score for each character that could come next."""
    def __init__(self):
        super().__init__()
        # An embedding is a table: a row of n_embd learnt numbers for each character, in place of its bare number.
        # Attention does not see where things stand, so each place in the context has such a row as well.
        self.token_embedding_table = nn.Embedding(vocab_size, n_embd)
        self.position_embedding_table = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*[Block(n_embd, n_head) for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size)
        # Small random numbers to start with (biases: 0), much as in GPT-2: all characters seem about equally likely.
        for name, parameter in self.named_parameters():
            if 'ln' not in name:
                nn.init.normal_(parameter, std=0.02 if parameter.dim() > 1 else 0.0)
    @torch.autocast('cuda' if gpu else 'cpu', torch.bfloat16, bfloat16 is True)  # if set, 16 bits where that is safe
    def forward(self, idx, targets=None):
        """idx, targets: characters' numbers (B, T), T <= block_size. Returns (logits (B, T, vocab_size), loss). Logits
        are scores whose softmax is a probability for each character. The loss is the cross-entropy, the mean of -ln(the
        probability of the character that really came): ln(vocab_size) if all seem equal, 0 if one is sure and right."""
        tok_emb = self.token_embedding_table(idx)  # (B, T, C)
        pos_emb = self.position_embedding_table(torch.arange(idx.shape[1], device=idx.device))  # (T, C)
        x = self.blocks(tok_emb + pos_emb)  # (B, T, C)
        logits = self.lm_head(self.ln_f(x))  # (B, T, vocab_size)
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    @torch.no_grad()  # nothing is learnt here, so torch need not note down how each number came about
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=0, generator=None):
        """Continue idx (B, T) by characters drawn one by one: (B, T + max_new_tokens). The temperature divides the
        logits: below 1 the likely become likelier still. With top_k > 0 only the k likeliest can be drawn."""
        was_training = self.training
        self.eval()  # sets self.training = False, so no dropout
        for _ in range(max_new_tokens):
            # There are only block_size positions, so older characters are let go. (Other programs save time by keeping
            # keys and values. Here, past block_size, all would change at every step: each character moves one place.)
            logits, _ = self(idx[:, -block_size:])
            logits, candidates = logits[:, -1].float().topk(min(top_k or vocab_size, vocab_size))  # (B, k), best first
            logits = (logits - logits[:, :1]) / max(temperature, 1e-9)  # likeliest: 0; others at temperature 0: -huge
            choice = torch.multinomial(F.softmax(logits, dim=-1), num_samples=1, generator=generator)  # (B, 1), by lot
            idx_next = candidates.gather(1, choice)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T + 1)
        self.train(was_training)
        return idx

def sample(model, length):
    """`length` characters that the model writes after the prompt, a string; the random numbers are always the same."""
    start = encode_string(prompt) or [0]  # without a prompt, character number 0, not printed, stands first
    generator = torch.Generator(device).manual_seed(seed)
    idx = model.generate(torch.tensor([start], device=device), length, temperature, top_k, generator)
    return decode_list(idx[0, len(start):].tolist())

# ---- Many processors: `torchrun --nproc_per_node=4 gpt.py` starts this program four times. Each process holds the
# model and learns from its share of every batch; then torch averages their gradients. The mean over equal shares is the
# mean over the batch, so all take the same step, and (but for dropout's dice) that of a lone `python gpt.py`. ----
rank, world_size = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))  # which, of how many

def over_all(tensor, operation):
    """`tensor` combined over all processes, by 'SUM' or 'MAX', number by number; each of them gets the result."""
    if world_size > 1:
        dist.all_reduce(tensor, getattr(dist.ReduceOp, operation))
    return tensor

@torch.no_grad()
def estimate_loss(model):
    """{'train': mean loss over eval_iters batches, 'val': likewise}; always the same batches, to be comparable."""
    was_training, means = model.training, {}
    model.eval()
    for split in ('train', 'val'):
        draws = torch.Generator().manual_seed(seed)  # random numbers of its own: training does not notice
        losses = [model(*(rows[rank::world_size] for rows in get_batch(split, draws)))[1] for _ in range(eval_iters)]
        means[split] = over_all(torch.stack(losses).mean(), 'SUM').item() / world_size
    model.train(was_training)
    return means

# ---- Checking and saving. Nothing here learns: it answers a slip at the top of the file with one clear line, and sees
# to it that no run is lost. On a first reading, go on at 'Training'. ----
# What each setting may be: type, least, most. A checkpoint (a saved run) must have this file's shape to be sampled
# from, and this file's training settings and text as well to be trained further.
shape = dict.fromkeys(['block_size', 'n_embd', 'n_head', 'n_layer'], (int, 1, 10**6))
training = {**dict.fromkeys(['batch_size', 'max_iters', 'eval_interval', 'eval_iters'], (int, 1, 10**9)),
            'warmup_iters': (int, 0, 10**9), 'seed': (int, 0, 10**9), 'learning_rate': (float, 1e-9, 10),
            'beta2': (float, 0.001, 0.9999), 'dropout': (float, 0, 0.999), 'weight_decay': (float, 0, 100),
            'grad_clip': (float, 1e-9, 1e9), 'bfloat16': (bool, 0, 1)}
others = {'max_new_tokens': (int, 0, 10**9), 'top_k': (int, 0, 10**9), 'temperature': (float, 0, 1000),
          'fast_attention': (bool, 0, 1), 'resume': (bool, 0, 1), 'prompt': (str, '', chr(sys.maxunicode)),
          'checkpoint_path': (str, '', chr(sys.maxunicode))}
settings = {name: globals().get(name) for name in shape | training} | {  # what a run depends on
    '# alphabet': ''.join(chars), '# characters': len(text), '# crc32': zlib.crc32(text.encode())}
checkpoint = folder / str(checkpoint_path).replace('\0', '')
previous = checkpoint.parent / f'{checkpoint.stem}-previous{checkpoint.suffix}'

def stop(message, exit_code):
    """End the program with one line on standard error (the first process's: the others would say the same)."""
    if rank == 0:
        print(f'gpt.py: {message}', file=sys.stderr)
    sys.exit(exit_code)
def check_settings():
    """Stop at the first setting that cannot work, before anything long begins."""
    for name, (kind, least, most) in (shape | training | others).items():
        value = globals().get(name)
        if type(value) not in ((float, int) if kind is float else (kind,)) or not least <= value <= most:
            bounds = f' from {least} to {most}' if kind in (int, float) else ', True or False' * (kind is bool)
            hint = f': write {int(value)}' if kind is int and type(value) is float and value.is_integer() else ''
            stop(f'{name} = {value!r} must be {kind.__name__}{bounds}{hint}', 2)
    if n_embd % n_head:
        stop(f'n_embd = {n_embd} must be a multiple of n_head = {n_head}: the heads share it out evenly', 2)
    if batch_size % world_size:
        stop(f'batch_size = {batch_size} must be a multiple of {world_size}: the processes share it out evenly', 2)
    if len(val_data) <= block_size:
        stop(f'{text_path} is too short: its last tenth, for validation, must exceed block_size = {block_size}', 1)
    if set(prompt) - set(chars):
        stop(f'prompt: {"".join(sorted(set(prompt) - set(chars)))!r} does not occur in {text_path}', 2)
def load_checkpoint(path, names=()):
    """The dict that train() saved at `path`; of its settings, `names` must be those of this file."""
    try:  # with weights_only torch runs no code that a file might hold; testzip finds damage that torch overlooks
        state = None if zipfile.ZipFile(path).testzip() else torch.load(path, map_location='cpu', weights_only=True)
        there, _ = state['settings'], (state['iteration'], state['best']['model'])  # fails for None as well
        differ = [name for name in settings if there[name] != settings[name] and name in names]
    except Exception:  # torch has a dozen ways to complain
        stop(f'{path}: no checkpoint of this program, or damaged; left as it is. Move it or change checkpoint_path', 1)
    if differ:
        stop('\n'.join([f'{path.name} has other settings (#: text). Write these at the top, or set resume = False:', *(
            f'{name} = {there[name]!r:.99}  # here {settings[name]!r:.99}' for name in differ)]), 2)
    return state
def load_model():
    """The model in the checkpoint, with its best weights, ready to generate."""
    model = GPTLanguageModel().to(device)
    model.load_state_dict(load_checkpoint(checkpoint, [*shape, '# alphabet'])['best']['model'])
    return model.eval()
def save(state, first):
    """Write the checkpoint; return whether that worked. `first`: it must, and an older run's file is renamed. The new
    one is written beside the old one and takes its name when complete: a kill at any instant leaves one whole."""
    temporary = checkpoint.parent / f'{checkpoint.name}.tmp'
    try:
        torch.save(state, temporary)
        if first and checkpoint.exists():
            os.replace(checkpoint, previous)
            tqdm.write(f'the last run is kept as {previous.name}')
        os.replace(temporary, checkpoint)
        return True
    except (OSError, RuntimeError, ValueError) as error:  # torch raises a RuntimeError when the disk is full
        temporary.is_file() and temporary.unlink()
        if first:
            stop(f'{checkpoint} cannot be written ({error}); see to its folder, or change checkpoint_path', 1)
        tqdm.write(f'gpt.py: warning: {checkpoint} not saved ({error}); training goes on', file=sys.stderr)
        return False

# ---- Training ----
def train(state):
    """Train a new model, or go on from a checkpoint's `state`. Returns the model and the program's exit code."""
    torch.manual_seed(seed)
    model = GPTLanguageModel().to(device)
    # The gradient says for each parameter how fast the loss rises with it. AdamW (Loshchilov & Hutter, 2019) moves each
    # the other way, by the learning rate times a running mean of its gradients (share kept: 0.9) over their usual size,
    # and draws it a little to zero. The rate warms up while that size gets known; in the end it falls, for fine work.
    adamw = torch.optim.AdamW(model.parameters(), learning_rate, (0.9, beta2), weight_decay=weight_decay, fused=True)
    warmup = max(1, min(warmup_iters, max_iters))
    scheduler = torch.optim.lr_scheduler.LambdaLR(adamw, lambda i: min((i + 1) / warmup, 1 - i / max_iters))
    parts = {'model': model, 'optimizer': adamw, 'scheduler': scheduler}
    first_step, seconds, best = 0, 0.0, {'loss': math.inf, 'step': 0, 'model': copy.deepcopy(model.state_dict())}
    if state:
        load_checkpoint(checkpoint, settings)  # stops unless text and settings are those of this file
        first_step, seconds, best = state['iteration'], state['seconds'], state['best']
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state['random'][0])
        if gpu and len(state['random']) > 1:  # a run begun on a CPU has none for the GPU
            torch.cuda.set_rng_state(state['random'][-1], device)
    network = nn.parallel.DistributedDataParallel(model) if world_size > 1 else model  # averages the gradients
    signals = []  # Ctrl-C and SIGTERM are noted here, and the loop ends after its step
    def on_signal(number, _):
        if signals and world_size == 1:  # a second one ends the program at once (torchrun repeats each by itself)
            sys.exit(128 + number)
        signals.append(number)
    signal.signal(signal.SIGINT, on_signal), signal.signal(signal.SIGTERM, on_signal)
    say = tqdm.write if rank == 0 else lambda line: None
    say(f'{device}: {sum(map(torch.numel, model.parameters())):,} parameters, text {len(text)}, alphabet {vocab_size}')
    bar = tqdm(total=max_iters, initial=first_step, disable=True if rank else None, leave=False, unit=' characters',
               unit_scale=batch_size * block_size, bar_format='{l_bar}{bar}| {remaining} left, {rate_fmt}{postfix}')
    began, shown, saved, health = time.time(), 0.0, True, 0.0  # health: a sum that is not finite if something is wrong
    for step in range(first_step, max_iters + 1):  # the round at max_iters only evaluates and saves
        # All must leave at the same step: one that went on would wait for ever for the others' gradients.
        stopped_by = over_all(torch.tensor(max(signals, default=0)), 'MAX').item() * (step < max_iters)
        evaluating = not stopped_by and (step % eval_interval == 0 or step == max_iters)
        if evaluating:
            losses = estimate_loss(model)
            health = losses['train'] + losses['val']
            if losses['val'] < best['loss']:
                best = {'loss': losses['val'], 'step': step, 'model': copy.deepcopy(model.state_dict())}
        if not math.isfinite(health):
            stop(f'step {step}: the loss is not finite; most often learning_rate = {learning_rate} is too high', 1)
        if rank == 0 and (evaluating or stopped_by):
            saved = save({
                **{name: part.state_dict() for name, part in parts.items()}, 'settings': settings, 'iteration': step,
                'random': [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if gpu else []), 'best': best,
                'seconds': seconds + time.time() - began}, first=step == 0 and not state)
        if evaluating:
            say(f"step {step}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}")
            width = shutil.get_terminal_size().columns // (2 if chars[-1] >= '\u2e80' else 1) - 1  # Chinese is wide
            say(''.join(char if char.isprintable() else repr(char)[1:-1] for char in sample(model, width))[:width])
        if stopped_by or step == max_iters:
            break
        _, loss = network(*[rows[rank::world_size] for rows in get_batch('train')])  # how wrong is the model now?
        adamw.zero_grad(set_to_none=True)  # forget the last step's gradient: backward() adds to what is there
        loss.backward()  # backpropagation, the chain rule from the loss back to every parameter, makes the new gradient
        norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip)  # its length; if above grad_clip, cut to that
        adamw.step()  # moves every parameter
        scheduler.step()
        bar.update()
        if rank == 0 and (time.time() - shown > 0.5 or signals):  # not at each step: reading a number makes a GPU wait
            health, shown = loss.item() + norm.item(), time.time()
            bar.set_postfix_str(f'loss {loss.item():.3f}')
    bar.close()
    if stopped_by:
        say(f'stopped at step {step}' + '; resume = True goes on from there' * saved)
        return model, (128 + stopped_by if saved else 1)
    signals.append(0)  # everything is saved: from now on one Ctrl-C ends the program
    say(f"best val loss {best['loss']:.4f} at step {best['step']}, {seconds + time.time() - began:.0f} seconds")
    model.load_state_dict(best['model'])
    return model, 0 if saved else 1

if __name__ == '__main__':
    try:
        if hasattr(sys.stdout, 'reconfigure'):  # a notebook's stdout has no such method
            sys.stdout.reconfigure(encoding='utf-8', errors='replace')
        if sys.argv[1:]:
            stop(f'takes no arguments, such as {sys.argv[1]!r}: edit the lines at the top of the file', 2)
        check_settings()
        if world_size > 1:  # after a restart, what the dead processes left in torchrun's store must not be found
            kv = dist.PrefixStore(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0'), next(dist.rendezvous('env://'))[0])
            dist.init_process_group('cpu:gloo,cuda:nccl' if gpu else 'gloo', store=kv, rank=rank, world_size=world_size)
        for path in [checkpoint] if resume else [previous, checkpoint]:  # a new run must not replace a foreign file
            state = load_checkpoint(path) if path.exists() else None
        finished = resume and state and state['iteration'] == state['settings']['max_iters']
        if resume and rank == 0:
            found = 'finished, so it only samples (resume = False trains anew)' if finished else 'found, going on'
            print(f'{checkpoint.name}:', found if state else 'not there, starting afresh')
        model, exit_code = (load_model(), 0) if finished else train(state if resume else None)
        if rank == 0 and exit_code != 128 + signal.SIGTERM:
            print(prompt + sample(model, max_new_tokens))
        if world_size > 1:
            dist.destroy_process_group()
        sys.exit(exit_code)
    except (OSError, RuntimeError, MemoryError) as error:
        if any(words in repr(error) for words in ('MemoryError', 'out of memory', 'allocate')):  # torch has them all
            error = 'out of memory; lower batch_size, block_size, n_embd or n_layer, at the top of the file'
        elif 'state_dict' in str(error):
            error = f'the model in {checkpoint} is not the one that this file defines; set resume = False'
        elif not isinstance(error, OSError):
            raise
        sys.exit(f'gpt.py: {error}')
