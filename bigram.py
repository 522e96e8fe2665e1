"""A tiny language model: it guesses the next character of a text from the one before it.

    python bigram.py

In a few seconds, it answers three questions: What is there to predict? How well can we guess by
counting? And can a program learn to guess just as well without counting?
"""

import sys
from pathlib import Path

# PyTorch is like NumPy (tensor: array, dim: axis) but also computes gradients, explained below.
import torch
import torch.nn as nn  # building blocks for models
from torch.nn import functional as F  # functions like softmax (see below)

# ----------------------------------------------
# Hyperparameters
#
# These are settings that we choose. (A model learns its parameters.) Skim the list.

block_size = 64  # characters in a piece of text
batch_size = 32  # pieces of text per training step (together, they are a batch)
max_iters = 1000  # training steps
learning_rate = 100  # how far a step moves a parameter, per unit of slope (see below)
max_new_tokens = 300  # how much to write (a token is a unit of text, here a character)
seed = 1337  # the same seed repeats all random choices
text_path = 'input.txt'  # the text to learn from
device = 'cuda' if torch.cuda.is_available() else 'cpu'  # a CUDA GPU, if there is one

torch.manual_seed(seed)
if hasattr(sys.stdout, 'reconfigure'):  # UTF-8, line by line, even in pipes
    sys.stdout.reconfigure(encoding='utf-8', line_buffering=True)

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
assert vocab_size <= 5000, f'{text_path} has {vocab_size} distinct characters, too many for a table'

print(f'{text_path}: {len(text):,} characters, {vocab_size} distinct')
print(f'The first 20: {text[:20]!r} -> {data[:20].tolist()}')

# ----------------------------------------------
# What is there to predict?
#
# Every position in the text poses a question: given the characters so far (the context), which
# character comes next (the target)?

print('\nWhat is there to predict?\n')
for t in range(1, 9):
    print(f'{text[:t]!r:12} -> {text[t]!r}')

# ----------------------------------------------
# The model, by counting
#
# A bigram is a pair of neighboring characters. The bigram model looks only at the last character of
# the context. Count how often each pair occurs, and divide by the count of its first character. The
# result is our estimate of the next character's probability:
#
#     P(next | this) = count(this, next) / count(this, any)


def count_pairs(part):
    """counts[i, j]: how often character j follows character i. (vocab_size, vocab_size)"""
    pairs = part[:-1] * vocab_size + part[1:]  # the pair (i, j) as the number i * vocab_size + j
    return torch.bincount(pairs, minlength=vocab_size**2).reshape(vocab_size, vocab_size)


def mean_loss(probs, counts):
    """How badly does a table of probabilities predict the pairs that were counted?

    A table gives each character but the first a probability, given the one before. The product is
    the probability of them all: the larger, the better. But it is far too small for a float.
    Logarithms turn it into a sum of terms that are at most 0. We want a number that is small for a
    good model, whatever the length of the text, so the loss is the mean of -ln(probability). It is
    0 for a model that is always certain and right, -ln(1/65) = 4.17 for one that considers all 65
    characters equally likely, and infinite for one that gives a probability of 0 to what comes
    next, even once.
    """
    seen = counts > 0  # leave out pairs that never occur (0 * ln(0) would be nan)
    return -(counts[seen] * probs[seen].log()).sum().item() / counts.sum().item()


train_counts = count_pairs(train_data)
val_counts = count_pairs(val_data)
counted = train_counts / train_counts.sum(dim=1, keepdim=True)  # each row, divided by its sum

print('\nHow well can we guess?\n')
print(f'Counting gives a training loss of {mean_loss(counted, train_counts):.4f}.')

# No other table has a lower loss on the text that we counted. Each pair uses one row, so each row
# can be judged alone. Let c[j] be its counted probability of character j, and q[j] another table's.
# Leave out any j with c[j] = 0: it adds no loss. The c[j] still sum to 1, the q[j] to at most 1. As
# j comes next in a fraction c[j] of cases, the losses are -sum(c * ln(c)) and -sum(c * ln(q)). ln
# bends down, so ln(x) <= x - 1, its tangent at 1. With x = q / c, q's loss minus c's is
#
#     -sum(c * ln(q / c)) >= -sum(c * (q / c - 1)) = sum(c) - sum(q) >= 0

