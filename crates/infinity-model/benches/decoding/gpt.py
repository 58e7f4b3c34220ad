"""nanoGPT-like GPT in PyTorch on the CPU that generates with a cache, driven by `cargo xtask bench decoding --python PYTHON`.

python gpt.py LAYERS WIDTH HEADS VOCABULARY LONGEST COPIES THREADS

Answers one JSON line to every line on standard input: "prompt N" reads N tokens of one text, "decode ROWS STEPS" goes on from
16 tokens of so many texts. The network: learned positions, pre-norm, causal scaled_dot_product_attention over cached keys and
values, GELU of four times the width, tied embedding. Several copies of the weights take turns. Only torch is needed.
"""
import copy, json, statistics, sys, time
import torch
from torch import nn
from torch.nn import functional as F

L, D, H, V, LONGEST, COPIES, THREADS = (int(x) for x in sys.argv[1:8])
START = 16
torch.set_num_threads(THREADS)
torch.manual_seed(1)
torch.set_grad_enabled(False)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D, bias=False), nn.LayerNorm(D, bias=False)
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.up, self.down = nn.Linear(D, 4 * D, bias=False), nn.Linear(4 * D, D, bias=False)

    def forward(self, x, cache, at):
        n = x.shape[1]
        q, k, v = (y.view(*y.shape[:2], H, D // H).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(D, -1))
        cache[0][:, :, at : at + n], cache[1][:, :, at : at + n] = k, v
        k, v = cache[0][:, :, : at + n], cache[1][:, :, : at + n]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=n > 1).transpose(1, 2).reshape(x.shape)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(V, D), nn.Embedding(LONGEST, D)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(L)), nn.LayerNorm(D, bias=False)
        self.apply(lambda m: nn.init.normal_(m.weight, std=0.02) if isinstance(m, (nn.Linear, nn.Embedding)) else None)

    def caches(self, rows, length):
        return [torch.zeros(2, rows, H, length, D // H) for _ in range(L)]

    def forward(self, tokens, caches, at):
        """Logits after the last of `tokens`, which come behind `at` others; more than one token only at the start."""
        x = self.token(tokens) + self.position.weight[at : at + tokens.shape[1]]
        for block, cache in zip(self.blocks, caches):
            x = block(x, cache, at)
        return self.norm(x[:, -1]) @ self.token.weight.T


def timed(work):
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def decode(rows, steps):
    tokens = torch.randint(0, V, (rows, START + steps))
    caches = models[0].caches(rows, START + steps)
    models[0](tokens[:, :START], caches, 0)
    step = lambda t: models[t % COPIES](tokens[:, t : t + 1], caches, t)
    times = [timed(lambda: step(t))[1] for t in range(START, START + steps)]
    return statistics.median(times)


model = GPT()
models = [model] + [copy.deepcopy(model) for _ in range(COPIES - 1)]
tokens = torch.randint(0, V, (1, 20))
caches = model.caches(1, 20)
one_by_one = [model(tokens[:, t : t + 1], caches, t) for t in range(20)][-1]
whole = model(tokens, model.caches(1, 20), 0)
apart = ((one_by_one - whole).abs().max() / whole.abs().max()).item()
count = sum(p.numel() for p in model.parameters())
about = f"GPT of {count} parameters"
print(json.dumps({"about": about, "torch": torch.__version__, "apart": apart}), flush=True)
for line in sys.stdin:
    word, *numbers = line.split()
    numbers = [int(n) for n in numbers]
    if word == "prompt":
        tokens, caches = torch.randint(0, V, (1, numbers[0])), model.caches(1, numbers[0])
        seconds = timed(lambda: model(tokens, caches, 0))[1]
    else:
        seconds = decode(*numbers)
    print(json.dumps({"seconds": seconds}), flush=True)
