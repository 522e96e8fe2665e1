"""A GPT in one file. It reads a text and learns to write like it, one character at a time.

    python gpt.py

trains on the plays in input.txt for a few minutes, on an ordinary CPU, and prints a sample.
Watch the loss fall from 4.3 (untrained) to about 1.5, as noise turns into dialogue.

Read it from top to bottom. Then change a number or a line, and run it again. Everything after
"The lesson ends here" is housekeeping. If all of this is new to you, start with bigram.py.

GPT is short for generative pre-trained transformer (Radford et al., 2018). The model follows
Andrej Karpathy's lecture "Let's build GPT".
"""

import copy
import inspect
import io
import math
import os
import re
import signal
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
from torch.nn import functional as F
from tqdm import tqdm

# ----------------------------------------------
# Hyperparameters
#
# These are the numbers we choose. (The numbers the model learns are its parameters.) Just skim
# them for now. If a line has two values, the first is for a CUDA GPU.

device = 'cuda' if torch.cuda.is_available() else 'cpu'  # or 'mps', a Mac's GPU
gpu = 'cuda' in str(device)

# the model
block_size = 256 if gpu else 64  # how many characters the model can see
n_embd = 384 if gpu else 128  # how many numbers describe each character
n_head = 6 if gpu else 4  # attention heads per block
n_layer = 6 if gpu else 2  # blocks
dropout = 0.2 if gpu else 0.0  # share of numbers zeroed at random in training

# training
max_iters = 2500 if gpu else 4000  # training steps
batch_size = 64 if gpu else 24  # pieces of text per step
learning_rate = 1e-3 if gpu else 4e-3  # roughly how far a step moves each parameter
warmup_iters = 100  # steps to ramp it up
weight_decay = 0.1 if gpu else 0.2  # how strongly parameters are pulled toward zero
grad_clip = 1.0  # cap on the length of the gradient
eval_interval = 250  # steps between evaluations
eval_iters = 200 if gpu else 25  # batches per estimate
seed = 1337  # same seed, same run (GPUs: nearly)

# the sample
prompt = ''  # how it begins
max_new_tokens = 500  # tokens that follow (ours are characters)
temperature = 0.8  # below 1 plays it safe, above 1 gets wild, 0 is never random
top_k = 0  # pick only from the k likeliest characters (0: from all)

# files, next to this one
text_path = 'input.txt'  # the text to learn from
checkpoint_path = 'gpt.pt'  # where the run is saved
resume = False  # True: continue the saved run

# speed
fast_attention = True  # compute all heads at once
# bfloat16 takes 16 bits per number, not 32. Less precise, but faster. (A T4 GPU lacks it.)
bfloat16 = torch.cuda.is_bf16_supported(False) if gpu else torch.cpu._is_avx512_bf16_supported()

# ----------------------------------------------
# The text, as numbers
#
# A model can only calculate, so each distinct character gets a number.

folder = Path(__file__).resolve().parent
try:
    text = (folder / text_path).read_text(encoding='utf-8-sig')
except (OSError, TypeError, ValueError) as error:
    sys.exit(f'cannot read text_path = {text_path!r} as UTF-8 text: {error}')

chars = sorted(set(text))  # the alphabet
vocab_size = len(chars)
char_to_index = {char: index for index, char in enumerate(chars)}
index_to_char = {index: char for index, char in enumerate(chars)}


def encode_string(s):
    """'hello' -> [46, 43, 50, 50, 53]"""
    return [char_to_index[char] for char in s]


def decode_list(l):
    """[46, 43, 50, 50, 53] -> 'hello'"""
    return ''.join([index_to_char[index] for index in l])


# This is torch.tensor(encode_string(text)), without building a long list.
data = torch.from_numpy(np.fromiter(map(char_to_index.get, text), np.int64, len(text)))

