"""A GPT in one file. It reads a text and learns to write in its style, one character at a time.

    python gpt.py

This trains a model on the plays in input.txt (a few minutes on two CPU cores) and prints a sample.
Watch the val loss fall from 4.3 (random scores; equal ones give 4.17) to 1.5, as noise turns into
dialogue.

Start with bigram.py, which explains the basics of PyTorch and how a model learns. Then read this
file from top to bottom.

GPT stands for generative pre-trained transformer (after Radford et al., 2018): it generates text,
and it learns from plain text before any training for a task, such as answering questions. (Most
chatbots are over 10,000 times larger, and use longer tokens.) A transformer stacks layers
(functions, most with parameters). Its heart is attention: here, each character gathers clues from
itself and earlier ones. We follow Andrej Karpathy's lecture "Let's build GPT."
"""

import math
import os
import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
from torch.nn import functional as F
from tqdm import tqdm

# ----------------------------------------------
# Hyperparameters
#
# Skim this list. Most settings are explained where they are used.

# the model
block_size = 64  # the longest context, in characters
n_embd = 128  # how many numbers describe each character
n_head = 2  # attention heads per block
n_layer = 2  # blocks of layers (unrelated to block_size)
dropout = 0.0  # share of numbers zeroed at random in training (against memorizing)

# training
max_iters = 3200  # training steps (about six times through the text)
batch_size = 32  # pieces of text per step
learning_rate = 4e-3  # how far a steady slope moves a parameter
warmup_iters = 100  # steps over which the learning rate ramps up
weight_decay = 0.2  # how strongly parameters are pulled toward zero
grad_clip = 1.0  # the longest gradient allowed (see learn)
eval_interval = 500  # steps between evaluations
eval_size = 130_000  # an evaluation reads at most about this many characters of each part
seed = 1337  # the same seed repeats all random choices

# the sample
prompt = ''  # how it begins
max_new_tokens = 500  # how much to write (a token is a character here)
temperature = 0.8  # below 1, the likeliest character gains; above 1, it loses

# files, next to this one
text_path = 'input.txt'  # the text to learn from
checkpoint_path = 'gpt.pt'  # where the run is saved
resume = False  # True: continue the saved run (if finished, evaluate and sample)

# the hardware
device = 'cuda' if torch.cuda.is_available() else 'cpu'  # a CUDA GPU, if there is one
bfloat16 = True  # 16-bit numbers, where we know them to be fast; less precise

# For a GPU: a model 26 times this size (three minutes on an H200). To try it, uncomment this.
# block_size, n_embd, n_head, n_layer, dropout = 256, 384, 6, 6, 0.2
# batch_size, max_iters, learning_rate, weight_decay = 64, 2500, 1e-3, 0.1

# ----------------------------------------------
# The text, as numbers
#
# A model can only compute with numbers, so we give each distinct character a number.

folder = Path(__file__).resolve().parent
text = (folder / text_path).read_text(encoding='utf-8-sig')  # sig: skip the mark some editors add

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


data = torch.tensor(encode_string(text))

# The model learns from the first 90% of the text. The rest is for validation: how well does the
# model do on text that it has not learned from? One that merely memorized the first part would do
# badly on the rest.
n = int(0.9 * len(data))
train_data, val_data = data[:n], data[n:]
assert len(val_data) > block_size, f'{text_path} is too short for {block_size=}'
assert set(prompt) <= set(chars), f'{prompt=} has characters that do not occur in {text_path}'
assert n_embd % n_head == 0, f'{n_embd=} must be a multiple of {n_head=}'
assert grad_clip > 0 and temperature > 0, f'{grad_clip=} and {temperature=} must be above 0'


def get_batch(part):
    """Random pieces of the text: inputs x and targets y, both (batch_size, block_size).

    y[b, t] is the character that follows x[b, : t + 1]. (_ is a space.)

        x[b]   F  i  r  s  t  _  C  i  ...
        y[b]   i  r  s  t  _  C  i  t  ...

    So one piece poses block_size questions, one for each length of context.
    """
    starts = torch.randint(len(part) - block_size, (batch_size,))
    x = torch.stack([part[i : i + block_size] for i in starts])
    y = torch.stack([part[i + 1 : i + block_size + 1] for i in starts])
    return x.to(device), y.to(device)


