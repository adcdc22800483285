"""The training loop: reproducible to the bit, careful with the caller's state, and able to train."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from rcnas_env.data import ImageSet, load_splits
from rcnas_env.networks import build
from rcnas_env.training import fit as fit_module
from rcnas_env.training.fit import TrainingReport, batches, cpu_threads, fit, make_schedule
from rcnas_env.training.recipe import Recipe
from tests import tiny

EPSILON = 0.1


def digits(count: int) -> ImageSet:
    """The first training images of the digits."""
    return load_splits("digits", 64).train.subset(torch.arange(count))


def trained(count: int = 200, seed: int = 0, **changes: object) -> tuple[nn.Module, TrainingReport]:
    """A network after `fit` on a few digits, always from the same initial weights."""
    model = build(tiny.STUDENT, tiny.generator())
    recipe = Recipe(epochs=1, batch_size=64, inner_steps=1).but(**changes)
    return model, fit(model, digits(count), recipe, EPSILON, seed)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


@pytest.fixture(scope="module")
def well_trained() -> tuple[nn.Module, TrainingReport]:
    model = build(tiny.STUDENT, tiny.generator())
    recipe = Recipe(epochs=3, batch_size=64, inner_steps=2)
    return model, fit(model, load_splits("digits", 64).train, recipe, EPSILON, seed=0)


def test_loss_falls_and_the_network_learns(well_trained: tuple[nn.Module, TrainingReport]) -> None:
    model, report = well_trained
    assert len(report.losses) == 3 and not report.diverged and report.seconds > 0
    assert report.losses[0] > report.losses[1] > report.losses[2]
    assert report.losses[2] < math.log(10) / 1.5  # of uniform predictions, whose divergence is 0: log 10
    test = load_splits("digits", 64).test
    with torch.no_grad():
        accuracy = (model(test.images()).argmax(1) == test.labels).float().mean().item()
    assert accuracy > 0.7  # chance is 0.1


def test_training_makes_robust(well_trained: tuple[nn.Module, TrainingReport]) -> None:
    naive = build(tiny.STUDENT, tiny.generator())
    recipe = Recipe(epochs=3, batch_size=64, inner_steps=1, beta=0.0)
    fit(naive, load_splits("digits", 64).train, recipe, EPSILON, seed=0)
    test = load_splits("digits", 64).test

    def robust_accuracy(model: nn.Module) -> float:
        x = test.images().requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), test.labels, reduction="sum"), x)
        attacked = (x + EPSILON * gradient.sign()).clamp(0, 1).detach()
        return (model(attacked).argmax(1) == test.labels).float().mean().item()

    assert robust_accuracy(well_trained[0]) > robust_accuracy(naive) + 0.04  # 0.12 to 0.17, by seed


def test_same_seed_same_weights_to_the_bit() -> None:
    (first, report), (again, report_again), (other, _) = trained(), trained(), trained(seed=1)
    assert torch.equal(weights(first), weights(again))
    assert report.losses == report_again.losses
    assert not torch.equal(weights(first), weights(other))


def test_global_random_state_neither_moves_nor_matters() -> None:
    reference, _ = trained()
    with torch.random.fork_rng():
        torch.manual_seed(123)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        model, _ = trained()
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    assert torch.equal(weights(model), weights(reference))


@pytest.mark.parametrize("folded", [False, True])
def test_model_is_left_in_eval_mode_and_trainable(folded: bool) -> None:
    model, _ = trained(folded=folded)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert isinstance(model.get_submodule("stages.0.0.bn2"), nn.BatchNorm2d)  # the folding is the twin's alone


def learning_rates(recipe: Recipe, steps_per_epoch: int) -> list[float]:
    """The rate of each step of a training."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], recipe.learning_rate)
    schedule = make_schedule(optimizer, recipe, steps_per_epoch)
    rates = []
    for _ in range(recipe.epochs * steps_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_one_cycle_schedule() -> None:
    rates = learning_rates(Recipe(epochs=5, learning_rate=0.2, schedule="one-cycle"), steps_per_epoch=8)

    def cosine(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    # Smith and Topin's cycle as torch has it: from 1/25 up to the peak in 30 % of the steps, down to 1/250,000
    peak, total = 0.2, 40
    top = 0.3 * total - 1
    expected = [
        cosine(peak / 25, peak, t / top) if t <= top else cosine(peak, peak / 25e4, (t - top) / (total - 1 - top))
        for t in range(total)
    ]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert max(rates) == pytest.approx(0.2)


def test_a_training_of_one_step_has_the_peak_rate() -> None:
    assert learning_rates(Recipe(epochs=1, learning_rate=0.2, schedule="one-cycle"), steps_per_epoch=1) == [0.2]


@pytest.mark.parametrize("folded", [False, True])
def test_parameters_that_the_caller_froze_stay_frozen(folded: bool) -> None:
    model = build(tiny.STUDENT, tiny.generator())
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    before = first.clone()
    fit(model, digits(128), Recipe(epochs=1, batch_size=64, inner_steps=1, folded=folded), EPSILON, 0)
    assert not first.requires_grad and torch.equal(first, before)
    assert all(parameter.requires_grad for parameter in list(model.parameters())[1:])


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("schedule", ["one-cycle", "constant"])
def test_fewer_than_two_images_are_refused(count: int, schedule: str) -> None:
    with pytest.raises(ValueError, match=f"data must have at least two images, got {count}"):
        trained(count, schedule=schedule)


def test_step_schedule_drops_at_three_quarters_and_nine_tenths() -> None:
    rates = learning_rates(Recipe(epochs=4, learning_rate=0.1, schedule="step"), steps_per_epoch=10)
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 6 + [0.001] * 4)


def test_constant_schedule() -> None:
    assert learning_rates(Recipe(epochs=2, learning_rate=0.3, schedule="constant"), 5) == [0.3] * 10


def test_batches_are_a_permutation_of_all_images() -> None:
    first, again = (list(batches(130, 64, tiny.generator(seed))) for seed in (0, 0))
    assert [len(batch) for batch in first] == [64, 64, 2]
    assert sorted(torch.cat(first).tolist()) == list(range(130))
    assert torch.equal(torch.cat(first), torch.cat(again))
    assert torch.cat(first).tolist() != list(range(130))


def test_each_epoch_has_another_order() -> None:
    draws = tiny.generator()
    first, second = (torch.cat(list(batches(100, 30, draws))) for _ in range(2))
    assert not torch.equal(first, second)


def test_last_batch_of_one_image_is_dropped() -> None:
    assert [len(batch) for batch in batches(129, 64, tiny.generator())] == [64, 64]


@pytest.mark.parametrize(("count", "steps"), [(128, 2), (129, 2), (130, 3)])
def test_schedule_ends_with_the_training(count: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def kept(*arguments: object) -> object:
        made.append(make_schedule(*arguments))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(fit_module, "make_schedule", kept)
    model, report = trained(count, epochs=2)
    assert made[0].last_epoch == made[0].total_steps == 2 * steps
    # two forward passes a step in training mode, none of the inner ones
    assert model.get_submodule("bn").num_batches_tracked.item() == 2 * 2 * steps
    assert not report.diverged


@pytest.mark.parametrize("count", [9, 10])
def test_reported_loss_is_the_mean_over_the_images_trained_on(count: int) -> None:
    model = build(tiny.STUDENT, tiny.generator())
    nn.init.zeros_(model.get_submodule("classifier").weight)
    recipe = Recipe(epochs=2, batch_size=8, inner_steps=1, learning_rate=1e-20, schedule="constant")
    report = fit(model, digits(count), recipe, EPSILON, seed=0)
    assert report.losses == pytest.approx([math.log(10)] * 2, rel=1e-5)  # of uniform predictions, at every step


def test_divergence_is_reported_at_once() -> None:
    _, report = trained(epochs=3, learning_rate=1e30, schedule="constant")
    assert report.diverged
    assert len(report.losses) == 1 and not math.isfinite(report.losses[0])


def test_divergence_of_the_last_step_is_reported() -> None:
    changes = {"learning_rate": 3e38, "gradient_clip": 1e20, "beta": 1e9, "schedule": "constant", "batch_size": 64}
    model, report = trained(count=64, **changes)
    assert math.isfinite(report.losses[0])
    assert not torch.isfinite(weights(model)).all()
    assert report.diverged


def test_bf16_trains_on_the_cpu_in_another_precision() -> None:
    model, report = trained(precision="bf16")
    reference, reference_report = trained()
    assert not report.diverged and torch.isfinite(weights(model)).all()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert report.losses[0] == pytest.approx(reference_report.losses[0], rel=0.1)
    assert not torch.equal(weights(model), weights(reference))


class Spy(nn.Module):
    """A network that notes how many threads it runs with, and may fail."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.network, self.fails, self.threads = build(tiny.STUDENT, tiny.generator()), fails, set[int]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.threads.add(torch.get_num_threads())
        if self.fails:
            raise RuntimeError("out of order")
        return self.network(images)


@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_the_recipes_inside_and_the_callers_afterwards(fails: bool) -> None:
    spy, recipe = Spy(fails), Recipe(epochs=1, batch_size=64, inner_steps=1, threads=1, folded=False)
    with cpu_threads(2):
        if fails:
            with pytest.raises(RuntimeError, match="out of order"):
                fit(spy, digits(64), recipe, EPSILON, seed=0)
        else:
            fit(spy, digits(64), recipe, EPSILON, seed=0)
        assert torch.get_num_threads() == 2
    assert spy.threads == {1}