# The model learns from the first 90%. The rest is for validation: how well does the
# model do on text it has never seen?
n = int(0.9 * len(data))
train_data, val_data = data[:n], data[n:]


def get_batch(split, generator=None):
    """Random pieces of the text: inputs x and targets y, both (batch_size, block_size).

    y is x shifted by one, so y[b, t] is the character that follows x[b, 0], ..., x[b, t]:

        x[b]   F  i  r  s  t  _  C  i
        y[b]   i  r  s  t  _  C  i  t

    One piece holds block_size lessons, one for each length of context. (The generator supplies the
    random numbers.)
    """
    part = train_data if split == 'train' else val_data
    starts = torch.randint(len(part) - block_size, (batch_size,), generator=generator)
    x = torch.stack([part[i : i + block_size] for i in starts])
    y = torch.stack([part[i + 1 : i + block_size + 1] for i in starts])
    return x.to(device), y.to(device)


# ----------------------------------------------
# The model, a transformer
#
# A bigram model looks at one character and guesses the next. How can a model use everything
# that came before?
#
# First, every character becomes a vector: n_embd numbers that describe it, looked up in a
# learned table (an embedding). Then come the blocks. In each block, the vectors first gather
# information from one another (attention). Then each one works on what it found (feed-forward).
# Each block builds on the last. By the end, every vector has become a prediction of the next
# character. Nobody decides what these numbers mean. Training does.
#
# B is batch: how many pieces of text we process side by side. T is time: how many characters
# are in each, at most block_size. C is channels: the n_embd numbers of each character.
#
#     idx       (B, T)               the text, as numbers
#      |    token_embedding_table, position_embedding_table
#      x        (B, T, C)            a vector for each character
#      |    n_layer blocks, each    x = x + attention
#      |                            x = x + feed-forward
#      x        (B, T, C)            the vectors, now full of context
#      |    ln_f, lm_head
#     logits    (B, T, vocab_size)   scores for every possible next character


def attention(q, k, v, training=False):
    """Each character gathers information from itself and from the ones before it.

    Some matter more than others. So every character gets three vectors (made by Head, below).
    Its query says what it is looking for. Its key says what it has to offer. Its value is the
    information itself. The better a query matches a key, the more weight that key's value
    gets. For the text "the", the weights might be

                      t     h     e
        t looks at   1.0    .     .     only itself
        h looks at   0.4   0.6    .
        e looks at   0.1   0.7   0.2    mostly h

    q, k, v and the result are all (..., T, head_size): head_size numbers per character.
    (Here, ... stands for B, or for B and n_head.)

    (Vaswani et al., "Attention Is All You Need", 2017)
    """
    T, head_size = q.shape[-2:]

    # How well does each query match each key? Take the dot product: multiply them number by
    # number and add it all up. Signs partly cancel, so the sum grows like sqrt(head_size), and
    # we divide by that. Otherwise softmax, below, would give one character nearly all the weight.
    scores = q @ k.transpose(-2, -1) / math.sqrt(head_size)  # (..., T, T)

    # No looking ahead: the later characters are the answers. A score of minus infinity becomes
    # a weight of 0.
    later = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(diagonal=1)  # (T, T)
    scores = scores.masked_fill(later, float('-inf'))

    # Softmax turns each row of scores into weights that sum to 1. It takes exp(score), which is
    # never negative, and divides by the row's sum.
    weights = F.softmax(scores, dim=-1)  # (..., T, T)

    # In training, dropout zeroes some weights at random and scales up the rest to match. A
    # model that can't rely on any one number has a harder time memorizing the text.
    weights = F.dropout(weights, dropout, training)

    # Each character gets a weighted average of the values.
    return weights @ v  # (..., T, T) @ (..., T, head_size) -> (..., T, head_size)


