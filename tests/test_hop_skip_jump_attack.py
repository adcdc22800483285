"""HopSkipJump against linear models, where all is known, against foolbox's, and its queries counted."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import attack_entry, autoattack_components, hop_skip_jump, run_attack
from rcnas_env.attacks.decisions import (
    NOT_A_NUMBER,
    NOT_ASKED,
    Decisions,
    linf_distance,
    search_halvings,
    to_boundary,
)
from rcnas_env.attacks.hop_skip_jump import boundary_direction, find_starts, nearest_adversarial
from rcnas_env.data import load_splits
from rcnas_env.networks.frozen import freeze
from rcnas_env.training.fit import fit
from rcnas_env.training.recipe import Recipe
from tests import tiny
from tests.attack_samples import Counting, linear_model, sample
from tests.trained_digits import EPS, trained_digits


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def half_space(pixels: int = 16) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """(a linear model of two classes without bias, its normal, images, their classes); both classes occur."""
    generator = stream(2)
    weight = torch.randn(2, pixels, generator=generator)
    weight -= weight.mean(dim=1, keepdim=True)  # the grey image is on the boundary, so that noise is of both classes
    images = 0.35 + 0.3 * torch.rand(12, 1, 4, pixels // 4, generator=generator)
    model = linear_model(weight)
    return model, weight[1] - weight[0], images, model(images).argmax(1)


def test_decisions_are_classes_within_a_budget() -> None:
    model = Counting(linear_model(torch.eye(4)))
    labels = torch.tensor([0, 1, 2])
    decisions = Decisions(model, labels, 3)
    points = torch.eye(4).view(1, 4, 1, 2, 2).repeat(2, 1, 1, 1, 1)
    wanted = torch.tensor([[True, False, True, True], [False, True, False, False]])
    found = decisions.classes(torch.tensor([2, 0]), points, wanted)
    assert found.tolist() == [[0, NOT_ASKED, 2, 3], [NOT_ASKED, 1, NOT_ASKED, NOT_ASKED]]
    assert decisions.left.tolist() == [2, 3, 0] and model.images == 4
    found = decisions.classes(torch.tensor([0, 2]), points)
    assert found.tolist() == [[0, 1, NOT_ASKED, NOT_ASKED], [NOT_ASKED] * 4] and model.images == 6
    assert decisions.adversarial(torch.tensor([0, 1, 2]), torch.zeros(3, 1, 2, 2)).tolist() == [False, True, False]
    decisions = Decisions(linear_model(torch.eye(4)), labels, 1)
    point = torch.full((1, 1, 1, 2, 2), float("nan"))
    assert decisions.classes(torch.tensor([0]), point).tolist() == [[NOT_A_NUMBER]]


def test_binary_search_finds_the_boundary_of_a_half_space() -> None:
    model, normal, images, labels = half_space()
    decisions = Decisions(model, labels, 1000)
    starts, found = find_starts(decisions, images, stream())
    assert found.all() and (model(starts).argmax(1) != labels).all()
    rows, halvings = torch.arange(12), search_halvings(4096)
    assert halvings == 20 and search_halvings(64) == 12 and search_halvings(1) == 8
    before = decisions.left.clone()
    points = to_boundary(decisions, rows, images, starts, halvings)
    assert torch.equal(before - decisions.left, torch.full((12,), halvings))
    assert (model(points).argmax(1) != labels).all()
    assert torch.allclose(points.flatten(1) @ normal, torch.zeros(12), atol=1e-4)


def test_direction_is_the_normal_of_a_half_space() -> None:
    model, normal, images, labels = half_space()
    decisions = Decisions(model, labels, 10_000)
    starts, _ = find_starts(decisions, images, stream())
    rows = torch.arange(12)
    points = to_boundary(decisions, rows, images, starts, 20)
    toward = normal * torch.where(labels == 0, 1.0, -1.0)[:, None]
    cosines = []
    for count in (30, 3000):
        probes = torch.full((12,), count)
        left = decisions.left.clone()
        direction = boundary_direction(decisions, rows, points, torch.full((12,), 0.01), probes, stream())
        assert torch.equal(left - decisions.left, probes)
        cosines.append(torch.cosine_similarity(direction.flatten(1), toward).mean().item())
    # With B probes of d pixels the error's square is about d / B.
    assert cosines[1] > 0.99 > cosines[0] > 0.5


def test_nears_the_optimum_on_a_half_space() -> None:
    model, normal, images, labels = half_space()
    # The nearest point is along sign(normal), at margin over ‖normal‖₁; nothing clips on the way there.
    optimum = (images.flatten(1) @ normal).abs() / normal.abs().sum()
    points, distances = nearest_adversarial(Decisions(model, labels, 5000), images, stream(), stop_at=0.0)
    assert (model(points).argmax(1) != labels).all()
    assert torch.allclose((points - images).abs().flatten(1).amax(1), distances)
    assert (distances >= optimum - 1e-5).all() and (distances <= 1.05 * optimum + 1e-5).all()


@pytest.mark.parametrize("queries", [1, 20, 137, 400])
def test_no_image_asks_more_than_its_budget(queries: int) -> None:
    images, labels = sample(6)
    for stop_at in (0.0, EPS):
        model = Counting(trained_digits())
        decisions = Decisions(model, labels, queries)
        nearest_adversarial(decisions, images, stream(), stop_at=stop_at)
        spent = queries - decisions.left
        assert (decisions.left >= 0).all() and model.images == spent.sum() > 0
        assert stop_at > 0 or queries < 400 or (decisions.left <= 14).all()  # too few for another step
    (component,) = hop_skip_jump(EPS, 10, queries=queries)
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        model = Counting(trained_digits())
        component.perturb(model, image, label, stream())
        assert 0 < model.images <= queries


def foolbox_distances(images: Tensor, labels: Tensor, steps: int) -> tuple[Tensor, int]:
    """(L_inf distances of foolbox's HopSkipJump, queries an image that it made), from starts that it is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox

        model = Counting(trained_digits()).eval()
        attack = foolbox.attacks.HopSkipJumpAttack(steps=steps, constraint="linf")
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        starts, found = find_starts(Decisions(trained_digits(), labels, 1000), images, stream())
        assert found.all()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            points = attack.run(wrapped, images, labels, starting_points=starts)
    return (points - images).abs().flatten(1).amax(1), model.images // len(images)


def test_as_near_as_foolbox_at_the_same_number_of_queries() -> None:
    images, labels = sample(60)
    correct = trained_digits()(images).argmax(1) == labels
    images, labels = images[correct][:40], labels[correct][:40]
    medians = []
    for steps in (2, 6):
        theirs, queries = foolbox_distances(images, labels, steps)
        _, ours = nearest_adversarial(Decisions(trained_digits(), labels, queries), images, stream(), stop_at=0.0)
        medians.append((theirs.median().item(), ours.median().item()))
    for theirs, ours in medians:
        assert 0.7 * theirs < ours < 1.1 * theirs
    assert medians[1][1] < 0.9 * medians[0][1]


def test_returns_what_is_in_the_ball_or_the_image_itself() -> None:
    images, labels = sample(60)
    result = run_attack(attack_entry("hop-skip-jump").make(EPS, 10), trained_digits(), images, labels, **FULL)
    changed = (result.adversarial != images).flatten(1).any(1)
    assert torch.equal(changed, result.clean_correct & ~result.robust) and changed.any()
    # What a decision-based attack of a thousand queries breaks, gradients break too.
    components = autoattack_components(EPS, 10, iterations=40, square_queries=100)[:2]
    broken = torch.zeros_like(changed)
    for component in components:
        points = component.perturb(trained_digits(), images, labels, stream())
        broken |= trained_digits()(points).argmax(1) != labels
    assert (changed & ~broken).sum() <= 1 and changed.sum() < broken.sum()


FULL = {"seed": 0, "batch_size": 60}


def test_a_model_of_one_class_leaves_no_start() -> None:
    images, labels = torch.rand(3, 1, 4, 4, generator=stream()), torch.zeros(3, dtype=torch.int64)
    model = linear_model(torch.stack([torch.ones(16), -torch.ones(16)]))
    result = run_attack(attack_entry("hop-skip-jump").make(EPS, 2), model, images, labels, seed=0, batch_size=3)
    assert result.robust.all() and torch.equal(result.adversarial, images)


def test_starts_from_other_images_where_noise_is_of_the_same_class() -> None:
    # Of class 1 where the upper half is on average 1.8 times as bright as the lower: of noise, at 3.8 deviations.
    weight = torch.zeros(2, 64)
    weight[1, :32], weight[0, 32:] = 1.0, 1.8
    images, labels = torch.full((2, 1, 8, 8), 0.5), torch.tensor([1, 0])
    images[0, 0, :4], images[0, 0, 4:] = 1.0, 0.0
    points, found = find_starts(Decisions(linear_model(weight), labels, 100), images, stream())
    assert found.all() and torch.equal(points[1], images[0]) and not torch.equal(points[0], images[1])
    _, alone = find_starts(Decisions(linear_model(weight), labels[1:], 100), images[1:], stream())
    assert not alone.any()


@pytest.mark.parametrize("classes", [2, 3])
def test_colour_images_that_are_not_square(classes: int) -> None:
    weight = torch.randn(classes, 72, generator=stream(5))
    model = linear_model(weight - weight.mean(dim=1, keepdim=True))
    images = torch.rand(5, 3, 4, 6, generator=stream(6))
    labels = model(images).argmax(1)
    result = run_attack(attack_entry("hop-skip-jump").make(0.2, classes), model, images, labels, seed=0, batch_size=5)
    assert (result.adversarial - images).abs().max() <= 0.2 + 1e-6
    assert not result.robust.all()


def test_bad_budget() -> None:
    with pytest.raises(ValueError, match="queries must be an integer of at least 1, got 0"):
        hop_skip_jump(EPS, 10, queries=0)


def test_a_search_ends_where_it_is_near_enough() -> None:
    model, normal, images, labels = half_space()
    decisions = Decisions(model, labels, 1000)
    starts, _ = find_starts(decisions, images, stream())
    rows, before = torch.arange(12), decisions.left.clone()
    points = to_boundary(decisions, rows, images, starts, 20, enough=0.2)
    distances = linf_distance(points, images)
    assert (model(points).argmax(1) != labels).all() and (distances <= 0.2).any()
    done = distances <= 0.2
    assert ((before - decisions.left)[done] < 20).all() and ((before - decisions.left)[~done] == 20).all()
    margins = (points.flatten(1) @ normal).abs()
    assert margins[done].median() > 0.01 > margins[~done].max()  # no longer next to the boundary


def test_what_it_breaks_other_kernels_of_the_same_network_call_broken_too() -> None:
    model, data = tiny.built(), load_splits("digits", 64)
    fit(model, data.train.subset(torch.arange(400)), Recipe(epochs=1, batch_size=64, inner_steps=1), 0.1, 0)
    images = data.test.images()[:24]
    labels = model(images).argmax(1)
    attack = attack_entry("hop-skip-jump").make(0.3, 10)
    result = run_attack(attack, freeze(model), images, labels, seed=0, batch_size=24)
    assert (~result.robust).sum() > 0
    logits = model(result.adversarial)[~result.robust]
    own = logits.gather(1, labels[~result.robust, None]).squeeze(1)
    assert ((logits.max(dim=1).values - own) > 1e-5).all()
