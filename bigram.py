"""The smallest language model, the stepping stone to gpt.py: it guesses the next character from the last one alone.

    python bigram.py    shows what there is to predict, counts, learns, and prints a sample (in some seconds)

It does the same thing twice: by counting which character follows which, the best that can be done with one character of
context; then by learning the same table step by step, the way in which all larger models have to be trained.
"""
import signal, sys
from pathlib import Path
if __name__ == '__main__':  # Ctrl-C ends the program without a fuss, even while torch is loading
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
import numpy as np
import torch, torch.nn as nn, torch.nn.functional as F
from tqdm import tqdm

# ---- Hyperparameters: the numbers that we choose, as opposed to those the model learns. ----
device = 'cuda' if torch.cuda.is_available() else 'cpu'  # where to compute
text_path = 'input.txt'  # the text to learn from, any UTF-8 text (a relative path starts at this file's folder)
block_size = 8  # characters in a piece of text
batch_size = 256  # pieces of text that one step learns from
max_iters = 3000  # steps
learning_rate = 0.1  # about how far the first step moves each number in the table; the last, a hundredth of that
max_new_tokens = 300  # characters in the sample
seed = 1337  # where all random numbers start: the same seed gives the same run

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

# ---- Counting: P(next | this) = count(this, next) / count(this). ----
def count_pairs(part):
    """counts[this, next], (vocab_size, vocab_size): how often each character follows each in the text `part`."""
    pairs = part[:-1].long() * vocab_size + part[1:].long()  # two neighbours as one number
    return torch.bincount(pairs, minlength=vocab_size ** 2).view(vocab_size, vocab_size)

def mean_loss(probs, counts):
    """The loss of all language models, cross-entropy: the mean of -ln(p), p being the probability that `probs` gave to
    the character that really came: ln(vocab_size) if all seem equally likely, 0 if one is sure and right."""
    # probs has a row for each `this`, or one row that serves all. A pair that occurs n times counts n times.
    seen = counts > 0
    return -(counts[seen] * probs.expand_as(counts)[seen].log()).sum().item() / counts.sum().item()

# ---- Learning the same table. ----
class BigramLanguageModel(nn.Module):
    """A table of learnt numbers, (vocab_size, vocab_size): in row `this`, a score for each possible next character.
    An nn.Module keeps account of the learnt numbers in it; calling it, model(x), runs its forward(x)."""
    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, vocab_size)  # a table: given row numbers, it returns the rows
    def forward(self, idx, targets=None):
        """idx, targets: characters' numbers (B, T), B pieces of T. Returns (logits (B, T, vocab_size), loss). Logits
        are scores. Softmax makes probabilities of them: e to the power of each, over the sum of all these."""
        logits = self.token_embedding(idx)  # (B, T, vocab_size)
        return logits, None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    @torch.no_grad()  # nothing is learnt here, so torch need not note down how each number came about
    def generate(self, idx, max_new_tokens):
        """Continue idx (B, T) by characters drawn one by one: (B, T + max_new_tokens)."""
        for _ in range(max_new_tokens):
            logits, _ = self(idx[:, -1:])  # (B, 1, vocab_size): only the last character matters
            idx_next = torch.multinomial(F.softmax(logits[:, -1], dim=-1), num_samples=1)  # (B, 1): drawn by lot
            idx = torch.cat((idx, idx_next), dim=1)  # (B, T + 1)
        return idx

def train():
    """A trained BigramLanguageModel."""
    model = BigramLanguageModel().to(device)
    # The gradient says for each number in the table how fast the loss rises with it. AdamW moves each number the
    # other way, by about the learning rate at most, steep or not. The rate falls, so that the end is fine work.
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, max_iters)
    for _ in tqdm(range(max_iters), disable=None, leave=False):
        _, loss = model(*get_batch('train'))  # how wrong is the model now?
        optimizer.zero_grad(set_to_none=True)  # forget the last step's gradient: backward() adds to what is there
        loss.backward()  # the new gradient: for every number in the table, the slope of the loss
        optimizer.step()
        scheduler.step()
    return model

def main():
    """Predict, count, learn, sample, compare."""
    if hasattr(sys.stdout, 'reconfigure'):  # a notebook's stdout has no such method
        sys.stdout.reconfigure(encoding='utf-8', errors='replace')
    if vocab_size > 5000:
        sys.exit(f'{text_path}: {vocab_size} different characters; above 5000 the table gets too large')
    if len(val_data) <= block_size:
        sys.exit(f'{text_path} is too short: its last tenth, for validation, must exceed block_size = {block_size}')
    torch.manual_seed(seed)
    print(f'What there is to predict in {decode_list(data[:block_size + 1].tolist())!r}:')
    for t in range(1, block_size + 1):
        context, target = data[:t].tolist(), data[t].item()
        print(f'when the context is {context} the next is {target}: {decode_list(context + [target])!r}')

    train_counts, val_counts = count_pairs(train_data), count_pairs(val_data)
    total = train_counts.sum(1, keepdim=True)  # (vocab_size, 1): how often each character occurs
    counted = train_counts / total.clamp(min=1)  # (vocab_size, vocab_size): each row adds up to 1
    print(f'\ncounted: loss {mean_loss(counted, train_counts):.4f} on the training text, the best that a bigram can do')
    model = train()
    learnt = F.softmax(model.token_embedding.weight.detach(), dim=-1)
    print(f'learnt:  loss {mean_loss(learnt, train_counts):.4f} after {max_iters} steps. It writes:\n')
    start = torch.zeros((1, 1), dtype=torch.long, device=device)
    print(decode_list(model.generate(start, max_new_tokens)[0, 1:].tolist()))

    # A pair that never occurs in the training text has probability 0; if the validation text has it, the loss is
    # infinite. So 1 is added to every count before the validation column is computed.
    letters, uniform = train_counts.sum(0), torch.full((vocab_size,), 1 / vocab_size, device=device)
    print('\nloss                  training  validation')
    for name, on_train, on_val in (('knowing nothing', uniform, uniform),
                                   ('letter frequencies', letters / letters.sum(), (letters + 1) / (letters + 1).sum()),
                                   ('counted bigram', counted, (train_counts + 1) / (total + vocab_size)),
                                   ('trained bigram', learnt, learnt)):
        print(f'{name:20}{mean_loss(on_train, train_counts):10.4f}{mean_loss(on_val, val_counts):12.4f}')

if __name__ == '__main__':
    main()