class Head(nn.Module):
    """One attention head: (B, T, C) -> (B, T, head_size).

    nn.Linear(n, m) multiplies by a matrix of parameters: n numbers in, m numbers out, for each
    character on its own. (Most also add m parameters, a bias. These three don't.)
    """

    def __init__(self, head_size):
        super().__init__()
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)

    def forward(self, x):
        k = self.key(x)  # (B, T, head_size)
        q = self.query(x)  # (B, T, head_size)
        v = self.value(x)  # (B, T, head_size)
        return attention(q, k, v, self.training)  # .training: is dropout on?


class MultiHeadAttention(nn.Module):
    """Several heads, each looking for something different: (B, T, C) -> (B, T, C).

    Each gives head_size = C / num_heads numbers per character. Side by side, they make C again.
    """

    def __init__(self, num_heads, head_size):
        super().__init__()
        self.heads = nn.ModuleList([Head(head_size) for _ in range(num_heads)])
        self.proj = nn.Linear(num_heads * head_size, n_embd)  # mixes what the heads found
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        if fast_attention:
            out = all_heads_at_once(self.heads, x)  # the same math as below, but faster
        else:
            out = torch.cat([head(x) for head in self.heads], dim=-1)  # (B, T, C)
        return self.dropout(self.proj(out))


