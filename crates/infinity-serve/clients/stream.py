"""What `infinity stream` promises of a text without end. Usage: stream.py INFINITY MODEL TEXT [MILLIONS]

A growing file through `tail -f` gives a line a line; SIGUSR1 keeps the state and goes on, Ctrl-C keeps it and ends, and
`--resume` after it has the bits of never having stopped; resident memory after MILLIONS (10) million tokens of TEXT, over
and over, is at most a twentieth above that after one million.
"""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

sys.stdout.reconfigure(line_buffering=True)
infinity, model, text = sys.argv[1:4]
millions = int(sys.argv[4]) if len(sys.argv) > 4 else 10
folder = pathlib.Path(tempfile.mkdtemp())
book = pathlib.Path(text).read_bytes()


def stream(*options, **how):
    return subprocess.Popen([infinity, "stream", model, *options], stdout=subprocess.PIPE, **how)


def wait_for(file):
    end = time.time() + 60
    while not file.exists():
        assert time.time() < end, f"{file} was not written"
        time.sleep(0.01)


def kept(state):
    """What a state holds, bit for bit: all but how it came to be, and the checksum, which covers that too."""
    data = state.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    notes = header.pop("__metadata__")
    notes.pop("command"), notes.pop("checksum")
    start = 8 + size
    tensors = {name: data[start + x["data_offsets"][0] : start + x["data_offsets"][1]] for name, x in header.items()}
    return notes, tensors


# A growing file, a line at a time.
log = folder / "app.log"
log.touch()
tail = subprocess.Popen(["tail", "-n", "+1", "-f", log], stdout=subprocess.PIPE)
reader = stream("-", "--json", "--state-out", folder / "log.state", stdin=tail.stdout, stderr=subprocess.DEVNULL)
slowest = 0
with log.open("a") as out:
    for number in range(20):
        started = time.time()
        print(f"line {number} of a log that grows", file=out, flush=True)
        told = json.loads(reader.stdout.readline())
        assert told["line"] == number + 1 and f"line {number} " in told["text"], told
        slowest = max(slowest, time.time() - started) if number else 0
reader.send_signal(signal.SIGUSR1)
wait_for(folder / "log.state")
with log.open("a") as out:
    print("after the signal it goes on", file=out, flush=True)
assert "goes on" in json.loads(reader.stdout.readline())["text"]
tail.kill()
assert reader.wait(60) == 0
print(f"tail -f: 20 lines, each told at most {1e3 * slowest:.0f} ms after it was written; SIGUSR1 kept the state and it went on")

# Ctrl-C in the middle of a file, then on from there.
part = folder / "part.txt"
part.write_bytes(book[:400_000])
assert stream(part, "--emit", "none", "--state-out", folder / "whole.state", stderr=subprocess.DEVNULL).wait() == 0
stopped = stream(part, "--emit", "none", "--state-out", folder / "stopped.state", stderr=subprocess.DEVNULL)
time.sleep(1.5)
stopped.send_signal(signal.SIGINT)
code = stopped.wait(60)
early = kept(folder / "stopped.state")
resumed = stream(part, "--emit", "none", "--state-out", folder / "stopped.state", "--resume", stderr=subprocess.DEVNULL)
assert resumed.wait() == 0
late, whole = kept(folder / "stopped.state"), kept(folder / "whole.state")
assert early != whole, "it was stopped too late: this check cannot fail"
assert late == whole, (late[0], whole[0])
print(f"Ctrl-C: exit status {code}; --resume ended in the bits of never having stopped")


def resident(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


# Memory, looked at whenever half a million tokens were told of.
endless = subprocess.Popen(["sh", "-c", 'while cat "$0"; do :; done', text], stdout=subprocess.PIPE)
reader = stream("-", "--json", stdin=endless.stdout, stderr=subprocess.DEVNULL)
seen, next_look = [], 500_000
for line in reader.stdout:
    position = json.loads(line)["position"]
    if position >= next_look:
        seen.append((position, resident(reader.pid)))
        next_look += 500_000
        if position >= millions * 1_000_000:
            break
endless.kill()
reader.send_signal(signal.SIGINT)
reader.stdout.read()
reader.wait(60)
one = max(memory for position, memory in seen if position < 1_600_000)
late = max(memory for position, memory in seen if position > (millions - 1) * 1_000_000)
print(f"memory: {one:.1f} MiB around 1 M tokens, {late:.1f} MiB around {seen[-1][0] / 1e6:.1f} M ({late / one - 1:+.1%})")
assert late <= 1.05 * one, seen
