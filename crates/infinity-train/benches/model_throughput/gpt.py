"""nanoGPT-like GPT in PyTorch on the CPU, driven by `cargo xtask bench model --python PYTHON`.

python gpt.py LAYERS WIDTH HEADS INNER WINDOW ROWS VOCABULARY THREADS FORMAT

Answers one JSON line to every line on standard input: "step" trains one step on a fixed batch, "product" times products of
f32 matrices, "memory" says how much this process holds. The network: learned positions, pre-norm, causal
scaled_dot_product_attention, GELU, tied embedding; AdamW, gradients clipped at 1; FORMAT bf16 is torch.autocast, f32 is not. Only torch is needed.
"""
import json, resource, sys, time
import torch
from torch import nn
from torch.nn import functional as F

L, D, H, INNER, T, B, V, THREADS = (int(x) for x in sys.argv[1:9])
HALF = sys.argv[9] == "bf16"
torch.set_num_threads(THREADS)
torch.manual_seed(1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D, bias=False), nn.LayerNorm(D, bias=False)
        self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.up, self.down = nn.Linear(D, INNER, bias=False), nn.Linear(INNER, D, bias=False)

    def forward(self, x):
        q, k, v = (y.view(*y.shape[:2], H, D // H).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(D, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
        x = x + self.out(y)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(V, D), nn.Embedding(T, D)
        self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(L))), nn.LayerNorm(D, bias=False)
        self.apply(lambda m: nn.init.normal_(m.weight, std=0.02) if isinstance(m, (nn.Linear, nn.Embedding)) else None)

    def forward(self, x, y):
        h = self.norm(self.blocks(self.token(x) + self.position.weight))
        return F.cross_entropy((h @ self.token.weight.T).view(-1, V), y.reshape(-1))


def product_flops():
    best = 0.0
    for m, k, n in ((512, 512, 512), (3072, 384, 384), (3072, 384, 1024), (384, 3072, 1024), (2048, 2048, 2048)):
        a, b, c = torch.rand(m, k), torch.rand(k, n), torch.empty(m, n)
        for _ in range(5):
            calls, start = 0, time.perf_counter()
            while time.perf_counter() - start < 0.05:
                torch.mm(a, b, out=c)
                calls += 1
            best = max(best, 2.0 * m * k * n * calls / (time.perf_counter() - start))
    return best


model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
tokens = torch.randint(0, V, (B, T + 1))
print(json.dumps({"parameters": sum(p.numel() for p in model.parameters()), "torch": torch.__version__}), flush=True)
for line in sys.stdin:
    if line.strip() == "step":
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=HALF):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        answer = {"loss": loss.item(), "seconds": time.perf_counter() - start}
    elif line.strip() == "product":
        answer = {"flops": product_flops()}
    else:
        answer = {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    print(json.dumps(answer), flush=True)