class FeedForward(nn.Module):
    """Each character, on its own, works on what it gathered: (B, T, C) -> (B, T, C).

    Attention only averages. These layers, run in order, compute something new from that.
    """

    def __init__(self, n_embd):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),
            nn.ReLU(),  # max(0, x). Without it, two Linears could do no more than one.
            nn.Linear(4 * n_embd, n_embd),
            nn.Dropout(dropout),
        )

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    """Attention, then feed-forward: (B, T, C) -> (B, T, C).

    Both halves add their result to x instead of replacing it (a residual connection), so a
    block only has to learn what to change. And loss.backward() passes gradients through a sum
    unchanged, so they don't fade on their way back.

    Both halves read x through a layer norm. It brings each vector to mean 0 and variance 1, then
    scales and shifts it by learned numbers. So what they see keeps its size, however x grows.
    """

    def __init__(self, n_embd, n_head):
        super().__init__()
        self.sa = MultiHeadAttention(n_head, n_embd // n_head)  # self-attention
        self.ffwd = FeedForward(n_embd)
        self.ln1 = nn.LayerNorm(n_embd)
        self.ln2 = nn.LayerNorm(n_embd)

    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        x = x + self.ffwd(self.ln2(x))
        return x


class GPTLanguageModel(nn.Module):
    """The whole model. At each character, it scores every possible next one."""

    def __init__(self):
        super().__init__()
        # A vector for each character of the alphabet, and one for each position in a piece.
        # Attention takes averages, which ignore order. So we add the position's vector.
        self.token_embedding_table = nn.Embedding(vocab_size, n_embd)
        self.position_embedding_table = nn.Embedding(block_size, n_embd)
        self.blocks = nn.Sequential(*[Block(n_embd, n_head) for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd)  # f for final
        self.lm_head = nn.Linear(n_embd, vocab_size)  # from a vector to scores
        self.apply(self.init_weights)

    def init_weights(self, module):
        """Start small and random, so that all characters look about equally likely."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.5 / math.sqrt(n_embd))

    # With bfloat16 on, torch uses 16-bit numbers in here, wherever that is safe.
    @torch.autocast('cuda' if gpu else 'cpu', dtype=torch.bfloat16, enabled=bfloat16)
    def forward(self, idx, targets=None):
        """idx, targets (B, T) -> logits (B, T, vocab_size), loss (None without targets).

        Logits are scores. Softmax turns them into probabilities. The loss (cross-entropy) is
        the mean of -ln(p), where p is the probability given to the actual next character. It
        is 0 if sure and right, ln(vocab_size) if undecided, and huge if sure and wrong.
        """
        T = idx.shape[1]
        tok_emb = self.token_embedding_table(idx)  # (B, T, C)
        pos_emb = self.position_embedding_table(torch.arange(T, device=idx.device))  # (T, C)
        x = tok_emb + pos_emb  # (B, T, C)
        x = self.blocks(x)  # (B, T, C)
        x = self.ln_f(x)
        logits = self.lm_head(x)  # (B, T, vocab_size)

        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=0, generator=None):
        """Continue the text: idx (B, T) -> (B, T + max_new_tokens)."""
        for _ in range(max_new_tokens):
            # What may come next? (The model sees at most block_size characters.)
            logits, _ = self(idx[:, -block_size:])
            logits = logits[:, -1].float()  # (B, vocab_size), in 32 bits again

            # Rule out every character that scores below the k-th best.
            if top_k > 0:
                best = logits.topk(min(top_k, vocab_size)).values  # (B, k), best first
                logits = logits.masked_fill(logits < best[:, -1:], float('-inf'))

            # Pick the likeliest, or pick one at random by its probability. A temperature below 1
            # widens the gaps between scores, so that likely characters get even likelier.
            if temperature == 0:
                idx_next = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
            else:
                probs = F.softmax(logits / temperature, dim=-1)  # (B, vocab_size)
                idx_next = torch.multinomial(probs, num_samples=1, generator=generator)  # (B, 1)

            idx = torch.cat((idx, idx_next), dim=1)  # (B, T + 1)
        return idx


def sample(model, length):
    """A string of `length` characters that the model writes after the prompt."""
    start = encode_string(prompt) or [0]  # no prompt: start from character 0, often a newline
    idx = torch.tensor([start], device=device)
    generator = torch.Generator(device).manual_seed(seed)  # the same random choices every time
    model.eval()  # turns dropout off
    idx = model.generate(idx, length, temperature, top_k, generator)
    return decode_list(idx[0, len(start) :].tolist())


# ----------------------------------------------
# Training
#
# Show the model some text, measure how wrong it is, and move every parameter a little in
# the direction that makes it less wrong. Do that a few thousand times.


def learning_rate_at(step):
    """Fall in a straight line to 0. But start gently, while the gradients are wild."""
    warmup = min(1.0, (step + 1) / (warmup_iters + 1))
    decay = 1 - step / max_iters
    return learning_rate * warmup * decay


def learn(model, optimizer, step):
    """Take one training step."""
    for group in optimizer.param_groups:
        group['lr'] = learning_rate_at(step)
    model.train()  # turns dropout on
    x, y = get_batch('train')
    logits, loss = model(x, y)  # how wrong is it?
    optimizer.zero_grad()  # forget the last gradient
    loss.backward()  # compute a new one: how fast does the loss rise with each parameter?
    nn.utils.clip_grad_norm_(model.parameters(), grad_clip)  # don't let one odd batch dominate
    optimizer.step()  # move every parameter a little, downhill


@torch.no_grad()
def estimate_loss(model):
    """The mean loss on each part of the text. Always on the same batches, to be fair."""
    model.eval()  # turns dropout off
    losses = {}
    for split in ['train', 'val']:
        generator = torch.Generator().manual_seed(seed)
        total = 0.0
        for _ in range(eval_iters):
            x, y = get_batch(split, generator)
            logits, loss = model(x, y)
            total += loss.item()
        losses[split] = total / eval_iters
    return losses


def evaluate(step, model, optimizer, best):
    """Score the model on unseen text. Keep a copy of the best parameters, save, and report."""
    losses = estimate_loss(model)
    if losses['val'] < best['loss']:
        parameters = copy.deepcopy(model.state_dict())
        best.update(loss=losses['val'], step=step, parameters=parameters)
    save_run(step, model, optimizer, best, losses['val'])
    report(step, losses, sample(model, 60))


def train():
    """Train a new model, or continue the saved run."""
    torch.manual_seed(seed)
    model = GPTLanguageModel().to(device)

    # AdamW (Loshchilov & Hutter, 2019) averages each parameter's recent gradients (betas: how
    # recent) and divides by their usual size. So it moves each parameter by at most about the
    # learning rate, steep or flat. It also pulls each toward zero, so none grows for no reason.
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )

    step, best = start_or_resume(model, optimizer)  # a new run starts at 0
    network = distribute(model)  # just the model, unless several GPUs share the work
    bar = progress_bar(step)

    while step < max_iters and not interrupts:  # until done, or Ctrl-C
        if step % eval_interval == 0:
            evaluate(step, model, optimizer, best)
        learn(network, optimizer, step)
        step += 1
        bar.update()

    bar.close()
    if step == max_iters:
        evaluate(step, model, optimizer, best)
        model.load_state_dict(best['parameters'])  # the best, not the last
    else:
        save_run(step, model, optimizer, best)
    report_end(step, best)
    return model


# That's all. Now change something: n_head = 1, or no pos_emb, or no "x +" in Block. Guess the
# loss first.

# ----------------------------------------------
# The lesson ends here
#
# The rest shares the work, prints, speeds up attention, saves, resumes, and checks settings.


# torchrun starts this file several times: one process per GPU, or several on a CPU.
rank = int(os.environ.get('RANK', 0))
world_size = int(os.environ.get('WORLD_SIZE', 1))
restarts = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0))


def join_processes():
    """Connect this process to the others."""
    if gpu:
        torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
    # A prefix hides the addresses of processes that died before a restart.
    store, _, _ = next(torch.distributed.rendezvous('env://'))
    store = torch.distributed.PrefixStore(f'attempt {restarts}', store)
    torch.distributed.init_process_group(store=store, rank=rank, world_size=world_size)


class Copy(nn.parallel.DistributedDataParallel):
    """One process's copy of the model. It takes its part of a batch. Gradients are averaged."""

    def forward(self, x, y):
        return super().forward(x[rank::world_size], y[rank::world_size])


def distribute(model):
    """If there are several processes, share the work."""
    return Copy(model) if world_size > 1 else model


def say(line, file=None):
    """Print a line, from one process only, without breaking the progress bar."""
    if rank > 0:
        return
    try:
        tqdm.write(line, file=file)
    except OSError:  # a full disk or a closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), (file or sys.stdout).fileno())


def progress_bar(step):
    """A bar, in terminals only."""
    disable = True if rank > 0 else None
    return tqdm(total=max_iters, initial=step, leave=False, disable=disable)


def report(step, losses, line):
    """Print the losses, and a sample of what the model writes now."""
    start = f'step {step}: train loss {losses["train"]:.4f}, val loss {losses["val"]:.4f}'
    say(f'{start}  ({step / max_iters:.0%}, {time.time() - began:.0f} s)')
    say(f'    {line!r}')


def report_end(step, best):
    """Print how training ended."""
    if step == max_iters:
        seconds = time.time() - began
        say(f'best val loss {best["loss"]:.4f} at step {best["step"]}, {seconds:.0f} seconds\n')
    else:
        hint = 'not saved' if save_errors else 'to resume, set resume = True'
        say(f'stopped at step {step}: {hint}\n')


def fail(message):
    """End the program with one clear line."""
    say(f'gpt.py: {message}'.partition('\n')[0], file=sys.stderr)
    sys.exit(1)


def all_heads_at_once(heads, x):
    """torch.cat([head(x) for head in heads], dim=-1), in fewer, larger steps."""
    B, T, C = x.shape

    def project(layers):
        weight = torch.cat([layer.weight for layer in layers])
        return F.linear(x, weight).view(B, T, len(layers), -1).transpose(1, 2)

    q = project([head.query for head in heads])  # (B, n_head, T, head_size)
    k = project([head.key for head in heads])
    v = project([head.value for head in heads])
    training = heads[0].training
    if gpu:  # torch's own, which needs less memory
        p = dropout if training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
    else:
        out = attention(q, k, v, training)
    return out.transpose(1, 2).reshape(B, T, -1)  # (B, T, C)


def heads_were_edited():
    """Whether attention or the heads differ from the originals."""
    parts = [attention, Head.__init__, Head.forward]
    parts += [MultiHeadAttention.__init__, MultiHeadAttention.forward]
    try:
        source = ''.join(map(inspect.getsource, parts))
    except (OSError, TypeError):  # typed into a shell, perhaps
        source = ''
    return zlib.crc32(source.encode()) != 0x7944C7A9


if fast_attention and heads_were_edited():  # then your version is what runs
    fast_attention = False
    say('attention, Head or MultiHeadAttention was edited, so the heads run one by one')


interrupts = []  # signals received: SIGINT (Ctrl-C) or SIGTERM


def on_interrupt(number, frame):
    """Finish this step, save, and stop. The second time, quit at once."""
    if interrupts:
        sys.exit(128 + number)
    interrupts.append(number)


checkpoint = Path(folder, str(checkpoint_path))
temporary = Path(f'{checkpoint}.tmp')
shape = {'block_size': block_size, 'n_embd': n_embd, 'n_head': n_head, 'n_layer': n_layer}
shape['alphabet'] = ''.join(chars)
exam = f'{seed} {eval_iters} {batch_size} {block_size} {zlib.crc32(data.numpy())}'
save_errors = []  # why the last save failed, if it did


def start_or_resume(model, optimizer):
    """Return the number of steps done, and the best model so far. Settings stay this file's."""
    global began
    began = time.time()
    count = sum(p.numel() for p in model.parameters())
    say(f'learning from {text_path}: {len(text):,} characters, {vocab_size} distinct')
    say(f'model: {count:,} parameters, {16 if bfloat16 else 32}-bit math on {device}')
    step, best = 0, {'loss': math.inf, 'parameters': model.state_dict()}

    if (resume or restarts > 0) and checkpoint.exists():
        state = read_checkpoint()
        step = state['step']
        model.load_state_dict(state['model'])
        settings = optimizer.state_dict()['param_groups']
        optimizer.load_state_dict({**state['optimizer'], 'param_groups': settings})
        torch.set_rng_state(state['random'])
        torch.cuda.set_rng_state_all(state['random_gpus'][: torch.cuda.device_count()])
        if state['exam'] == exam:  # else it was scored on other batches
            best = state['best']
        say(f'resuming {checkpoint.name} at step {step}')
    elif rank == 0:
        try:
            temporary.touch()
            temporary.unlink()
            if checkpoint.exists():
                previous = checkpoint.replace(checkpoint.with_stem(f'{checkpoint.stem}-previous'))
                say(f'the last run is now {previous.name}')
            elif resume:
                say(f'no {checkpoint.name} to resume: starting a new run')
        except OSError as error:
            fail(f'{checkpoint_path=} cannot be written: {error}')
    return step, best


def save_run(step, model, optimizer, best, loss=0.0):
    """Save all we need to resume. The new file takes the old one's place once it is complete."""
    if not math.isfinite(loss) or not all(p.isfinite().all() for p in model.parameters()):
        fail(f'the numbers blew up by step {step}. Is {learning_rate=} too high?')
    if rank > 0:
        return
    if step < min(100, eval_interval, max_iters):  # perhaps begun by mistake
        save_errors[:] = ['too early']
        return

    state = {
        'shape': shape,
        'exam': exam,
        'step': step,
        'best': best,
        'model': model.state_dict(),
        'optimizer': optimizer.state_dict(),
        'random': torch.get_rng_state(),
        'random_gpus': torch.cuda.get_rng_state_all(),
    }

    buffer = io.BytesIO()
    torch.save(state, buffer)
    save_errors.clear()

    try:
        try:
            with open(temporary, 'wb') as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(checkpoint)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        save_errors.append(error)
        say(f'gpt.py: step {step} could not be saved: {error}', file=sys.stderr)


def read_checkpoint():
    """Load what save_run saved. weights_only refuses code from a stranger's file."""
    try:
        damaged = zipfile.ZipFile(checkpoint).testzip()  # torch does not verify checksums
        if damaged:
            raise ValueError(f'{damaged} is damaged')
        state = torch.load(checkpoint, map_location='cpu', weights_only=True)
        theirs = dict(state['shape'])
    except Exception as error:
        fail(f'{checkpoint} cannot be used: {type(error).__name__}: {error}')
    differ = [f'{name} = {theirs.get(name)!r}' for name in shape if theirs.get(name) != shape[name]]
    if differ:
        fail(f'the model in {checkpoint.name} does not fit. It has {"; ".join(differ)}')
    return state


def load_model():
    """The best model. In a notebook: import gpt; model = gpt.load_model()"""
    model = GPTLanguageModel().to(device)
    model.load_state_dict(read_checkpoint()['best']['parameters'])
    return model.eval()


def check_settings():
    """Stop at the first setting that can't work."""
    counts = 'block_size n_embd n_head n_layer batch_size max_iters eval_interval eval_iters'
    for names, kind, least, most in [
        (counts, int, 1, 10**9),
        ('warmup_iters max_new_tokens top_k seed', int, 0, 10**9),
        ('learning_rate weight_decay temperature', float, 0, 10**9),
        ('grad_clip', float, 1e-9, 10**9),
        ('dropout', float, 0, 0.99),
        ('resume fast_attention bfloat16', bool, False, True),
    ]:
        for name in names.split():
            value = globals()[name]
            fits = type(value) is kind or (kind is float and type(value) is int)
            if not fits or not least <= value <= most:
                fail(f'{name} = {value!r}: it must be {kind.__name__}, from {least} to {most}')

    if n_embd % n_head != 0:
        fail(f'{n_embd=} must be a multiple of {n_head=}')
    if batch_size % world_size != 0:
        fail(f'{batch_size=} must divide evenly among {world_size} processes')
    if type(prompt) is not str or not set(prompt) <= set(chars):
        fail(f'{prompt=} must be a string of characters from {text_path}')
    if checkpoint.suffix != '.pt' or os.path.isdir(checkpoint):
        fail(f'{checkpoint_path=} must be a file name ending in .pt')
    if len(val_data) <= block_size:
        fail(f'{text_path} is too short: its last tenth must be longer than {block_size=}')
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:
        fail(f'{device=} cannot be used here: {error}')


def main():
    """Train, unless that is done already, then print a sample."""
    if hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(encoding='utf-8', errors='replace', line_buffering=True)
    check_settings()
    signals = [signal.SIGINT, signal.SIGTERM]
    if world_size > 1:
        join_processes()
        signals = []  # up to torchrun

    interrupts.clear()
    handlers = {number: signal.signal(number, on_interrupt) for number in signals}
    try:
        steps = read_checkpoint()['step'] if resume and checkpoint.exists() else 0
        if steps < max_iters:
            model = train()
        else:
            model = load_model()
            say(f'{checkpoint.name} has {steps} steps. To train further, raise {max_iters=}\n')
    except (MemoryError, RuntimeError) as error:
        if not re.search('MemoryError|bad_alloc|(out of|allocate|not enough) memory', repr(error)):
            raise
        fail('out of memory: try a smaller batch_size, block_size, n_embd or n_layer')
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    say(prompt + sample(model, max_new_tokens))
    if world_size > 1:
        torch.distributed.destroy_process_group()
    if interrupts:
        sys.exit(128 + interrupts.pop())
    if save_errors:
        sys.exit(1)


if __name__ == '__main__':
    if sys.argv[1:]:
        sys.exit(f'{__doc__}\nThere are no options. Edit the lines at the top of gpt.py.')
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
