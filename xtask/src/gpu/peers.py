"""What is measured beside ours on the same card: PyTorch's softmax attention and a compiled GPT, flash-linear-
attention's gated delta rule and GatedDeltaNet.

    python3 peers.py attention|fla|gpt|gdn [--device cuda] [--dtype bf16] [--lengths 4096,8192] [--rounds 7]
    python3 peers.py attention --device cpu --dtype f32 --quick      # the script itself, without a GPU

flash-linear-attention (`fla`) is found where Python finds modules: PYTHONPATH names its checkout.
Prints one JSON object a line: what was checked, the median times in ms, and why something is missing,
which is no error. An operator is compared with a naive f32 form first, outputs and gradients, and the
comparison has to see a wrong answer, too; a model has to learn. Then all passes take turns; a turn is several
calls between two events, after others that compile and tune. What a call reads at these sizes is more than a
cache holds, so nothing is flushed between calls.
"""

import argparse
import json
import statistics
import time

FORWARD, BOTH = "forward", "forward + backward"
ATTENTION, FLA, GPT, GDN = "PyTorch attention", "FLA", "GPT", "GatedDeltaNet"
# Root mean square error over the root mean square of the right values, by type.
LIMITS = {"f32": 1e-4, "bf16": 2e-2}
# Tokens and heads of a check; ragged for every block size.
CHECKED_TOKENS, CHECKED_HEADS = 150, 2
# What a turn takes at least, in ms, and how many calls it is at most.
TURN, CALLS = 20.0, 16


def say(kind, **found):
    print(json.dumps({"kind": kind, **found}), flush=True)


def first_line(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]


class Attention:
    """Causal softmax attention, `[B, H, T, K]`, by PyTorch's own choice of kernel."""

    name = ATTENTION

    def __init__(self, torch):
        self.torch = torch

    def inputs(self, draw, tokens, heads, width):
        return [draw([1, heads, tokens, width]) for _ in range(3)]

    def run(self, q, k, v):
        attend = self.torch.nn.functional.scaled_dot_product_attention
        return attend(q, k, v, is_causal=True)

    def naive(self, q, k, v):
        tokens = q.shape[2]
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        future = self.torch.ones(tokens, tokens, dtype=self.torch.bool, device=q.device).triu(1)
        return scores.masked_fill(future, float("-inf")).softmax(-1) @ v


class GatedDeltaRule:
    """The gated delta rule, `[B, T, H, ·]`: unit keys and queries, log decays and write strengths."""

    name = FLA

    def __init__(self, torch):
        if not torch.cuda.is_available():
            raise RuntimeError("its kernels need a GPU")
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        self.torch, self.chunk = torch, chunk_gated_delta_rule

    def inputs(self, draw, tokens, heads, width):
        functional, half = self.torch.nn.functional, draw([1]).dtype
        rows = [draw([1, tokens, heads, width]) for _ in range(3)]
        q, k = (functional.normalize(x.float(), dim=-1).to(half) for x in rows[:2])
        decay = functional.logsigmoid(draw([1, tokens, heads]).float())
        write = draw([1, tokens, heads]).float().sigmoid().to(half)
        return [q, k, rows[2], decay, write]

    def run(self, q, k, v, decay, write):
        return self.chunk(q, k, v, g=decay, beta=write)[0]

    def naive(self, q, k, v, decay, write):
        batch, tokens, heads, width = q.shape
        state = q.new_zeros(batch, heads, width, v.shape[3])
        outputs = []
        for t in range(tokens):
            state = state * decay[:, t].exp()[..., None, None]
            error = v[:, t] - self.torch.einsum("bhk,bhkv->bhv", k[:, t], state)
            error = error * write[:, t][..., None]
            state = state + k[:, t][..., None] * error[..., None, :]
            outputs.append(self.torch.einsum("bhk,bhkv->bhv", q[:, t], state))
        return self.torch.stack(outputs, 1) * width**-0.5


def leaves(inputs):
    return [x.detach().clone().requires_grad_() for x in inputs]


def answers(torch, run, inputs, d_o):
    """Outputs and all gradients."""
    inputs = leaves(inputs)
    o = run(*inputs)
    return [o, *torch.autograd.grad(o, inputs, d_o.to(o.dtype))]


