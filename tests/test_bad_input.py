"""What a careless or hostile user does, and that it is refused aloud, with nothing lost."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from savae_lite.checkpoint import load, save
from savae_lite.data import Vocab
from savae_lite.diagnostics import active_units, importance_weighted_nll
from savae_lite.download import fetch
from savae_lite.exact import tabulate
from savae_lite.models import LinearGaussian
from savae_lite.records import recorded
from savae_lite.savae import draw_noise, infer
from savae_lite.svi import clip_rows, last, svi
from savae_lite.trainer import descend, fit

ADAM = partial(torch.optim.Adam, lr=0.1)


def parts(optimizer=ADAM):
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model, optimizer(model.parameters()), generator


def run(checkpoint=None, epochs=2, optimizer=ADAM, **options):
    model, steps, generator = parts(optimizer)
    options = {"batches": lambda: [torch.randn(4, 3, generator=generator) for _ in range(2)]} | options
    reports = list(
        fit(
            lambda x, step: (model(x) - 1).square().mean(),
            model=model,
            optimizer=steps,
            generator=generator,
            epochs=epochs,
            checkpoint=checkpoint,
            **options,
        )
    )
    return model, reports


# training


def test_validation_that_begins_on_resume_finds_its_best(tmp_path):
    values = iter([5.0, 4.0, 3.0, 2.0])
    run(tmp_path / "c")
    resumed, reports = run(tmp_path / "c", 6, validate=lambda: next(values))
    straight, _ = run(epochs=6)
    assert [report.valid for report in reports] == [5.0, 4.0, 3.0, 2.0]
    assert torch.equal(resumed.weight, straight.weight)


def test_a_numpy_number_from_validation_is_a_number(tmp_path):
    run(tmp_path / "c", validate=lambda: np.mean([1.0, 2.0]))
    assert len(run(tmp_path / "c", 3, validate=lambda: np.mean([1.0, 2.0]))[1]) == 1


def test_what_could_not_be_read_back_is_not_saved(tmp_path):
    model, optimizer, generator = parts()
    states = dict(model=model, optimizer=optimizer, generator=generator)
    save(tmp_path / "c", {"epoch": 1}, **states)
    with pytest.raises(ValueError, match="plain values only"):
        save(tmp_path / "c", {"epoch": np.float64(2)}, **states)
    assert load(tmp_path / "c", **states) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("other", [partial(torch.optim.SGD, lr=0.1), partial(torch.optim.RMSprop, lr=0.1)])
def test_another_optimiser_is_refused_before_anything_changes(tmp_path, other):
    run(tmp_path / "c")
    model, optimizer, generator = parts(other)
    before = model.weight.clone()
    with pytest.raises(ValueError, match="differs in \\['optimizer'\\]"):
        load(tmp_path / "c", model=model, optimizer=optimizer, generator=generator)
    assert torch.equal(model.weight, before)


def test_other_parameter_groups_are_refused_before_anything_changes(tmp_path):
    run(tmp_path / "c")
    model, _, generator = parts()
    optimizer = torch.optim.Adam([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.1)
    before = model.weight.clone()
    with pytest.raises(ValueError, match="differs in \\['optimizer'\\]"):
        load(tmp_path / "c", model=model, optimizer=optimizer, generator=generator)
    assert torch.equal(model.weight, before)


def test_the_rates_of_the_checkpoint_win(tmp_path):
    run(tmp_path / "c")
    model, optimizer, generator = parts(partial(torch.optim.Adam, lr=1e-4))
    load(tmp_path / "c", model=model, optimizer=optimizer, generator=generator)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_folder_is_not_called_a_broken_checkpoint(tmp_path):
    with pytest.raises(IsADirectoryError):
        run(tmp_path)


def test_a_missing_folder_is_noticed_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder of the checkpoint must exist"):
        run(tmp_path / "missing" / "c", batches=lambda: pytest.fail("trained"))


def test_an_optimiser_of_another_model_is_refused():
    model, _, generator = parts()
    _, stranger, _ = parts()
    steps = fit(lambda x, step: x, lambda: [], model, stranger, epochs=1, generator=generator)
    with pytest.raises(ValueError, match="parameters of the model; got none"):
        next(steps)


def test_no_minibatch_is_refused_and_a_generator_of_them_is_not():
    with pytest.raises(ValueError, match="at least one minibatch"):
        run(batches=lambda: [])
    assert run(batches=lambda: (torch.ones(2, 3) for _ in range(3)))[1][-1].step == 6


@pytest.mark.parametrize(
    "loss", [torch.ones(3, requires_grad=True), torch.tensor(1.0), 2.0], ids=["rows", "cut", "float"]
)
def test_a_loss_that_cannot_be_descended_is_refused(loss):
    with pytest.raises(ValueError, match="scalar tensor that depends on the parameters"):
        descend(loss, parts()[1])


@pytest.mark.parametrize("max_norm", [math.nan, -1.0, 0.0])
def test_a_norm_that_clips_nothing_well_is_refused(max_norm):
    model, optimizer, _ = parts()
    before = model.weight.clone()
    with pytest.raises(ValueError, match="max_norm must be positive"):
        descend(model(torch.ones(2, 3)).mean(), optimizer, max_norm=max_norm)
    assert torch.equal(model.weight, before)


def test_a_note_names_a_checkpoint_only_where_there_is_one(tmp_path):
    with pytest.raises(FloatingPointError) as error:
        run(tmp_path / "c", batches=lambda: [torch.full((2, 3), math.nan)])
    assert "There is no checkpoint" in error.value.__notes__[0]


# inference


@pytest.mark.parametrize("size", [1e20, 1e30, 3e38])
def test_a_row_too_long_to_square_is_clipped_to_the_norm(size):
    torch.testing.assert_close(
        clip_rows(torch.tensor([[size, 0.0], [3.0, 4.0]]), 1.0), torch.tensor([[1.0, 0], [0.6, 0.8]])
    )


def test_a_norm_too_small_to_square_clips_to_it():
    clipped = clip_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1e-23)
    torch.testing.assert_close(clipped * 1e23, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize("options", [{"lr": math.inf}, {"lr": 0.1, "clip": math.inf}])
def test_settings_must_be_finite(options):
    with pytest.raises(ValueError, match="positive and finite"):
        last(svi([], torch.zeros(1, 2), **options))


def test_inference_mode_is_named():
    model = LinearGaussian(torch.eye(3)[:, :2], scale=1.0)
    eps = draw_noise(2, 4, 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"Use torch.no_grad\(\)"):
        last(infer(model, torch.zeros(4, 3), eps, lr=0.1))


@pytest.mark.parametrize("likelihood", [lambda z: z.sum(), lambda z: z.sum(-1)[:, :1]], ids=["scalar", "one row"])
def test_a_likelihood_of_the_wrong_shape_is_not_broadcast(likelihood):
    with pytest.raises(ValueError, match="one value per sample and row"):
        importance_weighted_nll(likelihood, torch.zeros(5, 4), torch.zeros(3, 5, 2))
    with pytest.raises(ValueError, match="one value per sample and row"):
        tabulate(likelihood, rows=5, latent=2, points=5)


def test_diverged_codes_are_not_called_collapsed():
    lam = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    lam[2] = math.nan
    with pytest.raises(ValueError, match="must be finite"):
        active_units(lam)


def test_orthogonal_columns_in_float32_are_orthogonal_enough():
    weight = torch.linalg.qr(torch.randn(50, 10, generator=torch.Generator().manual_seed(0)))[0]
    assert LinearGaussian(weight, scale=0.05).encode(torch.zeros(2, 50)).shape == (2, 20)


# data


def test_text_is_not_taken_for_a_list_of_words():
    with pytest.raises(TypeError, match="lists of words"):
        Vocab.build(["the cat", "a dog"], 20)
    with pytest.raises(TypeError, match="list of words"):
        Vocab.build([["the", "cat"]], 20).encode("the cat")


@pytest.mark.parametrize("ids", [[0, -1, 1], [99]])
def test_ids_outside_the_vocabulary_are_not_decoded(ids):
    with pytest.raises(ValueError, match="ids must lie in 0 …"):
        Vocab.build([["the", "cat"]], 20).decode(ids)


def test_a_cache_that_is_a_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("not a folder", encoding="utf-8")
    monkeypatch.setenv("SAVAE_LITE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match="the cache must be a folder"):
        fetch()


def test_a_record_is_found_by_name_only(tmp_path):
    (tmp_path / "secret.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="name must be one of"):
        recorded(str(tmp_path / "secret"))
