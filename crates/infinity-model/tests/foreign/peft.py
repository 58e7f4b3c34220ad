"""What the Python package PEFT makes of two of the folders beside this file: adapters before and after ten steps of plain SGD.

    python3 peft.py

Needs what make.py needs, and peft 0.21. `adapters/FAMILY/start` and `end` are as PEFT saves them; `expected.json` holds the
ids [rows, length], the mean cross-entropy of the next token before each step and after the last, and the logits after it of the
first row. B starts at zero, as ever, and A from a seed.
"""

import json, pathlib, shutil, sys
# This file has the package's name.
sys.path = [path for path in sys.path if pathlib.Path(path or ".").resolve() != pathlib.Path(__file__).parent.resolve()]
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model

HERE = pathlib.Path(__file__).parent
ROWS, LENGTH, STEPS = 2, 40, 10
# Matrices that are one of ours, and those that are several: q, k and v; a query with its gate.
FAMILIES = {
    "llama": (["q_proj", "v_proj", "o_proj", "down_proj"], 0.1),
    "qwen3_5": (["in_proj_qkv", "in_proj_b", "out_proj", "q_proj", "up_proj"], 0.05),
}


def made(family, targets, rate):
    folder, base = HERE / "adapters" / family, HERE / family
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(7)
    model = hf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    config = LoraConfig(r=2, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    ids = torch.randint(3, 64, (ROWS, LENGTH))
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def save(name):
        model.peft_config["default"].base_model_name_or_path = f"../../../{family}"
        model.save_pretrained(folder / name)
        (folder / name / "README.md").unlink()
        config = folder / name / "adapter_config.json"
        said = json.loads(config.read_text())
        said["target_modules"].sort()
        config.write_text(json.dumps(said, indent=2) + "\n")

    def loss():
        logits = model(ids).logits[:, :-1]
        return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))

    save("start")
    losses, optimizer = [], torch.optim.SGD(learned, lr=rate)
    for _ in range(STEPS):
        optimizer.zero_grad()
        now = loss()
        now.backward()
        optimizer.step()
        losses.append(now.item())
    save("end")
    with torch.no_grad():
        losses.append(loss().item())
        logits = model(ids).logits[0].flatten().tolist()
    print(family, losses)
    assert losses[-1] < losses[0] - 0.5, "it learns"
    text = json.dumps(dict(rate=rate, ids=ids.tolist(), losses=losses, logits=[round(x, 6) for x in logits]))
    (folder / "expected.json").write_text(text + "\n")


for family, (targets, rate) in FAMILIES.items():
    made(family, targets, rate)
