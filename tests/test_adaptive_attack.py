"""A3: its contract, its schedule in closed form, its strength and price beside AutoAttack's."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rcnas_env.attacks import Attack, AttackResult, adaptive_auto_attack, attack_entry, attack_guard, run_attack
from rcnas_env.attacks.adaptive import _AdaptiveAutoAttack, _Images
from rcnas_env.attacks.adaptive_schedule import (
    LEARNING_ROUND,
    LEAST_IMAGES,
    ROUNDS,
    Round,
    lean_of_round,
    step_size,
    targets_in_turn,
)
from tests.attack_samples import Counting, linear_model, same, sample
from tests.trained_digits import EPS, trained_digits

SHORT = tuple(Round(each.share, 2) for each in ROUNDS)
"""Every round, once and with few iterations."""


def a3(eps: float = EPS, classes: int = 10, rounds: tuple[Round, ...] = SHORT) -> Attack:
    components = adaptive_auto_attack(eps, classes, rounds=rounds)
    return replace(attack_entry("a3").make(eps, classes), components=components)


def run_short(count: int = 24, channels: int = 1, batch_size: int = 24, seed: int = 5) -> AttackResult:
    model = trained_digits(channels)
    return run_attack(a3(), model, *sample(count, channels), seed=seed, batch_size=batch_size)


# --- the contract ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [24, 1, 0])
def test_stays_in_the_ball_and_returns_failures_clean(channels: int, count: int) -> None:
    images, labels = sample(count, channels)
    result = run_short(count, channels)
    assert result.adversarial.shape == images.shape
    assert ((result.adversarial - images).abs() <= EPS + 1e-6).all()
    assert ((result.adversarial >= 0) & (result.adversarial <= 1)).all()
    if count:
        model = trained_digits(channels)
        assert torch.equal(result.robust, result.clean_correct & (model(result.adversarial).argmax(1) == labels))
    if count > 1:
        changed = (result.adversarial != images).flatten(1).any(1)
        assert torch.equal(changed, result.clean_correct & ~result.robust) and changed.any()


def test_leaves_the_model_as_found() -> None:
    model = deepcopy(trained_digits()).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    state, stream = deepcopy(model.state_dict()), torch.get_rng_state()
    result = run_attack(a3(), model, *sample(), seed=5, batch_size=24)
    assert same(result, run_short())
    assert model.training and model[0].training and not model[1].training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model[0].weight.requires_grad and all(each.grad is None for each in model.parameters())
    assert torch.equal(torch.get_rng_state(), stream)


def test_depends_on_its_seed_alone() -> None:
    first = run_short()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(99)
        assert same(first, run_short())
    assert not torch.equal(first.adversarial, run_short(seed=6).adversarial)


def test_every_image_wrong_already() -> None:
    images, labels = sample()
    labels = (trained_digits()(images).argmax(1) + 1) % 10
    result = run_attack(a3(), trained_digits(), images, labels, seed=0, batch_size=16)
    assert not result.clean_correct.any() and torch.equal(result.adversarial, images)


def test_bare_call_is_the_guarded_run_in_one_batch() -> None:
    with attack_guard(trained_digits(), 5, "cpu"):
        bare = a3()(trained_digits(), *sample(24), torch.Generator().manual_seed(5))
    assert torch.equal(bare, run_short().adversarial)


def test_no_pass_exceeds_the_batch_size() -> None:
    model = Counting(trained_digits())
    run_attack(a3(), model, *sample(40), seed=0, batch_size=7)
    assert model.largest == 7


# --- exact on linear models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "eps"), [(2, 0.25), (3, 0.12), (5, 0.04), (12, 0.04)])
def test_breaks_exactly_what_can_be_broken_of_a_linear_model(classes: int, eps: float) -> None:
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randn(classes, 16, generator=generator)
    images = torch.rand(60, 1, 4, 4, generator=generator)
    logits = images.flatten(1) @ weight.T
    labels = logits.argmax(1)
    # Known: z_i − z_y is highest where each pixel goes as far as the ball and [0, 1] let it, by the sign of w_i − w_y.
    pull = weight[None] - weight[labels][:, None]
    pixels = images.flatten(1)[:, None]
    ends = torch.where(pull > 0, (pixels + eps).clamp(max=1.0), (pixels - eps).clamp(min=0.0))
    margin = (pull * ends).sum(-1).scatter(1, labels[:, None], -math.inf).max(1).values
    assert margin.abs().min() > 1e-5  # none so close that rounding decides
    result = run_attack(a3(eps, classes), linear_model(weight), images, labels, seed=0, batch_size=60)
    assert torch.equal(result.robust, margin < 0)
    assert 5 < result.robust.sum() < 55


# --- the schedule ---------------------------------------------------------------------------------------------------


@given(st.integers(1, 100), st.floats(1e-3, 1.0))
def test_step_sizes_fall_from_eps_towards_the_least(iterations: int, eps: float) -> None:
    sizes = [step_size(step, iterations, eps) for step in range(iterations + 2)]
    assert sizes[0] == pytest.approx(eps) and sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == pytest.approx(eps * (0.1 if iterations <= 10 else 0.001))
    assert sizes[0] + sizes[-1] == pytest.approx(sizes[1] + sizes[-2])  # a cosine is odd about its middle


def test_rounds_are_the_published_ones() -> None:
    assert len(ROUNDS) == 13 and sum(each.repeats for each in ROUNDS) == 10 + 4 + 4 + 50
    shares = [each.share for each in ROUNDS]
    assert shares == sorted(shares, reverse=True) and shares[:3] == [1, 1, 1] and shares[-1] == 0.03


@pytest.mark.parametrize(
    ("number", "own_sum", "predicted_sum", "own", "target"),
    [
        (2, -1.0, 1.0, (-0.5, 0.1), 0.8),
        (2, 1.0, 1.0, (-0.1, 0.5), 0.8),
        (9, 1.0, -1.0, (-0.1, 0.5), -0.8),
        (9, -1.0, -1.0, (-0.5, 0.1), -0.8),
        (3, 0.0, 0.0, (-0.5, 0.1), 0.8),
        (10, 1.0, -1.0, (-0.8, 0.1), 0.8),
    ],
)
def test_leans(number: int, own_sum: float, predicted_sum: float, own: tuple[float, float], target: float) -> None:
    lean = lean_of_round(number, own_sum, predicted_sum)
    assert (lean.own, lean.target) == (own, target)


@pytest.mark.parametrize(("classes", "early", "final"), [(2, 1, 1), (3, 2, 2), (10, 9, 4), (20, 9, 4), (100, 14, 14)])
def test_targets_are_wrong_classes_that_exist(classes: int, early: int, final: int) -> None:
    assert [targets_in_turn(number, classes) for number in (2, 9, 10, 12)] == [early, early, final, final]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [((0.0, 8), "share"), ((1.1, 8), "share"), ((0.5, 0), "iterations"), ((0.5, 8, 0), "repeats")],
)
def test_bad_rounds(arguments: tuple[float, int], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Round(*arguments)
    with pytest.raises(ValueError, match="rounds"):
        adaptive_auto_attack(EPS, 10, rounds=())


# --- what a restart draws, learns and attacks -----------------------------------------------------------------------


def survivors(count: int = 60) -> _Images:
    images, labels = sample(count)
    correct = trained_digits()(images).argmax(1) == labels
    return _Images.untouched(images[correct], labels[correct], 10)


def test_learns_from_the_directions_that_succeed() -> None:
    attack, known = _AdaptiveAutoAttack(EPS, 10, ROUNDS), survivors()
    everything = torch.arange(len(known.labels))
    attack._restart(trained_digits(), known, everything, LEARNING_ROUND, torch.Generator().manual_seed(3))
    broken = ~known.standing
    assert 0 < broken.sum() < len(broken)
    directions = 2 * torch.rand(len(broken), 10, generator=torch.Generator().manual_seed(3))[broken] - 1
    predicted = trained_digits()(known.adversarial[broken]).argmax(1)
    assert not torch.equal(predicted, known.labels[broken])
    expected = [directions.gather(1, each[:, None]).sum() for each in (known.labels[broken], predicted)]
    torch.testing.assert_close(known.leanings, torch.stack(expected))


@pytest.mark.parametrize(("number", "own_range", "cycle"), [(2, (-0.5, 0.1), 9), (11, (-0.8, 0.1), 4)])
def test_directions_of_the_later_rounds(number: int, own_range: tuple[float, float], cycle: int) -> None:
    classes = 20  # w is multiplied by 2
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (50,), generator=generator)
    known = _Images.untouched(torch.rand(50, 1, 2, 2, generator=generator), labels, classes)
    known.ranking.copy_(torch.stack([torch.randperm(classes, generator=generator) for _ in range(50)]))
    known.labels.copy_(known.ranking[:, 0])
    attack = _AdaptiveAutoAttack(EPS, classes, ROUNDS)
    for restarts in range(2, 14):
        known.restarts.fill_(restarts)
        directions = attack._directions(known, torch.arange(50), number, generator)
        own = directions.gather(1, known.labels[:, None])
        assert own.min() >= 2 * own_range[0] and own.max() <= 2 * own_range[1] and own.unique().numel() == 50
        hit = known.ranking[:, 1 + (restarts - 2) % cycle]
        assert directions.gather(1, hit[:, None]).tolist() == [[pytest.approx(1.6)]] * 50
        others = directions.scatter(1, torch.stack([known.labels, hit], 1), 0.0)
        assert others.abs().max() <= 1 and others.count_nonzero() == 50 * (classes - 2)
    assert attack._directions(known, torch.arange(50), 0, generator) is None


def test_attacks_the_images_closest_to_breaking() -> None:
    known = survivors(100)
    known.best.copy_(torch.randn(len(known.best), generator=torch.Generator().manual_seed(0)))
    known.standing[::10] = False
    count = int(known.standing.sum())
    half = known.closest(0.5)
    assert len(half) == int(0.5 * count) > LEAST_IMAGES and known.standing[half].all()
    rest = known.standing.clone()
    rest[half] = False
    assert known.best[half].min() >= known.best[rest].max()
    assert len(known.closest(0.01)) == LEAST_IMAGES and len(known.closest(1.0)) == count
    known.standing[5:] = False
    assert len(known.closest(0.5)) == known.standing.sum() > 0


def test_price_of_a_restart() -> None:
    """Images that cannot be broken cost S + 9 forward passes a restart, in round 0 only S + 2."""
    model = Counting(linear_model(torch.tensor([[10.0], [-10.0]])))
    images, labels = torch.full((30, 1, 1, 1), 0.9), torch.zeros(30, dtype=torch.int64)
    component = adaptive_auto_attack(0.1, 2, rounds=(Round(1.0, 8), Round(1.0, 5, 2), Round(0.7, 20)))[0]
    component.perturb(model, images, labels, torch.Generator())
    assert model.images == 30 + 30 * (8 + 2) + 2 * 30 * (5 + 9) + 21 * (20 + 9)


# --- beside AutoAttack ----------------------------------------------------------------------------------------------


def compare(count: int, rounds: tuple[Round, ...], autoattack: Attack) -> None:
    """A3 leaves at most 2 points more than AutoAttack, for less than half of the forward passes.

    Not at least so many: either leaves an upper bound of what is robust, and A3 breaks some that AutoAttack cannot.
    """
    robust, passes = [], []
    for attack in (a3(rounds=rounds), autoattack):
        model = Counting(trained_digits())
        robust.append(int(run_attack(attack, model, *sample(count), seed=0, batch_size=256).robust.sum()))
        passes.append(model.images)
    assert 0 < robust[0] <= robust[1] + 0.02 * count
    assert passes[0] < 0.5 * passes[1]


def test_beside_the_white_boxes_of_autoattack() -> None:
    """Without FAB-T and Square, which break next to nothing after APGD and take most of the time."""
    whole = attack_entry("autoattack").make(EPS, 10)
    compare(120, ROUNDS[:-1], replace(whole, components=whole.components[:2]))


@pytest.mark.slow
def test_beside_autoattack() -> None:
    compare(160, ROUNDS, attack_entry("autoattack").make(EPS, 10))
