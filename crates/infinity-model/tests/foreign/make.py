"""Tiny models of other families with random weights, and what PyTorch computes with them: the fixtures beside this file.

    python3 make.py [FAMILY...]          # all of them without arguments
    python3 make.py expect DIR           # expected.safetensors for a model in DIR, for the test that reads INFINITY_MODEL_DIR
    PYTHONPATH=... python3 make.py rule  # the rule below against flash-linear-attention's own

Needs torch and transformers 5.24 on a CPU, and no flash-linear-attention where transformers would find it: it would
replace what is computed here. A folder holds a checkpoint as its own program writes it and `expected.safetensors`:
ids [2, 150], their logits, 20 greedy tokens after the first 30 of row 0, the gradients of the mean cross-entropy of the next
token, and what the layers remember after 20 tokens. Initial weights would be too tame to show a wrong switch: matrices are
scaled up, and every norm, decay and step is drawn. Matrices are stored in bf16, exactly, the rest in f32.

flash-linear-attention runs on GPUs only. Its model is written out here for a CPU, token by token, by a rule that `rule`
compares with the naive one of its package.
"""

import json, math, pathlib, sys
import torch
from torch import nn
from torch.nn import functional as F
from safetensors.torch import load_file, save_file
import transformers as hf

HERE = pathlib.Path(__file__).parent
ROWS, LENGTH, PROMPT, GREEDY, REMEMBERED = 2, 150, 30, 20, 20
MARGIN, SPREAD, LARGEST, SHORT = 1e-2, 1.0, 300_000, 3e-3
SIZES = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, max_position_embeddings=256)
ATTENTION = dict(num_attention_heads=4, num_key_value_heads=2)
LINEAR = dict(linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16, linear_value_head_dim=16)
ENDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
BOTH = ["linear_attention", "full_attention"]
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0)


def rope(theta, **more):
    return dict(rope_parameters=dict(rope_type="default", rope_theta=theta, **more))


# Those with a tokenizer, and whether it begins a text with a token.
WORDED = {"llama": True, "qwen3_5": False}
# Without experts: Qwen3-Next is released only with them, its class also builds this.
NO_EXPERTS = dict(num_experts=0, num_experts_per_tok=0, decoder_sparse_step=1)
FAMILIES = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, {**ATTENTION, **rope(5000.0), "rms_norm_eps": 1e-2, "attention_bias": True, "mlp_bias": True}),
    "llama3": (hf.LlamaConfig, hf.LlamaForCausalLM, {**ATTENTION, "head_dim": 16, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
               "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}}),
    "linear_rope": (hf.LlamaConfig, hf.LlamaForCausalLM, {**ATTENTION, "rope_parameters": dict(rope_type="linear", rope_theta=10000.0, factor=4.0)}),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, {**ATTENTION, "head_dim": 16, **rope(1e6), "use_sliding_window": True,
              "sliding_window": 24, "layer_types": ["full_attention", "sliding_attention"]}),
    "qwen3_5": (hf.Qwen3_5TextConfig, hf.Qwen3_5ForCausalLM, {**ATTENTION, **LINEAR, "head_dim": 32, "layer_types": BOTH,
                "rms_norm_eps": 1e-3, **rope(1e7, partial_rotary_factor=0.25), "tie_word_embeddings": True}),
    "qwen3_next": (hf.Qwen3NextConfig, hf.Qwen3NextForCausalLM, {**ATTENTION, **LINEAR, **NO_EXPERTS, "head_dim": 32,
                   "layer_types": BOTH, **rope(1e7, partial_rotary_factor=0.25)}),
    "olmo_hybrid": (hf.OlmoHybridConfig, hf.OlmoHybridForCausalLM, {**ATTENTION, **LINEAR, "linear_key_head_dim": 12,
                    "linear_value_head_dim": 24, "layer_types": BOTH, "rope_parameters": dict(rope_type="default", rope_theta=None)}),
    "olmo_hybrid_rope": (hf.OlmoHybridConfig, hf.OlmoHybridForCausalLM, {**ATTENTION, **LINEAR, "linear_num_value_heads": 2,
                         "layer_types": BOTH, **rope(500.0), "linear_allow_neg_eigval": False}),
    "gated_deltanet": ("fla", None, dict(num_heads=2, num_v_heads=4, head_dim=16, expand_v=1.5, allow_neg_eigval=True, norm_eps=1e-3,
                       attn=dict(layers=[1], num_heads=4, num_kv_heads=2, qkv_bias=True, window_size=24, rope_theta=5000.0))),
    "gated_deltanet_plain": ("fla", None, dict(num_heads=2, head_dim=16, expand_v=2, use_gate=False, use_short_conv=False, attn=None)),
}


