"""A tiny language model. It guesses the next character from the one before it.

    python bigram.py

takes a few seconds. It prints its results in the order of this file. What is there to predict?
How good is a guess if we simply count? And can a model learn the same thing without counting?
Learning is how all the larger models are made.
"""

import sys
from pathlib import Path

import torch  # like numpy, but it can also use a GPU and compute gradients
import torch.nn as nn  # building blocks for models
from torch.nn import functional as F  # functions for models
from tqdm import tqdm  # a progress bar

# ----------------------------------------------
# Hyperparameters
#
# These are the numbers we choose. (The numbers the model learns are its parameters.)

device = 'cuda' if torch.cuda.is_available() else 'cpu'  # an Nvidia GPU, if there is one
text_path = 'input.txt'  # the text to learn from
block_size = 64  # characters in a piece of text
batch_size = 32  # pieces of text per training step
max_iters = 400  # training steps
learning_rate = 0.3  # roughly how far a step moves each parameter
max_new_tokens = 300  # characters in the sample (a token is a unit of text)
seed = 1337  # the same seed repeats the same run

torch.manual_seed(seed)
if hasattr(sys.stdout, 'reconfigure'):  # not in a notebook
    sys.stdout.reconfigure(encoding='utf-8', errors='replace', line_buffering=True)

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


data = torch.tensor(encode_string(text))

# The model learns from the first 90%. The rest is for validation: how well does the
# model do on text it has never seen?
n = int(0.9 * len(data))
train_data, val_data = data[:n], data[n:]

if len(val_data) <= block_size:
    sys.exit(f'{text_path} is too short: its last tenth must be longer than {block_size=}')
if vocab_size > 5000:
    sys.exit(f'{text_path} has {vocab_size} distinct characters, which is too many here')

print(f'{text_path}: {len(text):,} characters, {vocab_size} distinct')
print(f'The first 20: {text[:20]!r} -> {data[:20].tolist()}')

# ----------------------------------------------
# What is there to predict?
#
# Every place in the text asks a little question. Given the characters so far (the context),
# which one comes next (the target)? A piece of 64 characters asks 64 questions.

print('\nWhat is there to predict?\n')
x = train_data[:block_size]
y = train_data[1 : block_size + 1]  # the same piece, one character further on
for t in range(8):
    context = decode_list(x[: t + 1].tolist())
    target = decode_list([y[t].item()])
    print(f'{context!r:12} -> {target!r}')

# gpt.py will use the whole context. The bigram model sees only the last character. (A bigram
# is two characters in a row.)

# ----------------------------------------------
# The model, by counting
#
# How often does one character follow another? Count every pair, then divide by how often its
# first character occurs. That gives the probability of the next character, given this one:
#
#     P(next | this) = count(this, next) / count(this)


def count_pairs(part):
    """counts[i, j]: how often character j follows character i. (vocab_size, vocab_size)"""
    pairs = part[:-1] * vocab_size + part[1:]  # the pair (i, j) as the number i * vocab_size + j
    return torch.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)


train_counts = count_pairs(train_data)
val_counts = count_pairs(val_data)
totals = train_counts.sum(dim=1, keepdim=True).clamp(min=1)  # at least 1, to avoid dividing by 0
counted = train_counts / totals  # probabilities: each row sums to 1


def mean_loss(probs, counts):
    """How badly do these probabilities predict the counted pairs?

    A good model gives the real text a high probability. The probability of a whole text is the
    product of the probabilities of its characters. That is too small for a float, so we take
    logarithms, and the product becomes a sum. A pair that occurs 100 times adds its logarithm
    100 times. The loss is the mean of -ln(probability). It is 0 if the model is always certain
    and right. If 65 characters all look equally likely, it is ln(65) = 4.17. Lower is better.
    """
    log_probs = probs.log().expand(counts.shape)  # probs may also be a single row, shared by all
    seen = counts > 0  # skip pairs that never occur: their logarithm may be minus infinity
    return -(counts[seen] * log_probs[seen]).sum().item() / counts.sum().item()


print('\nHow good is it?\n')
likeliest = counted[char_to_index[text[0]]].argmax().item()
print(f'After {text[0]!r}, the likeliest character is {index_to_char[likeliest]!r}.')
print(f'Counting gives a loss of {mean_loss(counted, train_counts):.4f}.')

# No model that sees only one character can do better on the text we counted.