# ----------------------------------------------
# The model, a transformer
#
# The guess is computed from the context, with parameters that all contexts share. First, every
# character becomes a vector: n_embd numbers (an embedding) that say which character it is (an index
# is only a label) and where it stands. Then come the blocks. In each, every vector gathers
# information from itself and the vectors before it (attention), and is then transformed on its own
# (feed-forward). Finally, a layer turns each vector into scores, one per possible next character.
#
# Nobody decides what a vector's numbers mean. Training makes them mean whatever helps the guess.
#
# Comments use three letters for the shapes of tensors (arrays). B (batch) is the number of pieces
# of text side by side. T (time) is the number of characters in each, at most block_size. C
# (channels) is n_embd: numbers per vector.
#
#     idx       (B, T)               the text, as numbers
#      |    token_embedding_table, position_embedding_table
#      x        (B, T, C)            a vector for each character
#      |    n_layer blocks, each    x = x + attention(norm(x))
#      |                            x = x + feed-forward(norm(x))  (norm: see Block)
#      x        (B, T, C)            the vectors, with all that has been added
#      |    a last norm, and lm_head
#     logits    (B, T, vocab_size)   a score for every possible next character


class Head(nn.Module):
    """One attention head: each vector gathers information from itself and the vectors before it.

    (B, T, C) -> (B, T, head_size)

    Three matrices of parameters turn each vector into three new ones, whose head_size numbers are
    weighted sums of the old. The query says what the character is looking for, the key says how it
    can be found, and the value is what it passes on. For example, take a head with head_size = 3
    that tells a character its predecessor's kind. A key says where its character stands, and a
    value says whether it is a vowel, a consonant, or a space. In "cat", t's vector has a 1 for
    "third", which the query matrix turns into a 6 for "second": (0, 6, 0). The dot product of query
    and key measures how well they match: multiply entry by entry and add up.

             key         query . key   / sqrt(3)   softmax   value
        c   (1, 0, 0)         0            0         0.03    (0, 1, 0)
        a   (0, 1, 0)         6           3.5        0.94    (1, 0, 0)
        t   (0, 0, 1)         0            0         0.03    (0, 1, 0)

        result for t: 0.03 * (0, 1, 0) + 0.94 * (1, 0, 0) + 0.03 * (0, 1, 0) = (0.94, 0.06, 0)

    So t is told that a vowel came before it. (forward explains / sqrt(3).) Why three matrices? If
    keys used the query matrix, t's key would be (0, 6, 0), too: t would match itself. And values
    are not keys: t is told a kind, not a position.

    (Vaswani et al., "Attention Is All You Need", 2017)
    """

    def __init__(self, head_size):
        super().__init__()
        # nn.Linear(n, m) multiplies each vector by a matrix of parameters: n numbers become m
        # weighted sums. Then it adds m more parameters, the bias, unless told not to (as here).
        self.query = nn.Linear(n_embd, head_size, bias=False)
        self.key = nn.Linear(n_embd, head_size, bias=False)
        self.value = nn.Linear(n_embd, head_size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        T = x.shape[1]
        q = self.query(x)  # (B, T, head_size)
        k = self.key(x)  # (B, T, head_size)
        v = self.value(x)  # (B, T, head_size)

        # A query's dot product with a key is a sum of n = head_size products. As matrices start
        # random, the products have random signs and partly cancel: for two, (a + b)**2 is a**2 +
        # b**2 on average, as 2*a*b averages 0. So the sum's square grows like n, its size like
        # sqrt(n). We divide by that, or larger heads would start with larger scores. If a few
        # scores are far above the rest, softmax gives them most of the weight. Then each character
        # would start with a random few, and nudging the other scores would change little.
        scores = q @ k.mT / math.sqrt(k.shape[-1])  # (B, T, T): all query . key (mT: transposed)

        # No looking ahead, or a position could copy its target. (The first sees only itself.) Each
        # guesses as if the piece ended there, so one pass answers all of a piece's questions.
        # Scores above the diagonal (triu: upper triangle) become -inf, and their weights 0. (There
        # are T * T scores, so long contexts are costly.)
        later = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(diagonal=1)  # (T, T)
        scores = scores.masked_fill(later, float('-inf'))

        # Softmax turns each row of scores into weights of an average: from 0 to 1, with a sum of 1.
        weights = F.softmax(scores, dim=-1)  # (B, T, T)

        # In training only, dropout (if not 0.0) sets some numbers to 0 at random and scales the
        # others up, so that sums stay the same on average (Srivastava et al., 2014). A guess that
        # needs every detail of a memorized passage then often fails for lack of one. So training
        # favors guesses from several clues, none vital.
        weights = self.dropout(weights)

        # Each character gets a weighted sum of the values.
        return weights @ v  # (B, T, T) @ (B, T, head_size) -> (B, T, head_size)


class MultiHeadAttention(nn.Module):
    """Several heads side by side: (B, T, C) -> (B, T, C).

    A head has one row of weights for each character. If the t of "cat" needs to know the character
    before it and also the first in its word, one row could put half its weight on each. But then t
    would get the average of two values, and might not know which is which. With two heads, it gets
    both, side by side. The heads start out with different random matrices, so they can learn to
    look for different things. Each returns n_embd / n_head numbers per character, so more heads
    cost no more parameters.
    """

    def __init__(self, num_heads, head_size):
        super().__init__()
        # (nn.Module finds no parameters in a plain list.)
        self.heads = nn.ModuleList([Head(head_size) for _ in range(num_heads)])
        # This lets each head add to all of x (see Block), not only to its own part.
        self.proj = nn.Linear(num_heads * head_size, n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        out = torch.cat([head(x) for head in self.heads], dim=-1)  # (B, T, num_heads * head_size)
        return self.dropout(self.proj(out))


class FeedForward(nn.Module):
    """Each vector is transformed on its own: (B, T, C) -> (B, T, C).

    Attention gathers clues in a vector. Here they are combined. Suppose a vector holds a number h,
    which is 1 if the character is an "h" and 0 if not, and a number t, which is 1 after a "t". The
    first layer and ReLU can compute max(0, h + t - 1), where -1 is a bias: 1 for "th", else 0. (A
    weighted sum cannot do that.) The second layer turns such findings into new information: "expect
    an e".
    """

    def __init__(self, n_embd):
        super().__init__()
        # nn.Sequential runs these one after another. ReLU is max(0, x). Without it, two linear
        # layers could do no more than one, as weighted sums of weighted sums are weighted sums.
        self.net = nn.Sequential(
            nn.Linear(n_embd, 4 * n_embd),  # many detectors
            nn.ReLU(),
            nn.Linear(4 * n_embd, n_embd),
            nn.Dropout(dropout),
        )

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    """Attention, then feed-forward: (B, T, C) -> (B, T, C).

    Each half adds its result to x instead of replacing x (a residual connection; He et al., 2015).
    So whatever has been found stays in x unless a later half removes it. Adding also helps the
    slopes: on the way back, the chain rule multiplies them by each layer's derivative. For a single
    number x, the derivative of x + f(x) is 1 + f'(x). The 1 lets the slope through, however small
    f' is. Without the 1, ten layers with f' = 0.1 would shrink it ten-billionfold.

    But adding also changes the size of the numbers in x. If they double, so do weighted sums of
    them, such as queries and keys. Scores grow fourfold, and softmax may give one character all the
    weight. So each half, and the last layer, reads x through a layer norm (Ba et al., 2016). It
    subtracts each vector's mean (customary) and divides by its standard deviation, so sizes are
    about 1. Then it multiplies each number by its own parameter and adds another: training, not x,
    sets the scale.
    """

    def __init__(self, n_embd, n_head):
        super().__init__()
        self.ln1 = nn.LayerNorm(n_embd)  # layer norm
        self.sa = MultiHeadAttention(n_head, n_embd // n_head)  # self-attention
        self.ln2 = nn.LayerNorm(n_embd)
        self.ffwd = FeedForward(n_embd)

    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        x = x + self.ffwd(self.ln2(x))
        return x


class GPTLanguageModel(nn.Module):
    """The whole model. At each position, it scores every possible next character."""

    def __init__(self):
        super().__init__()
        # A head's weights come from the vectors, and an average does not depend on order. So
        # without positions, block 1 would give the t of "cat" and of "act" the same vector. Each
        # position therefore gets a vector, added to the character's. Adding need not lose anything:
        # training can reserve, say, half the numbers for each. Then a key can encode a position, as
        # in Head, and a query can ask for it.
        self.token_embedding_table = nn.Embedding(vocab_size, n_embd)
        self.position_embedding_table = nn.Embedding(block_size, n_embd)

        # Why several blocks? Suppose a piece ends in "Wol", and its only other l is in "Wolmer". In
        # the first block, the m can gather that an l came before it. In the second, m's key can say
        # "after an l" and its value "m". The final l's query can seek such keys, so the l can
        # predict m (an induction head; Elhage et al., 2021). In a single block, the m's key is made
        # before the m has gathered anything.
        self.blocks = nn.Sequential(*[Block(n_embd, n_head) for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_embd)  # f: final
        self.lm_head = nn.Linear(n_embd, vocab_size)  # lm: language model
        self.apply(self.init_weights)  # on every part of the model

    def init_weights(self, module):
        """Draw random matrices. (From equal numbers, heads would get equal slopes and stay equal.)

        A sum of C products grows like sqrt(C) (see Head). If inputs have size 1, parameters of size
        (standard deviation) 1 / sqrt(C) give sums of size 1. We halve that: best in trials.
        """
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.5 / math.sqrt(n_embd))

    def forward(self, idx, targets=None):
        """idx, targets (B, T) -> logits (B, T, vocab_size), loss (None without targets).

        The loss (cross-entropy) is the mean of -ln(probability of the target), as in bigram.py.
        """
        T = idx.shape[1]
        assert T <= block_size, f'{T} characters are more than {block_size=}'
        tok_emb = self.token_embedding_table(idx)  # (B, T, C)
        pos_emb = self.position_embedding_table(torch.arange(T, device=idx.device))  # (T, C)
        x = tok_emb + pos_emb  # (B, T, C): adds pos_emb to each piece
        x = self.blocks(x)  # (B, T, C)
        x = self.ln_f(x)  # (B, T, C)
        logits = self.lm_head(x)  # (B, T, vocab_size)

        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, generator=None):
        """Continue the pieces: idx (B, T) -> (B, T + max_new_tokens)."""
        for _ in range(max_new_tokens):
            logits, _ = self(idx[:, -block_size:])  # it sees at most block_size characters
            logits = logits[:, -1]  # (B, vocab_size): what may come after the last one?

            # A temperature below 1 widens the gaps between the logits: fewer slips, less variety.
            probs = F.softmax(logits / temperature, dim=-1)  # (B, vocab_size)
            idx_next = torch.multinomial(probs, num_samples=1, generator=generator)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T + 1)
        return idx


def sample(model, length):
    """A string of `length` characters that the model writes after the prompt."""
    model.eval()  # turns dropout off
    start = encode_string(prompt) or [0]  # no prompt: character 0, the line break in most texts
    idx = torch.tensor([start], device=device)
    # The same random numbers every time, so that samples differ only because of training.
    generator = torch.Generator(device).manual_seed(seed)
    idx = model.generate(idx, length, temperature, generator)
    return decode_list(idx[0, len(start) :].tolist())


# ----------------------------------------------
# Training
#
# Again and again: show the model some text, measure the loss, and move the parameters to lower it.
# In bigram.py, moves are proportional to slopes, so the rows of rare characters lag. Here, slopes
# can differ 100-fold between layers, so some would lag. Adam (Kingma & Ba, 2015) divides each
# slope's recent mean by its recent size; AdamW (Loshchilov & Hutter, 2019) also shrinks p. Each
# parameter p, with slope g, has two running averages:
#
#     mean   = 0.9 * mean + 0.1 * g           the slope, averaged over about 10 steps
#     square = 0.99 * square + 0.01 * g**2    its average square, over about 100
#     p = p - learning_rate * weight_decay * p
#     p = p - learning_rate * mean / sqrt(square)
#
# If g is always 2, the mean becomes 2 and the square 4, so p moves by learning_rate in each step.
# If g is always 0.002, p moves just as far. But if g alternates between 2 and -2, the square is
# still 4, while the mean swings between 0.1 and -0.1 (0.9 * -0.1 + 0.1 * 2 is about 0.1). So p
# moves about a twentieth as far, back and forth: pushes that disagree mostly cancel. (Left out:
# both averages are corrected for starting at 0, and 1e-8 is added to the root, so slopes that
# vanish (see Block) move p less.)
#
# The third line, weight decay (weight: a parameter), takes up to 0.08% off every p in each step. So
# p stays large only if slopes keep pushing it. That often helps on new text; why is debated. (Here,
# without decay, the train loss is 0.01 lower, but the val loss 0.01 to 0.02 higher.)


def learning_rate_at(step):
    """The rate falls to 0, or batch quirks would keep moving the parameters.

    But first it ramps up. In step 0, mean / sqrt(square) is 1 or -1: nothing cancels yet. At the
    full rate, p would move by 0.004, a tenth of most p's size (see init_weights). Within 50 steps,
    queries would double in size, and late in a piece, 1 to 5 characters would get half of a head's
    weight (with the ramp, over 10): too early to know which. Partly because of this, the val loss
    would end 0.05 higher.
    """
    warmup = min(1.0, (step + 1) / (warmup_iters + 1))
    decay = 1 - step / max_iters
    return learning_rate * warmup * decay


# (Skim.) `with autocast` does matrix products (most of the work) in 16 bits, if wanted and fast.
if 'cuda' in device:
    fast = torch.cuda.is_bf16_supported(including_emulation=False)
else:  # a CPU (no public call before PyTorch 2.11)
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, 'get_capabilities') else {}
    fast = found.get('avx512_bf16', False)
autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16 and fast)


def learn(model, optimizer, step):
    """Take one training step."""
    optimizer.param_groups[0]['lr'] = learning_rate_at(step)
    model.train()  # turns dropout on
    x, y = get_batch(train_data)
    with autocast:
        logits, loss = model(x, y)  # how wrong is it?
    optimizer.zero_grad()
    loss.backward()
    # The gradient is the vector of all slopes. If its length (the root of the sum of squares)
    # exceeds grad_clip (common early on), we scale it down. Unclipped, one odd batch could steer p
    # for 10 steps, and slow it for 100. (Here, that hardly matters.)
    nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    optimizer.step()  # move every parameter


@torch.no_grad()
def mean_loss(model, part):
    """The mean loss on a part of the text, cut into pieces of block_size characters.

    So contexts range from 1 to block_size characters. (Of a long part, we take evenly spaced
    pieces.) The training loss ends lower: the val text has new words, and some train text is
    memorized. If only the val loss rises, the model is overfitting.
    """
    model.eval()  # turns dropout off
    length = (len(part) - 1) // block_size * block_size
    every = math.ceil(length / eval_size)
    x = part[:length].reshape(-1, block_size)[::every]
    y = part[1 : length + 1].reshape(-1, block_size)[::every]
    total = 0.0
    for xs, ys in zip(x.split(batch_size), y.split(batch_size)):
        with autocast:
            logits, loss = model(xs.to(device), ys.to(device))
        total += loss.item() * len(xs)
    return total / len(x)