# --- flash-linear-attention's GatedDeltaNet, on a CPU ---------------------------------------------------------------

class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


class Conv(nn.Conv1d):
    """Depthwise and causal, then SiLU."""

    def __init__(self, width, kernel):
        super().__init__(width, width, kernel, groups=width, padding=kernel - 1, bias=False)

    def forward(self, x):
        return F.silu(super().forward(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))


def delta_rule(q, k, v, beta, g):
    """Heads of [B, T, H, .]: the gated delta rule, a token at a time. The state is [B, H, K, V]."""
    b, t, h, _ = k.shape
    state, out = q.new_zeros(b, h, k.shape[-1], v.shape[-1]), []
    for i in range(t):
        state = state * g[:, i].exp()[..., None, None]
        old = torch.einsum("bhk,bhkv->bhv", k[:, i], state)
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, i], (v[:, i] - old) * beta[:, i][..., None])
        out.append(torch.einsum("bhk,bhkv->bhv", q[:, i] * k.shape[-1] ** -0.5, state))
    return torch.stack(out, 1), state


class Linear(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, d, k = c, c["hidden_size"], c["num_heads"] * c["head_dim"]
        self.h, self.hv, self.v = c["num_heads"], c["num_v_heads"] or c["num_heads"], int(c["head_dim"] * c["expand_v"])
        v = self.hv * self.v
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(d, k, False), nn.Linear(d, k, False), nn.Linear(d, v, False)
        self.a_proj, self.b_proj = nn.Linear(d, self.hv, False), nn.Linear(d, self.hv, False)
        self.A_log, self.dt_bias = nn.Parameter(torch.zeros(self.hv)), nn.Parameter(torch.zeros(self.hv))
        if c["use_short_conv"]:
            self.q_conv1d, self.k_conv1d, self.v_conv1d = Conv(k, c["conv_size"]), Conv(k, c["conv_size"]), Conv(v, c["conv_size"])
        if c["use_gate"]:
            self.g_proj = nn.Linear(d, v, False)
        self.o_norm, self.o_proj = Norm(self.v, c["norm_eps"]), nn.Linear(v, d, False)

    def forward(self, x, memory):
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if memory is not None and self.c["use_short_conv"]:
            memory["conv"] = torch.cat([q, k, v], -1)[:, -self.c["conv_size"] :].transpose(1, 2)
        if self.c["use_short_conv"]:
            q, k, v = self.q_conv1d(q), self.k_conv1d(k), self.v_conv1d(v)
        else:
            q, k, v = F.silu(q), F.silu(k), F.silu(v)
        q, k, v = q.unflatten(-1, (self.h, -1)), k.unflatten(-1, (self.h, -1)), v.unflatten(-1, (self.hv, -1))
        q, k = (y * torch.rsqrt(y.pow(2).sum(-1, keepdim=True) + 1e-6) for y in (q, k))
        q, k = (y.repeat_interleave(self.hv // self.h, 2) for y in (q, k))
        beta = self.b_proj(x).sigmoid() * (2.0 if self.c["allow_neg_eigval"] else 1.0)
        g = -self.A_log.exp() * F.softplus(self.a_proj(x) + self.dt_bias)
        o, state = delta_rule(q, k, v, beta, g)
        if memory is not None:
            memory["recurrent"] = state
        o = self.o_norm(o)
        if self.c["use_gate"]:
            o = o * F.silu(self.g_proj(x)).unflatten(-1, (self.hv, -1))
        return self.o_proj(o.flatten(2))


class Softmax(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a, d = c["attn"], c["hidden_size"]
        self.d = d // self.a["num_heads"]
        kv, bias = self.a["num_kv_heads"] * self.d, self.a["qkv_bias"]
        self.q_proj, self.o_proj = nn.Linear(d, d, bias), nn.Linear(d, d, False)
        self.k_proj, self.v_proj = nn.Linear(d, kv, bias), nn.Linear(d, kv, bias)

    def rotate(self, x):
        half = self.d // 2
        angle = torch.arange(x.shape[1])[:, None] * self.a["rope_theta"] ** (-torch.arange(half) / half)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def forward(self, x, memory):
        q, k, v = (p(x).unflatten(-1, (-1, self.d)) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.rotate(q), self.rotate(k)
        if memory is not None:
            memory["k"], memory["v"] = k.transpose(1, 2), v.transpose(1, 2)
        back = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        seen = (back >= 0) & (back < (self.a["window_size"] or LENGTH))
        r = q.shape[2] // k.shape[2]
        q, k, v = q.transpose(1, 2), k.repeat_interleave(r, 2).transpose(1, 2), v.repeat_interleave(r, 2).transpose(1, 2)
        scores = (q @ k.transpose(2, 3) * self.d**-0.5).masked_fill(~seen, -math.inf)
        return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, d, f):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(d, f, False), nn.Linear(d, f, False), nn.Linear(f, d, False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class FlaBlock(nn.Module):
    def __init__(self, c, layer):
        super().__init__()
        d = c["hidden_size"]
        full = c["attn"] is not None and layer in c["attn"]["layers"]
        self.attn_norm, self.mlp_norm = Norm(d, c["norm_eps"]), Norm(d, c["norm_eps"])
        self.attn, self.mlp = (Softmax if full else Linear)(c), Gated(d, c["intermediate_size"])

    def forward(self, x, memory):
        x = x + self.attn(self.attn_norm(x), memory)
        return x + self.mlp(self.mlp_norm(x))


class Fla(nn.Module):
    DEFAULTS = dict(model_type="gated_deltanet", architectures=["GatedDeltaNetForCausalLM"], attn_mode="chunk", num_v_heads=None, use_gate=True,
                    use_short_conv=True, allow_neg_eigval=False, conv_size=4, hidden_ratio=4, hidden_act="swish", norm_eps=1e-6, fuse_norm=True,
                    fuse_swiglu=True, fuse_cross_entropy=True, use_l2warp=False, tie_word_embeddings=False, initializer_range=0.02, use_cache=True)

    def __init__(self, settings):
        super().__init__()
        c = self.c = {**self.DEFAULTS, **SIZES, **ENDS, **settings}
        self.model = nn.Module()
        self.model.embeddings = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.model.layers = nn.ModuleList(FlaBlock(c, i) for i in range(c["num_hidden_layers"]))
        self.model.norm = Norm(c["hidden_size"], c["norm_eps"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], False)

    def forward(self, ids, memories=None):
        x = self.model.embeddings(ids)
        for i, layer in enumerate(self.model.layers):
            x = layer(x, None if memories is None else memories[i])
        return self.lm_head(self.model.norm(x))

    def save_pretrained(self, folder, **_):
        save_file({name: p.data.contiguous() for name, p in self.named_parameters()}, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.c, indent=2) + "\n")


def check_rule():
    """The rule above against the package's naive one."""
    from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule as theirs

    torch.manual_seed(1)
    q, k = (F.normalize(torch.randn(1, 40, 3, 8), dim=-1) for _ in "qk")
    v, beta, g = torch.randn(1, 40, 3, 12), torch.rand(1, 40, 3) * 2, -torch.rand(1, 40, 3)
    mine = delta_rule(q, k, v, beta, g)[0]
    other = theirs(q=q, k=k, v=v, beta=beta, g=g)
    other = other[0] if isinstance(other, tuple) else other
    print(f"the naive rule of flash-linear-attention: {(mine - other).abs().max():.1e} from this one")
    assert (mine - other).abs().max() < 1e-5


# --- weights, and what comes of them -------------------------------------------------------------------------------

def draw(model, seed, zero_centred, keys):
    """Harsh weights: matrices stored in bf16 exactly, all else in f32. The `keys` first channels of a convolution are those of
    q and k, which get so short that what is added to the square of their length shows."""
    make = torch.Generator().manual_seed(seed)
    normal = lambda p: torch.randn(p.shape, generator=make)
    halves = set()
    for name, p in model.named_parameters():
        with torch.no_grad():
            if name.endswith("A_log"):
                # Half-lives from a token to some hundreds.
                p.copy_(torch.linspace(-4.0, 1.0, p.numel()) + 0.3 * normal(p))
            elif name.endswith("dt_bias") or name.endswith(".bias"):
                p.copy_(0.5 * normal(p))
            elif "norm" in name:
                if zero_centred and not name.endswith("linear_attn.norm.weight"):
                    # As they are released: 1 + w is exact then, and so is the way back.
                    p.copy_((0.4 * normal(p)).bfloat16())
                    halves.add(name)
                else:
                    p.copy_(0.4 * normal(p) + 1.0)
            else:
                scale = 0.6 if "conv1d" in name else 0.5 if "embed" in name else 1.6 / math.sqrt(p.shape[-1])
                scale = torch.full_like(p, scale)
                scale[: keys if ".conv1d" in name else p.shape[0] if "q_conv1d" in name or "k_conv1d" in name else 0] *= SHORT
                p.copy_((scale * normal(p)).bfloat16())
                halves.add(name)
    return halves


def remembered(model, ids):
    """What the layers keep of ids, by layer and kind."""
    if isinstance(model, Fla):
        memories = [{} for _ in model.model.layers]
        model(ids, memories)
    else:
        out = model(ids, use_cache=True)
        cache = getattr(out, "cache", None) or out.past_key_values
        memories = []
        for layer in cache.layers:
            kinds = dict(k="keys", v="values", recurrent="recurrent_states", conv="conv_states")
            found = {kind: getattr(layer, name, None) for kind, name in kinds.items()}
            found = {kind: x[0] if isinstance(x, (list, tuple)) and x else x for kind, x in found.items()}
            found = {kind: next(iter(x.values())) if isinstance(x, dict) and x else x for kind, x in found.items()}
            memories.append({kind: x for kind, x in found.items() if torch.is_tensor(x) and x.numel()})
    return {f"memory.{i}.{kind}": x.detach().contiguous().clone() for i, found in enumerate(memories) for kind, x in found.items()}


def logits_of(model, ids):
    return model(ids) if isinstance(model, Fla) else model(ids, use_cache=False).logits


def attempt(name, seed):
    kind, network, settings = FAMILIES[name]
    torch.manual_seed(seed)
    if kind == "fla":
        model = Fla(settings)
    else:
        config = kind(**{**SIZES, **ENDS, **settings})
        config._attn_implementation = "eager"
        model = network(config).float()
    model.eval()
    keys = 0 if kind == "fla" else 2 * getattr(config, "linear_num_key_heads", 0) * getattr(config, "linear_key_head_dim", 0)
    halves = draw(model, seed, name.startswith("qwen3_"), keys)
    ids = torch.randint(3, SIZES["vocab_size"], (ROWS, LENGTH), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = logits_of(model, ids)
        text, margin = ids[:1, :PROMPT], math.inf
        for _ in range(GREEDY):
            two = logits_of(model, text)[0, -1].topk(2)
            margin = min(margin, (two.values[0] - two.values[1]).item())
            text = torch.cat([text, two.indices[:1][None]], 1)
        distinct = text[0, PROMPT:].unique().numel()
        memory = remembered(model, ids[:, :REMEMBERED])
    if margin < MARGIN or logits.std() < SPREAD or distinct < 5:
        return None
    loss = F.cross_entropy(logits_of(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    gradients = {f"gradient.{n}": p.grad for n, p in model.named_parameters() if wanted(n)}
    expected = {"ids": ids.to(torch.uint8), "logits": logits, "greedy": text[0, PROMPT:].to(torch.uint8), "loss": loss.detach()[None], **memory, **gradients}
    return model, halves, {k: v.detach().contiguous() for k, v in expected.items()}, margin, logits.std().item()


def expect(folder):
    """What transformers computes with the model in a folder, in f32; shorter, and without gradients."""
    model = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(3, max(vocabulary - 256, vocabulary // 2), (1, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, text = logits_of(model, ids), ids[:, :PROMPT]
        for _ in range(GREEDY):
            text = torch.cat([text, logits_of(model, text)[0, -1:].argmax(-1)[None]], 1)
    expected = {"ids": ids, "logits": logits, "greedy": text[0, PROMPT:]}
    save_file({k: v.to(torch.int32) if k != "logits" else v.contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


CHATML = """{%- for m in messages %}
    {%- if m.role == 'system' and not loop.first %}{{- raise_exception('The system speaks first.') }}{%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if tools is not none %}{{- 'tools' }}{%- endif %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>' }}{%- endif %}{%- endif %}"""
INST = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[u] ' + m['content'].strip() + ' [a] ' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"


def words(folder, bos):
    """A tokenizer of 64 characters and marks, and what transformers makes of a text and of a conversation with it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    marks = ["<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>"]
    letters = "abcdefghijklmnopqrstuvwxyzTHISW .,:!?'\n[]0123456789"
    vocabulary = {token: i for i, token in enumerate(marks + list(letters))}
    assert len(vocabulary) <= SIZES["vocab_size"]
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.decoder = decoders.Fuse()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    ends = dict(bos_token="<s>", eos_token="</s>") if bos else dict(eos_token="<|im_end|>")
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", **ends)
    fast.chat_template = INST if bos else CHATML
    fast.save_pretrained(folder)
    text, talk = "This was the cat.", [{"role": "user", "content": " Was it the cat? "}]
    said = fast.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    ids = fast.apply_chat_template(talk, tokenize=True, add_generation_prompt=True, return_dict=True)["input_ids"]
    expected = dict(text=text, ids=fast(text)["input_ids"], talk=talk, said=said, said_ids=ids)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def wanted(name):
    """Small ones of all layers, and matrices of both kinds of layer."""
    small = any(word in name for word in ("norm", "conv1d", "A_log", "dt_bias", "bias", "a_proj", "b_proj", "in_proj_a", "in_proj_b"))
    return small or any(word in name for word in ("embed", "k_proj", "in_proj_qkv", "attn.q_proj"))


def make(name):
    found = next(filter(None, (attempt(name, seed) for seed in range(1, 200))))
    model, halves, expected, margin, spread = found
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.grad = None
            if n in halves:
                p.data = p.data.bfloat16()
    # One of them in several files.
    model.save_pretrained(folder, **({"max_shard_size": "20KB"} if name == "qwen3" else {}))
    save_file(expected, folder / "expected.safetensors")
    if name in WORDED:
        words(folder, WORDED[name])
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size} bytes, margin {margin:.3f}, spread {spread:.2f}, {sorted(k for k in expected if k.startswith('memory'))}")
    assert size <= LARGEST, size


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["rule"]:
        check_rule()
    elif sys.argv[1:2] == ["expect"]:
        expect(pathlib.Path(sys.argv[2]))
    else:
        for family in sys.argv[1:] or FAMILIES:
            make(family)