# ----------------------------------------------
# The same model, by learning
#
# There can be 65 contexts of one character, 18 million of four, and 65**64 of 64. Almost none of
# the long ones ever occur, so a row for each is hopeless, however we fill it. That is why gpt.py
# computes its guess with a formula in which all contexts share a few hundred thousand numbers, its
# parameters. So improving the guess after "the ca" also changes it after "a ca", often for the
# better, even if the latter never occurred. But parameters stand for no events that we could count,
# so they must be learned: start with random numbers, and improve them step by step. Here, we
# practice on a table, because we already know the best one.


def get_batch(part):
    """Random pieces of the text: inputs x and targets y, both (batch_size, block_size).

    y[b, t] is the character that follows x[b, t]. (Only gpt.py needs pieces. Here, pairs would do.)
    """
    starts = torch.randint(len(part) - block_size, (batch_size,))
    x = torch.stack([part[i : i + block_size] for i in starts])
    y = torch.stack([part[i + 1 : i + block_size + 1] for i in starts])
    return x.to(device), y.to(device)


class BigramLanguageModel(nn.Module):
    """A table of parameters: row i holds a score for each character that may follow character i.

    Why scores rather than probabilities? A score may be any number, so it can be nudged up and down
    freely, whereas probabilities must not be negative and must sum to 1. Softmax turns a row of
    scores into such numbers: it takes exp(score), which is always positive, and divides by the sum
    over the row. (The scores are also called logits.)

    nn.Module, the base class of models, finds the parameters in what we assign to self (here, a
    table). Calling a model like a function, model(x, y), runs its forward(x, y).
    """

    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, vocab_size)  # a table, random at first

    def forward(self, idx, targets=None):
        """idx holds B pieces of T characters each, as numbers.

        idx, targets (B, T) -> logits (B, T, vocab_size), loss (None without targets)

        F.cross_entropy applies softmax and computes the same loss as above, the mean of
        -ln(probability of the target). We give it all B * T questions as one list, merging the
        first two dimensions.
        """
        logits = self.token_embedding(idx)  # row idx[b, t] of the table, for every b and t
        if targets is None:
            return logits, None
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()  # nothing is learned here, so no slopes are needed (see below)
    def generate(self, idx, max_new_tokens):
        """Continue the pieces: idx (B, T) -> (B, T + max_new_tokens)."""
        for _ in range(max_new_tokens):
            logits, _ = self(idx[:, -1:])  # on the last character: (B, 1, vocab_size)
            probs = F.softmax(logits[:, -1], dim=-1)  # (B, vocab_size)
            # Draw with these probabilities. (Always picking the likeliest would go in circles.)
            idx_next = torch.multinomial(probs, num_samples=1)  # (B, 1)
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T + 1)
        return idx