# ----------------------------------------------
# Saving
#
# You may skim this. What does it take to continue a run as if it had never stopped? The parameters.
# But the next step also depends on the optimizer's averages, on the step number (which sets the
# learning rate), and on the random generator (which picks the batch). Each evaluation after the
# first saves all this in one file, a checkpoint. (Not saved: a GPU's own generator, for dropout.)

checkpoint = folder / checkpoint_path
assert checkpoint.suffix == '.pt', f'{checkpoint_path=} must end in .pt'
# A saved model needs a program with these same settings.
config = {'block_size': block_size, 'n_embd': n_embd, 'n_head': n_head, 'n_layer': n_layer}
config['chars'] = ''.join(chars)


def save(model, optimizer, step, first_save):
    """Save the run. The old file stays until the new one is complete on disk."""
    state = {
        'config': config,
        'step': step,
        'model': model.state_dict(),  # parameters, by name
        'optimizer': optimizer.state_dict(),
        'random': torch.get_rng_state(),
    }
    new = f'{checkpoint}.new'
    torch.save(state, new)
    with open(new, 'rb+') as file:
        os.fsync(file.fileno())  # wait for the disk
    if first_save and checkpoint.exists():  # keep the run before this one, too
        os.replace(checkpoint, checkpoint.with_stem(f'{checkpoint.stem}-previous'))
    os.replace(new, checkpoint)


