"""lm-eval through `local-completions`, against `infinity eval`. Usage: lm_eval_task.py ADDRESS INFINITY MODEL TEXT [paragraphs]

Needs the package `lm-eval` with its `api` extra. Makes a task of paragraphs of TEXT, of which the first word is given; the
log-likelihood that lm-eval finds over HTTP is the loss that `infinity eval` finds on the same paragraph in a file.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import lm_eval
from lm_eval.tasks import TaskManager

address, infinity, model, text = sys.argv[1:5]
count = int(sys.argv[5]) if len(sys.argv) > 5 else 12
folder = pathlib.Path(tempfile.mkdtemp())


def call(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"content-type": "application/json"})
    return json.loads(urllib.request.urlopen(request).read())


def tokens(text):
    return call("/tokenize", {"prompt": text})["tokens"]


paragraphs = [part.strip() for part in pathlib.Path(text).read_text().split("\n\n")]
rows = []
for paragraph in paragraphs:
    first = call("/detokenize", {"tokens": tokens(paragraph)[:1]})["prompt"] if paragraph else ""
    rest = paragraph[len(first) :]
    # lm-eval asks for both at once and counts the first part's tokens.
    if first and len(tokens(first)) == 1 and 20 < len(tokens(paragraph)) < 1500:
        rows.append({"first": first, "rest": rest})
    if len(rows) == count:
        break
assert len(rows) >= 3, "TEXT has too few paragraphs"
data = folder / "paragraphs.jsonl"
data.write_text("".join(json.dumps(row) + "\n" for row in rows))
(folder / "paragraphs.yaml").write_text(
    json.dumps(
        {
            "task": "paragraphs",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "loglikelihood",
            "doc_to_text": "{{first}}",
            "doc_to_target": "{{rest}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
        }
    )
)
found = lm_eval.simple_evaluate(
    model="local-completions",
    model_args={
        "model": call("/v1/models")["data"][0]["id"],
        "base_url": f"{address}/v1/completions",
        "tokenizer_backend": "remote",
        "tokenized_requests": True,
        "max_length": 4096,
    },
    tasks=["paragraphs"],
    task_manager=TaskManager(include_path=str(folder)),
    batch_size=4,
    bootstrap_iters=0,
)
samples = sorted(found["samples"]["paragraphs"], key=lambda sample: sample["doc_id"])
worst, losses = 0, []
for sample, row in zip(samples, rows, strict=True):
    told = float(sample["filtered_resps"][0][0])
    alone = folder / "alone.txt"
    alone.write_text(row["first"] + row["rest"])
    command = [infinity, "eval", model, "--file", alone, "--max-seq-length", "4096", "--json"]
    own = json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL))
    losses.append(-own["loss"] * own["tokens"])
    worst = max(worst, abs(told - losses[-1]) / abs(losses[-1]))
assert len({round(loss, 3) for loss in losses}) == len(losses), "all alike: this check cannot fail"
print(f"lm-eval {lm_eval.__version__}: {len(rows)} paragraphs, log-likelihood at most {worst:.1e} off `infinity eval`'s")
assert worst < 1e-5, worst