# ----------------------------------------------
# How does a model learn?
#
# To lower the loss, which way should each parameter p move? We need p's slope (a derivative): how
# fast the loss changes as p alone changes. (If all move a little, their effects add.) If the slope
# is 2, then raising p by 0.001 raises the loss by about 0.002, so we lower p. loss.backward()
# computes the slopes of all parameters, together called the gradient, and adds p's slope to p.grad.
#
# It applies the chain rule backward from the loss, and so also finds the slopes of all intermediate
# results. For example, let a = 3 and b = 2. (Read the right column from the bottom up.)
#
#     u = a * b - 5 = 1        slope of a = b * slope of u = 4
#                              slope of b = a * slope of u = 6
#     loss = u**2   = 1        slope of u = 2 * u          = 2
#
# (Indeed, a = 3.001 gives a loss of about 1.004.) We could also find the slopes by nudging a, then
# b, and so on, but that takes one computation of the loss per parameter. Going backward computes
# what the slopes share, such as the slope of u, only once. So one pass gives all slopes, however
# many there are. PyTorch records every operation on the way to the loss, then goes back through the
# record and multiplies the derivatives. If a number is used several times, its slopes from all uses
# are added up: for loss = p * p, the slope of p is p + p.
#
# For our table, we can even work out the result. Let s be the scores in the row for one question:
#
#     loss          = -ln(exp(s[target]) / sum(exp(s))) = ln(sum(exp(s))) - s[target]
#     slope of s[j] = exp(s[j]) / sum(exp(s)) - (1 if j is the target, otherwise 0)
#
# The quotient is the probability of j. Averaged over all training questions that use this row, the
# slope is the probability of j minus the fraction of times that j came next. Where the model
# overrates j, the slope is positive, and s[j] should be lowered. The slope is 0 only where the two
# are equal: at the counted probability.

# How far should p move? The simplest rule is p = p - learning_rate * slope. In gpt.py, steps on the
# whole text would be too slow. As there, we use a random batch, with the same slopes on average.
# (Hence SGD: stochastic, or random, gradient descent.) A low rate takes many steps. A high one
# overshoots, since slopes change on the way. Ours, 100, looks high. But an average row gets only 1
# in 65 of the questions, and the others add 0 to the mean. So its slopes are at most 1/65, and its
# moves 100/65 = 1.54: exp(s[j]) changes up to 4.7-fold. Common rows overshoot, and jump about. So
# the rate falls to 0, and they settle. (At a constant 100, the loss would end 0.01 to 0.06 higher.)

model = BigramLanguageModel().to(device)
optimizer = torch.optim.SGD(model.parameters(), learning_rate)  # applies this rule

print('\nCan we learn to guess as well?\n')
for step in range(max_iters):
    optimizer.param_groups[0]['lr'] = learning_rate * (1 - step / max_iters)  # this step's rate
    x, y = get_batch(train_data)
    logits, loss = model(x, y)  # how wrong is the model on this batch?
    optimizer.zero_grad()  # forget the last gradient: backward() adds to it
    loss.backward()  # compute the new one
    optimizer.step()  # apply the rule
    if step % 200 == 0:
        print(f'Step {step}: loss {loss.item():.4f} on the batch')

scores = model.token_embedding.weight.detach().cpu()  # the table, no longer recorded
learned = F.softmax(scores, dim=-1)  # the table of probabilities that the model has learned
print(f'Learning gives a training loss of {mean_loss(learned, train_counts):.4f}.')

# Learning works: the losses are close. (Rare and unseen pairs lag: small slopes, small moves.)

# ----------------------------------------------
# What has it learned?

print('\nThe model writes:\n')
start = torch.tensor([[0]], device=device)  # character 0, the line break in most texts
print(decode_list(model.generate(start, max_new_tokens)[0, 1:].tolist()))

# Now compare four models on both parts of the text. A pair only in the validation text has a count
# of 0, and -ln(0) is infinite. So we add 1 to each count, which barely raises the training loss.
singles = train_counts.sum(dim=0).expand(vocab_size, -1)  # ignores the context: all rows the same
models = {
    'pure guessing': torch.ones(vocab_size, vocab_size),
    'counted characters': singles + 1,
    'counted bigram': train_counts + 1,
    'learned bigram': learned,
}

print('\nloss                   training  validation')
for name, table in models.items():
    probs = table / table.sum(dim=1, keepdim=True)
    train_loss, val_loss = mean_loss(probs, train_counts), mean_loss(probs, val_counts)
    print(f'{name:20} {train_loss:10.4f} {val_loss:11.4f}')

# The learned bigram is almost as good as the counted one, even on text that neither has seen. But
# its loss, 2.4, is that of a pick among 11 equally likely characters (the perplexity, exp(2.4)).
# With one character of context, we can do little better. With up to 64, gpt.py gets to 1.5 (4.5
# characters).
