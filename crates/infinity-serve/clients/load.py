"""Many clients of `infinity serve` at once, and its memory meanwhile. Usage: load.py ADDRESS PID [clients] [seconds]

Each client opens a session, appends, asks, streams, forks and deletes, over and over. Any status that is not expected
ends with an error, and so does a resident memory that in the last quarter is more than a twentieth above the second
quarter's.
"""

import json
import pathlib
import sys
import threading
import time
import urllib.error
import urllib.request

address, pid = sys.argv[1], sys.argv[2]
clients, seconds = int(sys.argv[3]) if len(sys.argv) > 3 else 64, int(sys.argv[4]) if len(sys.argv) > 4 else 300
end = time.time() + seconds
lock, counts, wrong = threading.Lock(), {}, []


def call(method, path, body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    request = urllib.request.Request(address + path, data, headers, method=method)
    while True:
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code != 429:
                raise
            with lock:
                counts["429"] = counts.get("429", 0) + 1
            time.sleep(float(error.headers["retry-after"]))


def work(number):
    turn = 0
    while time.time() < end and not wrong:
        try:
            turn += 1
            session = json.loads(call("POST", "/v1/sessions", {"name": f"client {number}"}))["id"]
            text = f"One day number {number} met number {turn}. " * 20
            call("POST", f"/v1/sessions/{session}/append", {"text": text}, {"idempotency-key": f"{number}-{turn}"})
            ask = {"prompt": "Then", "max_tokens": 16, "session_id": session, "stream": turn % 2 == 0}
            call("POST", "/v1/completions", ask)
            fork = json.loads(call("POST", f"/v1/sessions/{session}/fork", {}))["id"]
            for one in (session, fork):
                call("DELETE", f"/v1/sessions/{one}")
            with lock:
                counts["turns"] = counts.get("turns", 0) + 1
        except Exception as error:  # noqa: BLE001: whatever it is, it is wrong
            body = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
            wrong.append(f"client {number}: {error} {body}")


def resident():
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
for thread in threads:
    thread.start()
memory = []
while any(thread.is_alive() for thread in threads):
    memory.append(resident())
    time.sleep(1)
assert not wrong, wrong[:3]
quarter = len(memory) // 4
early, late = max(memory[quarter : 2 * quarter]), max(memory[-quarter:])
print(f"{clients} clients, {seconds} s: {counts}; resident memory {early >> 10} MiB, then {late >> 10} MiB")
assert late <= 1.05 * early, memory
