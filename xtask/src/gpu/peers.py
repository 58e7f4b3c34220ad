"""What memory_scan is measured against: PyTorch's softmax attention and flash-linear-attention's
gated delta rule, forward and forward with backward.

    python3 peers.py [--device cuda] [--dtype bf16] [--lengths 4096,8192,16384,32768] [--rounds 7]
    python3 peers.py --device cpu --dtype f32 --quick      # the script itself, without a GPU

flash-linear-attention (`fla`) is found where Python finds modules: PYTHONPATH names its checkout.
Prints one JSON object a line: what was checked, the median times in ms, and why something is missing,
which is no error. Each peer is compared with a naive f32 form first, outputs and gradients, and the
comparison has to see a wrong answer, too. Then all take turns; a turn is several calls between two
events, after others that compile and tune. What a call reads at these sizes is more than a cache
holds, so nothing is flushed between calls.
"""

import argparse
import json
import statistics
import time

FORWARD, BOTH = "forward", "forward + backward"
ATTENTION, FLA = "PyTorch attention", "FLA"
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


def measure(torch, peers, draw, tokens, flags):
    """All that run at this length take turns."""
    contestants = []
    for peer in peers:
        try:
            inputs = peer.inputs(draw, tokens, flags.heads, flags.width)
            with torch.no_grad():
                o = peer.run(*inputs)
            d_o = draw(list(o.shape)).to(o.dtype)
            mine = [Contestant(torch, peer, name, inputs, d_o) for name in (FORWARD, BOTH)]
            for contestant in mine:
                contestant.warm_up()
            contestants.extend(mine)
        except Exception as error:  # Out of memory, say: others may still fit.
            say("missing", what=peer.name, tokens=tokens, why=first_line(error))
    for round_ in range(flags.rounds + 1):
        for contestant in contestants:
            ms = contestant.turn()
            if round_ > 0:
                contestant.times.append(ms)
    for contestant in contestants:
        say(
            "time",
            what=contestant.peer.name,
            **{"pass": contestant.name},
            dtype=flags.dtype,
            batch=1,
            heads=flags.heads,
            tokens=tokens,
            states=1,
            width=flags.width,
            ms=statistics.median(contestant.times),
            fastest_ms=min(contestant.times),
            slowest_ms=max(contestant.times),
        )


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", default="bf16", choices=list(LIMITS))
    parser.add_argument("--lengths", default="4096,8192,16384,32768", help="for attention")
    parser.add_argument("--scan-lengths", default="8192", help="for the gated delta rule")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to try the script")
    flags = parser.parse_args()
    if flags.quick:
        flags.lengths, flags.scan_lengths = "64,96", "64"
        flags.heads, flags.width, flags.rounds = 2, 16, 2
    if flags.rounds < 1:
        parser.error("--rounds is at least 1")
    flags.lengths, flags.scan_lengths = (
        [int(length) for length in text.split(",")] for text in (flags.lengths, flags.scan_lengths)
    )
    return flags


def main():
    flags = arguments()
    try:
        import torch
    except ImportError as error:
        why = f"Python finds no torch: {first_line(error)}"
        say("missing", what=ATTENTION, why=why)
        say("missing", what=FLA, why=why)
        return
    if flags.device == "cuda" and not torch.cuda.is_available():
        why = f"torch {torch.__version__} sees no CUDA device"
        say("missing", what=ATTENTION, why=why)
        say("missing", what=FLA, why=why)
        return
    where = torch.cuda.get_device_name() if flags.device == "cuda" else "cpu"
    say("setting", text=f"torch {torch.__version__} on {where}")

    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[flags.dtype]
    generator = torch.Generator(flags.device).manual_seed(1)

    def draw(shape):
        return torch.randn(shape, generator=generator, device=flags.device).to(dtype)

    peers = {}
    for kind in (Attention, GatedDeltaRule):
        try:
            peer = kind(torch)
            if check(torch, peer, draw, flags.width, flags.dtype):
                peers[peer.name] = peer
        except Exception as error:  # A module that is not there, a compiler that fails: said, not hidden.
            say("missing", what=kind.name, why=first_line(error))
    if FLA in peers:
        import fla

        say("setting", text=f"flash-linear-attention {getattr(fla, '__version__', 'unknown')}")
    for tokens in sorted({*flags.lengths, *flags.scan_lengths}):
        wanted = [
            peers.get(ATTENTION) if tokens in flags.lengths else None,
            peers.get(FLA) if tokens in flags.scan_lengths else None,
        ]
        measure(torch, [peer for peer in wanted if peer], draw, tokens, flags)


if __name__ == "__main__":
    main()
