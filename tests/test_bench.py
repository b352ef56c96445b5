"""data/experiments/bench: what the library is compared with computes what it claims to; no time is asserted."""

import sys
from pathlib import Path
from runpy import run_path

import pytest
import torch
from cases import noise, sentences, tiny_lstmvae

from savae_lite.adjoint import kept
from savae_lite.savae import savae_loss

BENCH = Path(__file__).parent.parent / "data" / "experiments" / "bench"
SETTINGS = dict(rate=0.1, momentum=0.5)


@pytest.fixture(scope="module")
def bench():
    """The benchmark's folder is where its modules look for one another; it sets the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.path.insert(0, str(BENCH))
    yield
    sys.path.remove(str(BENCH))
    torch.set_num_threads(threads)


@pytest.fixture
def problem():
    """A model, sentences and noise of four inner steps, in float64."""
    return tiny_lstmvae(), sentences(), noise(5, 1, 3, 2, seed=21)


def gradients(way, x, eps):
    way.step(x, eps, **SETTINGS)
    return {name: gradient.clone() for name, gradient in way.gradients().items()}


def apart(found, wanted):
    """The largest difference of two sets of gradients, in units of the larger norm."""
    assert found.keys() == wanted.keys()
    size = torch.cat([g.flatten() for g in wanted.values()]).norm()
    return max(((found[name] - wanted[name]).norm() / size).item() for name in wanted)


def test_the_stock_model_is_ours(bench, problem):
    from stock import Stock

    model, x, eps = problem
    stock = Stock(model)
    ours, theirs = savae_loss(model, x, eps[-1:], lr=0.1), stock.nelbo(x, stock.encode(x), eps[-1])
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-10)
    ours.mean().backward()
    theirs.mean().backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.numel()}
    assert apart(stock.gradients(), named) < 1e-10


def test_the_reference_is_our_gradient_and_measures_growth(bench, problem):
    from reference import reference
    from ways import Ours

    model, x, eps = problem
    exact = reference(model, x, eps, **SETTINGS)
    assert apart(gradients(Ours(model, kept), x, eps), exact.gradients) < 1e-10
    assert reference(model, x, eps[-1:], **SETTINGS).growth == pytest.approx(1.0)
    assert exact.growth != pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", ["published, not clipped", "cleaned"])
def test_the_published_differences_are_right_in_float64(bench, problem, name):
    from ways import WAYS, Ours

    model, x, eps = problem
    assert apart(gradients(WAYS[name](model), x, eps), gradients(Ours(model, kept), x, eps)) < 1e-4


def test_a_clip_that_never_acts_changes_nothing(bench, problem):
    from published import Published

    model, x, eps = problem
    loose = gradients(Published(model, clip=1e6), x, eps)
    assert apart(loose, gradients(Published(model, clip=None), x, eps)) == 0.0


def test_clipping_before_the_difference_gives_minus_the_gradient(bench, problem):
    """One inner step with θ's gradient above the clip: the Hessian product is −g, scaled to the clip, and with it the
    encoder is told the plain gradient."""
    from published import Published

    model, x, eps = problem
    clip, way = 0.1, Published(model, clip=0.1)
    clipped, exact = gradients(way, x, eps[-2:]), gradients(Published(model, clip=None), x, eps[-2:])
    assert apart(clipped, exact) > 0.01

    stock = way.model
    lam = stock.encode(x).detach()
    _, *g = way._gradient(x, lam, eps[-2])
    way._store(0, g)
    moved = [part.clone() for part in way._gradient(x, lam + way.r * noise(*lam.shape), eps[-2])]
    way._clip(moved)
    product = torch.cat([((a - b) / way.r).flatten() for a, b in zip(moved[1:], g, strict=True)])
    g = torch.cat([part.flatten() for part in g])
    assert torch.cosine_similarity(product, -g, dim=0) > 0.99
    for p in way.theta:
        p.grad = torch.zeros_like(p)
    way._subtract(0, moved[1:])
    added = torch.cat([p.grad.flatten() for p in way.theta])
    assert added.norm().item() == pytest.approx(clip, rel=1e-3)
    assert torch.cosine_similarity(added, g, dim=0) > 0.99


def test_every_kind_of_row_at_a_tiny_size(bench, monkeypatch, tmp_path):
    import errors
    import memory
    import timing
    import weights
    from sizes import SIZES

    monkeypatch.setattr(weights, "CACHE", tmp_path)
    size, ours = SIZES["tiny"], ("published", "cleaned", "kept", "recomputed", "difference")
    quick = [way for way in timing.TIMED if way != "compiled"]
    times = list(timing.rows(size, "cpu", lambda head: False, (2,), ways=quick))
    assert {row["way"] for row in times} == set(quick)
    for row in (row for row in times if row["way"] in ours):
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"] and row["seconds"] > 0 and row["rounds"] >= 3
    for row in errors.rows(size, "cpu", lambda head: False, (2,), skip=("compiled",)):
        if row["way"] in ("kept", "recomputed"):
            assert row["error_encoder"] < (1e-10 if row["dtype"] == "float64" else 1e-4) and row["cosine"] > 0.999
    if memory.RESET.exists():
        small, large = memory.peaks(size, "kept", "cpu", [1, 5])
        assert large["peak_mb"] >= small["peak_mb"] - 1
    assert (tmp_path / "tiny.pt").exists()


def test_the_quick_run_writes_rows_and_continues(bench, tmp_path, capsys):
    from savae_lite.records import rows

    out = tmp_path / "rows.jsonl"
    main = run_path(str(BENCH / "__main__.py"), run_name="bench")["main"]
    main(["run", "--quick", "--out", str(out)])
    assert "published" in capsys.readouterr().out
    found = rows(out)
    assert {(row["kind"], row["k"]) for row in found} == {(kind, k) for kind in ("time", "error") for k in (1, 5)}
    for row in found:
        assert row.keys() >= {"size", "k", "way", "weights", "dtype", "rate", "command", "commit", "device", "torch"}
        if "error" not in row:
            assert row.keys() >= ({"seconds", "ratio", "vae_ratio"} if row["kind"] == "time" else {"growth", "cosine"})
    main(["run", "--quick", "--out", str(out)])
    assert rows(out) == found
