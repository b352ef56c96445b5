"""Seconds of one training step's gradients, every way in every round, as ratios to the published way in that round."""

import gc
import random
import time
from statistics import median, quantiles

import torch
from sizes import MOMENTUM, STEPS, Size
from tqdm.auto import tqdm
from ways import WAYS
from weights import model_with, sentences

TIMED = [name for name in WAYS if name != "published, not clipped"]
ROUNDS = {"S": 9, "M": 5}
SECONDS = {"S": 4.0, "M": 0.0}  # go on with more rounds until so much time is spent


def rows(size: Size, device: str, known, steps=STEPS, seconds: dict = SECONDS, ways=TIMED):
    """Yield one row a way and number of inner steps. ``known`` says of a row whether it is already there."""
    for k in steps:
        heads = {way: dict(kind="time", size=size.name, k=k, way=way, weights="initial", dtype="float32",
                           rate=size.rate) for way in ways}  # fmt: skip
        missing = [way for way in ways if not known(heads[way])]
        if missing:
            runs, failed = _ready({"vae", "published", *missing}, size, device, k)
            taken = _measure(
                runs, device, ROUNDS.get(size.name, 3), seconds.get(size.name, 0.0), f"time {size.name} K={k}"
            )
            for way in missing:
                found = {"error": failed[way]} if way in failed else _summary(way, taken)
                yield heads[way] | found


def _ready(ways, size: Size, device: str, k: int):
    """One call without arguments a way, each warmed up; and what went wrong, by way."""
    model = model_with("initial", size).to(device)
    (x,), eps = sentences(size, 1, seed=2), size.noise(k, seed=3)
    x, eps = x.to(device), eps.to(device)
    runs, failed = {}, {}
    for way in sorted(ways):
        try:
            made = WAYS[way](model)
            made.step(x, eps[-min(k, 10) - 1 :], rate=size.rate, momentum=MOMENTUM)
            runs[way] = lambda made=made: made.step(x, eps, rate=size.rate, momentum=MOMENTUM)
        except Exception as error:
            failed[way] = f"{type(error).__name__}: {error}"[:500]
    return runs, failed


def _measure(runs, device: str, least: int, seconds: float, title: str) -> dict[str, list[float]]:
    gc.collect()
    gc.freeze()  # so that collecting again before every call is quick
    taken = {way: [] for way in runs}
    order, start, rounds = random.Random(0), time.perf_counter(), 0
    with tqdm(desc=title, unit="round") as bar:
        while rounds < least or (time.perf_counter() - start < seconds and rounds < 50):
            for way in order.sample(sorted(runs), len(runs)):
                gc.collect()
                _wait(device)
                begin = time.perf_counter()
                runs[way]()
                _wait(device)
                taken[way].append(time.perf_counter() - begin)
            rounds += 1
            bar.update()
    return taken


def _summary(way: str, taken: dict[str, list[float]]) -> dict:
    mine, theirs = taken[way], taken["published"]
    ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
    low, _, high = quantiles(ratios, n=4, method="inclusive")
    return dict(
        seconds=median(mine),
        ratio=median(ratios),
        ratio_low=low,
        ratio_high=high,
        vae_ratio=median(a / b for a, b in zip(mine, taken["vae"], strict=True)),
        rounds=len(mine),
    )


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
