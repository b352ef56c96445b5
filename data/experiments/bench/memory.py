"""Peak memory of one training step's gradients, each way in a process of its own, above what the model itself takes.

On a CPU the peak is the process's, reset by Linux on demand; on a GPU it is the allocator's.
"""

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

import torch
from sizes import MOMENTUM, SIZES, STEPS, Size
from tqdm.auto import tqdm
from ways import WAYS
from weights import model_with, sentences

MEASURED = [name for name in WAYS if name not in ("published, not clipped", "compiled")]  # a compiler's peak is its own
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def rows(size: Size, device: str, known, steps=STEPS):
    """Yield one row a way and number of inner steps."""
    for way in tqdm(MEASURED, desc=f"memory {size.name}"):
        heads = [dict(kind="memory", size=size.name, k=k, way=way, weights="initial", dtype="float32", rate=size.rate)
                 for k in steps]  # fmt: skip
        missing = [head for head in heads if not known(head)]
        if missing:
            found = _in_a_process(size, way, device, sorted(head["k"] for head in missing))
            yield from (head | part for head, part in zip(missing, found, strict=True))


def peaks(size: Size, way: str, device: str, steps) -> list[dict]:
    """Peak memory in MB for each number of inner steps, ascending; meant for a fresh process."""
    model = model_with("initial", size).to(device)
    (x,) = sentences(size, 1, seed=2)
    x, noise = x.to(device), size.noise(max(steps), seed=3).to(device)
    settings = dict(rate=size.rate, momentum=MOMENTUM)
    WAYS["vae"](model).step(x, noise[-1:], **settings)
    try:
        WAYS[way](model).step(x[:1], noise[-2:, :, :1], **settings)  # loads the code that this way runs
        model.zero_grad(set_to_none=True)
        made = WAYS[way](model)
        before, found = _now(device), []
        for k in steps:
            _reset(device)
            made.step(x, noise[-k - 1 :], **settings)
            found.append({"peak_mb": (_peak(device) - before) / 2**20})
        return found
    except Exception as error:
        return [{"error": f"{type(error).__name__}: {error}"[:500]}] * len(steps)


def main(name: str, way: str, device: str, threads: str, *steps: str) -> None:
    """What a process of its own runs: print `peaks` as JSON."""
    torch.set_num_threads(int(threads))
    print(json.dumps(peaks(SIZES[name], way, device, [int(k) for k in steps])))


def _in_a_process(size: Size, way: str, device: str, steps) -> list[dict]:
    wanted = [size.name, way, device, str(torch.get_num_threads()), *map(str, steps)]
    done = subprocess.run([sys.executable, __file__, *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        return [{"error": done.stderr.strip().splitlines()[-1][:500]}] * len(steps)
    return json.loads(done.stdout.splitlines()[-1])


def _now(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def _reset(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        RESET.write_text("5")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if torch.device(device).type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    """A figure of /proc/self/status in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