def load(model):
    """Load the saved parameters into the model. Return all that was saved."""
    state = torch.load(checkpoint, map_location='cpu', weights_only=True)  # data, no code
    for name, value in config.items():
        saved = state.get('config', {}).get(name)
        assert saved == value, f'{checkpoint_path} was made with {name} = {saved!r}'
    model.load_state_dict(state['model'])
    return state


def load_run(model, optimizer):
    """Load the saved run. Return its step."""
    state = load(model)
    settings = optimizer.state_dict()['param_groups']  # keep gpt.py's settings
    optimizer.load_state_dict({**state['optimizer'], 'param_groups': settings})
    torch.set_rng_state(state['random'])
    print(f'resuming {checkpoint.name} at step {state["step"]}')
    return state['step']


def load_model():
    """The saved model. In a notebook: import gpt; model = gpt.load_model()"""
    model = GPTLanguageModel().to(device)
    load(model)
    return model.eval()


# ----------------------------------------------
# Running
#
# Skim all but train(). Several GPUs can share the work. torchrun --nproc-per-node=4 gpt.py starts
# this program four times. Each of these processes has a number (its rank) and a copy of the model.
# All draw the same batches, but each works on an equal share of the pieces. In backward(), Parallel
# averages their gradients, which gives the whole batch's, so the copies stay equal.

