"""A model directory of another family in transformers on the CPU, driven by the bench `decoding -- --model DIR --python PYTHON`.

python others.py DIR DTYPE THREADS

Answers one JSON line to every line on standard input: "prompt N" reads N tokens of one text, "decode ROWS STEPS" goes on from
16 tokens of so many texts, "last ID ID …" gives the logits after these tokens. Needs torch and transformers.
"""
import json, statistics, sys, time
import torch
import transformers

DIR, DTYPE, THREADS = sys.argv[1], sys.argv[2], int(sys.argv[3])
START = 16
torch.set_num_threads(THREADS)
torch.manual_seed(1)
torch.set_grad_enabled(False)
transformers.logging.set_verbosity_error()
model = transformers.AutoModelForCausalLM.from_pretrained(DIR, dtype=getattr(torch, DTYPE)).eval()


def read(tokens, cache=None):
    made = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return made.logits[:, -1], made.past_key_values


def random(rows, length):
    return torch.randint(0, model.config.get_text_config().vocab_size, (rows, length))


def timed(work):
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def decode(rows, steps):
    tokens = random(rows, START + steps)
    _, cache = read(tokens[:, :START])
    times = []
    for t in range(START, START + steps):
        (_, cache), seconds = timed(lambda: read(tokens[:, t : t + 1], cache))
        times.append(seconds)
    return statistics.median(times)


tokens, cache = random(1, 20), None
whole, _ = read(tokens)
for t in range(20):
    one_by_one, cache = read(tokens[:, t : t + 1], cache)
apart = ((one_by_one - whole).abs().max() / whole.abs().max()).item()
count = sum(p.numel() for p in model.parameters())
about = f"transformers {transformers.__version__}, {type(model).__name__} in {DTYPE}, {count} parameters"
print(json.dumps({"about": about, "torch": torch.__version__, "apart": apart}), flush=True)
for line in sys.stdin:
    word, *numbers = line.split()
    numbers = [int(n) for n in numbers]
    if word == "last":
        print(json.dumps({"logits": read(torch.tensor([numbers]))[0][0].tolist()}), flush=True)
    else:
        seconds = timed(lambda: read(random(1, *numbers)))[1] if word == "prompt" else decode(*numbers)
        print(json.dumps({"seconds": seconds}), flush=True)