def worst_error(actual, expected):
    """The largest of the errors of all tensors; infinite where a value is no number."""
    worst = 0.0
    for a, e in zip(actual, expected, strict=True):
        a, e = a.detach().double(), e.detach().double()
        if a.shape != e.shape or not bool(a.isfinite().all()) or not bool(e.isfinite().all()):
            return float("inf")
        worst = max(worst, float((a - e).square().mean().sqrt() / e.square().mean().sqrt()))
    return worst


def check(torch, peer, draw, width, dtype):
    """Whether `peer` is right at a small size; says so."""
    inputs = peer.inputs(draw, CHECKED_TOKENS, CHECKED_HEADS, width)
    single = [x.float() for x in inputs]
    d_o = draw(list(peer.naive(*single).shape)).float()
    actual = answers(torch, peer.run, inputs, d_o)
    error = worst_error(actual, answers(torch, peer.naive, single, d_o))
    # One value at the wrong place: a comparison that lets this pass proves nothing.
    time_axis = 1 if single[2].shape[1] == CHECKED_TOKENS else 2
    wrong = [*single[:2], single[2].roll(1, time_axis), *single[3:]]
    blind = worst_error(actual, answers(torch, peer.naive, wrong, d_o)) <= LIMITS[dtype]
    ok = error <= LIMITS[dtype] and not blind
    detail = f"worst rms ratio of outputs and gradients {error:.1e}, limit {LIMITS[dtype]:.0e}"
    if blind:
        detail += "; a wrong answer was not seen"
    say("check", what=peer.name, ok=ok, detail=detail)
    return ok


class Contestant:
    """A pass of a peer at one length, and its times in ms."""

    def __init__(self, torch, peer, name, inputs, d_o):
        self.torch, self.peer, self.name, self.calls, self.times = torch, peer, name, 1, []
        self.on_gpu = d_o.is_cuda
        self.inputs, self.d_o = leaves(inputs), d_o

    def call(self):
        if self.name == FORWARD:
            with self.torch.no_grad():
                self.peer.run(*self.inputs)
        else:
            o = self.peer.run(*self.inputs)
            self.torch.autograd.grad(o, self.inputs, self.d_o)

    def turn(self):
        """The ms of a call in this turn."""
        if not self.on_gpu:
            start = time.perf_counter()
            for _ in range(self.calls):
                self.call()
            return (time.perf_counter() - start) * 1e3 / self.calls
        start, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(self.calls):
            self.call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / self.calls

    def warm_up(self):
        """The first call compiles and tunes; the second says how many make a turn."""
        self.turn()
        self.calls = min(max(int(TURN / self.turn()), 1), CALLS)


def measure(torch, peer, draw, tokens, flags):
    """Both passes take turns at this length."""
    try:
        inputs = peer.inputs(draw, tokens, flags.heads, flags.width)
        with torch.no_grad():
            o = peer.run(*inputs)
        d_o = draw(list(o.shape)).to(o.dtype)
        contestants = [Contestant(torch, peer, name, inputs, d_o) for name in (FORWARD, BOTH)]
        for contestant in contestants:
            contestant.warm_up()
    except Exception as error:  # Out of memory, say: shorter ones were measured.
        say("missing", what=peer.name, tokens=tokens, why=first_line(error))
        return
    for round_ in range(flags.rounds + 1):
        for contestant in contestants:
            ms = contestant.turn()
            if round_ > 0:
                contestant.times.append(ms)
    for contestant in contestants:
        times, sizes = contestant.times, {"tokens": tokens, "states": 1, "width": flags.width}
        found = {"what": peer.name, "pass": contestant.name, "dtype": flags.dtype, **sizes}
        say("time", **found, ms=statistics.median(times), fastest_ms=min(times), slowest_ms=max(times))