rank = int(os.environ.get('RANK', 0))
world_size = int(os.environ.get('WORLD_SIZE', 1))  # how many processes


class Parallel(nn.parallel.DistributedDataParallel):  # averages gradients
    def forward(self, x, y):
        return super().forward(x[rank::world_size], y[rank::world_size])


def train():
    """Train a new model, or continue the saved run. Return the trained model."""
    torch.manual_seed(seed)
    model = GPTLanguageModel().to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )  # 0.9, 0.99: see Training; fused: faster

    start = load_run(model, optimizer) if resume else 0  # steps already taken
    network = Parallel(model) if world_size > 1 else model
    assert start <= max_iters, f'{checkpoint_path} is at step {start}, beyond {max_iters=}'
    assert os.access(checkpoint.parent, os.W_OK), f'cannot write to {checkpoint.parent}'
    count = sum(p.numel() for p in model.parameters())
    print(f'{count:,} parameters learn from {len(train_data):,} characters, on {device}')
    val_losses = {}
    began = time.time()

    steps = range(start, max_iters + 1)
    bar = dict(initial=start, total=max_iters, leave=False, disable=None, file=sys.stdout)
    for step in tqdm(steps, **bar):  # a progress bar, only in a terminal
        if step % eval_interval == 0 or step == max_iters:
            train_loss, val_loss = mean_loss(model, train_data), mean_loss(model, val_data)
            val_losses[step] = val_loss
            assert val_loss < 100, f'training diverged: lower {learning_rate=}'
            if step > start and rank == 0:
                first_save = not resume and step <= eval_interval  # a new run's first
                save(model, optimizer, step, first_save)
            losses = f'train loss {train_loss:.4f}, val loss {val_loss:.4f}'
            tqdm.write(f'step {step}: {losses}  ({time.time() - began:.0f} s)')
            tqdm.write(f'    {sample(model, 60)!r}')

        if step < max_iters:
            learn(network, optimizer, step)

    best = min(val_losses, key=val_losses.get)
    if best < max_iters:
        print(f'The lowest val loss above is that of step {best} (not the one saved)')
    return model


if __name__ == '__main__':  # not when it is imported
    if sys.argv[1:]:
        sys.exit('gpt.py takes no arguments. Edit the settings at its top.')
    if world_size > 1:
        assert batch_size % world_size == 0, f'{batch_size=} cannot be shared by {world_size}'
        if 'cuda' in device:
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        torch.distributed.init_process_group('nccl' if 'cuda' in device else 'gloo')  # connect
    if rank > 0:
        sys.stdout = open(os.devnull, 'w')  # only one should print
    if hasattr(sys.stdout, 'reconfigure'):  # UTF-8, line by line, even in pipes
        sys.stdout.reconfigure(encoding='utf-8', line_buffering=True)

    try:
        model = train()
        print(f'\n{prompt}{sample(model, max_new_tokens)}')
    except KeyboardInterrupt:
        print('\nStopped. To continue from the last step above (if not 0), set resume = True.')
        sys.exit(1)
    if world_size > 1:
        torch.distributed.destroy_process_group()

# Now it is your turn. What will the loss be with n_layer = 1? Without pos_emb? Without the "x +" in
# Block? Guess first, then try. (Another seed may change it by 0.01. Set checkpoint_path = 'try.pt'
# to keep your first run.)
