"""How far every way's gradient is from the float64 reference: encoder and decoder apart, medians over batches."""

import copy
import math
import warnings
from statistics import median

import torch
from reference import Reference, reference
from sizes import MOMENTUM, STEPS, Size
from torch import Tensor
from tqdm.auto import tqdm
from ways import OURS, WAYS
from weights import model_with, sentences

COMPARED = [(way, "float32") for way in WAYS if way != "vae"] + [(way, "float64") for way in OURS]
BATCHES = 3


def rows(size: Size, device: str, known, steps=STEPS, weights=("initial", "trained"), skip=()):
    """Yield one row a way, number of inner steps, kind of weights and inner rate.

    The large rate is for K = 20 and trained weights: at the start no such rate is too large.
    """
    settings = [(kind, k, size.rate) for kind in weights for k in steps]
    if "trained" in weights and 20 in steps:
        settings.append(("trained", 20, size.large_rate))
    for kind, k, rate in settings:
        same = dict(kind="error", size=size.name, k=k, weights=kind, rate=rate)
        heads = [same | dict(way=way, dtype=dtype) for way, dtype in COMPARED if way not in skip]
        missing = [head for head in heads if not known(head)]
        yield from _measure(missing, size, device) if missing else ()


def _measure(heads: list[dict], size: Size, device: str):
    same = heads[0]
    model = model_with(same["weights"], size).to(device)
    batches = [(x.to(device), size.noise(same["k"], seed=40 + i).to(device))
               for i, x in enumerate(sentences(size, BATCHES, seed=4))]  # fmt: skip
    settings = dict(rate=same["rate"], momentum=MOMENTUM)
    title = f"error {size.name} K={same['k']} {same['weights']} {same['rate']}"
    bar = tqdm(total=len(batches) * (1 + len(heads)), desc=title)
    exact = []
    for x, eps in batches:
        exact.append(reference(model, x, eps, **settings))
        bar.update()
    for head in heads:
        yield head | _errors(head, model, batches, exact, settings, bar)
    bar.close()


def _errors(head: dict, model, batches, exact: list[Reference], settings: dict, bar) -> dict:
    dtype = getattr(torch, head["dtype"])
    try:
        way = WAYS[head["way"]](_in(dtype, model))
        found = []
        for (x, eps), target in zip(batches, exact, strict=True):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "the reverse pass", RuntimeWarning)  # its growth is in the row
                way.step(x, eps.to(dtype), **settings)
            found.append(compare(way.gradients(), target.gradients))
            bar.update()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:500]}
    names = ("error_encoder", "error_decoder", "cosine")
    middle = {name: _finite(median(values)) for name, values in zip(names, zip(*found, strict=True), strict=True)}
    return middle | dict(growth=median(target.growth for target in exact), rounds=len(batches))


def compare(gradients: dict[str, Tensor], target: dict[str, Tensor]) -> tuple[float, float, float]:
    """‖g − g*‖ / ‖g*‖ of the encoder and of the decoder, and the cosine of the encoder's g and g*."""
    found = {name: gradient.detach().double() for name, gradient in gradients.items()}
    parts = [[name for name in target if name.startswith("encoder.") == encoder] for encoder in (True, False)]
    joined = [[torch.cat([of[name].flatten() for name in part]) for of in (found, target)] for part in parts]
    errors = [((g - exact).norm() / exact.norm()).item() for g, exact in joined]
    g, exact = joined[0]
    return *errors, (g @ exact / (g.norm() * exact.norm())).item()


def _in(dtype: torch.dtype, model):
    return copy.deepcopy(model).to(dtype)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