# ----------------------------------------------
# The same model, by learning
#
# There are 65 possible contexts of one character, but 65 to the power of 64 contexts of 64
# characters. Hardly any of those ever occur twice, so counting is no use. Let's pretend we can't
# count at all. We start with a table of random numbers and improve it step by step.


def get_batch(split):
    """Random pieces of the text: inputs x and targets y, both (batch_size, block_size)."""
    part = train_data if split == 'train' else val_data
    starts = torch.randint(len(part) - block_size, (batch_size,))
    x = torch.stack([part[i : i + block_size] for i in starts])
    y = torch.stack([part[i + 1 : i + block_size + 1] for i in starts])
    return x.to(device), y.to(device)


class BigramLanguageModel(nn.Module):
    """A table of parameters (nn.Module keeps track of them). Row i scores what may follow i."""

    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, vocab_size)  # random at first

    def forward(self, idx, targets=None):
        """idx, targets (B, T) -> logits (B, T, vocab_size), loss (None without targets).

        idx holds B pieces of text, each of T characters, as numbers. Logits are scores. Softmax
        turns them into probabilities. It takes exp(score), which is positive, and divides by the
        sum over all characters. F.cross_entropy does that, and then computes the loss we already
        know: the mean of -ln(probability of the target). It wants all B * T questions in one
        long list, so we flatten the first two dimensions into one.
        """
        logits = self.token_embedding(idx)  # row idx[b, t] of the table, for every b and t
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()  # only learning, below, needs gradients
    def generate(self, idx, max_new_tokens):
        """Continue the text: idx (B, T) -> (B, T + max_new_tokens)."""
        for _ in range(max_new_tokens):
            logits, _ = self(idx[:, -1:])  # runs forward() on the last character of each text
            probs = F.softmax(logits[:, -1], dim=-1)  # (B, vocab_size)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1), by probability
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T + 1)
        return idx


model = BigramLanguageModel().to(device)

# Think of the loss as a height. Which way is downhill? The gradient tells us: it says how fast
# the loss rises as we raise each parameter. Torch remembers how it computed the loss, so
# loss.backward() can go back through all of it (by the chain rule of calculus) and leave the
# gradient of every parameter p in p.grad. The optimizer, AdamW, picks it up there and moves each
# parameter the other way. We make its steps smaller and smaller, so that the model settles at the
# bottom. (weight_decay=0.0 turns off an extra that gpt.py explains.)
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
for step in tqdm(range(max_iters), leave=False, disable=None):
    optimizer.param_groups[0]['lr'] = learning_rate * (1 - step / max_iters)
    x, y = get_batch('train')
    logits, loss = model(x, y)  # runs forward(): how wrong is the model on this batch?
    optimizer.zero_grad()  # forget the last gradient, or the new one would be added to it
    loss.backward()  # compute a new one
    optimizer.step()  # move

learned = F.softmax(model.token_embedding.weight.detach().cpu(), dim=-1)  # its probabilities
print(f'Learning gives a loss of {mean_loss(learned, train_counts):.4f}.')

# ----------------------------------------------
# What has it learned?

print('\nThe model writes:\n')
start = torch.tensor([[0]], device=device)  # character 0, the newline in most texts
print(decode_list(model.generate(start, max_new_tokens)[0, 1:].tolist()))

# Now compare, on both parts of the text. A pair that never occurs in training gets probability
# 0. If it turns up in validation, the loss is infinite. So for the validation loss, we add 1 to
# every count. (The learned model doesn't need that: softmax is never exactly 0.)
uniform = torch.full((vocab_size,), 1 / vocab_size)
singles = train_counts.sum(dim=0)  # how often does each character occur, whatever came before?
singles_plus_1 = (singles + 1) / (singles + 1).sum()
pairs_plus_1 = (train_counts + 1) / (train_counts + 1).sum(dim=1, keepdim=True)

print('\nloss                   training  validation')
for name, on_train, on_val in [
    ('pure guessing', uniform, uniform),
    ('counted characters', singles / singles.sum(), singles_plus_1),
    ('counted bigram', counted, pairs_plus_1),
    ('learned bigram', learned, learned),
]:
    train_loss = mean_loss(on_train, train_counts)
    val_loss = mean_loss(on_val, val_counts)
    print(f'{name:20} {train_loss:10.4f} {val_loss:11.4f}')

print('\nOne character of context gets us only so far. gpt.py looks at more.')