def gpt(torch, layers, width, heads, tokens, vocabulary):
    """A plain GPT; gives a function from tokens and targets to the loss, and its parameters."""
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.n1, self.n2 = nn.RMSNorm(width), nn.RMSNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x):
            split = [*x.shape[:2], heads, width // heads]
            q, k, v = (y.view(split).transpose(1, 2) for y in self.qkv(self.n1(x)).chunk(3, -1))
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(x.shape))
            return x + self.down(functional.gelu(self.up(self.n2(x))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tok, self.pos = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
            self.blocks, self.norm = nn.Sequential(*(Block() for _ in range(layers))), nn.RMSNorm(width)

        def forward(self, x, y):
            h = self.norm(self.blocks(self.tok(x) + self.pos.weight[: x.shape[1]]))
            return functional.cross_entropy((h @ self.tok.weight.T).view(-1, vocabulary).float(), y.view(-1))

    model = Model().cuda()
    return torch.compile(model), list(model.parameters())


def gated_delta_net(torch, layers, width, heads, tokens, vocabulary):
    """flash-linear-attention's model of that size."""
    from fla.models import GatedDeltaNetConfig, GatedDeltaNetForCausalLM

    config = GatedDeltaNetConfig(
        hidden_size=width,
        num_heads=heads,
        head_dim=width // heads,
        expand_v=1,
        num_hidden_layers=layers,
        vocab_size=vocabulary,
        tie_word_embeddings=True,
    )
    model = GatedDeltaNetForCausalLM(config).cuda()
    return (lambda x, y: model(input_ids=x, labels=y).loss), list(model.parameters())


def train(torch, name, make, flags):
    """Steps in bf16 on one batch with AdamW; the median of twelve."""
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(1)
    run, parameters = make(torch, *flags.model)
    optimizer = torch.optim.AdamW(parameters, lr=6e-4, betas=(0.9, 0.95), fused=True)
    vocabulary = flags.model[-1]
    x = torch.randint(0, vocabulary, (flags.batch, flags.model[3]), device="cuda")
    losses, times = [], []
    for _ in range(16):
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = run(x, x.roll(-1, 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())  # Waits for the device.
        times.append(time.perf_counter() - start)
    detail = f"the loss goes from {losses[0]:.3f} to {losses[-1]:.3f}, the first step took {times[0]:.1f} s"
    say("check", what=name, ok=losses[-1] < losses[0], detail=detail)
    tokens = flags.batch * flags.model[3]
    ms = 1e3 * statistics.median(times[4:])
    size = sum(parameter.numel() for parameter in parameters)
    say("time", what=name, **{"pass": "step"}, tokens_per_step=tokens, parameters=size, ms=ms)
    say("time", what=name, **{"pass": "memory"}, ms=torch.cuda.max_memory_allocated() / 1e9)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", default="bf16", choices=list(LIMITS))
    parser.add_argument("--lengths", default="8192")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", default="12,1024,8,1024,8192", help="layers, width, heads, tokens, vocabulary")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to try the script")
    flags = parser.parse_args()
    if flags.quick:
        flags.lengths, flags.heads, flags.width, flags.rounds = "64,96", 2, 16, 2
    if flags.rounds < 1:
        parser.error("--rounds is at least 1")
    flags.lengths = [int(length) for length in flags.lengths.split(",")]
    flags.model = [int(size) for size in flags.model.split(",")]
    return flags


# By the word on the command line: a name, and an operator or a model.
PEERS = {
    "attention": (ATTENTION, Attention),
    "fla": (FLA, GatedDeltaRule),
    "gpt": (GPT, gpt),
    "gdn": (GDN, gated_delta_net),
}


def main():
    flags = arguments()
    name, make = PEERS[flags.peer]
    try:
        import torch

        if flags.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} sees no CUDA device")
    except (ImportError, RuntimeError) as error:
        say("missing", what=name, why=f"Python finds no torch with a device: {first_line(error)}")
        return
    where = torch.cuda.get_device_name() if flags.device == "cuda" else "cpu"
    say("setting", text=f"{name}: torch {torch.__version__} on {where}")
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[flags.dtype]
    generator = torch.Generator(flags.device).manual_seed(1)

    def draw(shape):
        return torch.randn(shape, generator=generator, device=flags.device).to(dtype)

    try:
        if not isinstance(make, type):
            train(torch, name, make, flags)
            return
        peer = make(torch)
        right = check(torch, peer, draw, flags.width, flags.dtype)
        for tokens in flags.lengths if right else []:
            measure(torch, peer, draw, tokens, flags)
    except Exception as error:  # A module that is not there, a compiler that fails: said, not hidden.
        say("missing", what=name, why=first_line(error))


if __name__ == "__main__":
    main()
