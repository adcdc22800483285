"""Square Attack against the authors' code: its random numbers, its windows and the point where each image ends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.attacks import attack_guard
from rcnas_env.attacks.square import random_moves, search, window_side
from tests.trained_digits import EPS, Exact, digits, trained_digits

torch.set_num_threads(1)
CPU = torch.device("cpu")


def random_network(channels: int, height: int, width: int, classes: int = 6) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = Exact(nn.Conv2d(channels, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * height * width, classes))
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.3, generator=generator)
    return model.eval()


def reference_search(
    model: nn.Module, images: Tensor, labels: Tensor, eps: float, queries: int, seed: int
) -> tuple[Tensor, Tensor]:
    square = pytest.importorskip("pyautoattack.square", reason="the reference, a development dependency")
    attack = square.SquareAttack(model, eps=eps, n_queries=queries, device="cpu", resc_schedule=False)
    attack.init_hyperparam(images)
    with attack_guard(model, seed, "cpu"):
        _, points = attack.attack_single_run(images.clone(), labels)
        with torch.no_grad():
            return points, attack.margin_and_loss(points, labels)[0]


def check(model: nn.Module, images: Tensor, labels: Tensor, eps: float, queries: int) -> int:
    """Every image ends where the authors' code ends; how many stand."""
    expected, margin = reference_search(model, images, labels, eps, queries, seed=7)
    with attack_guard(model, 0, "cpu"), torch.no_grad():
        points, reached = search(model, images, labels, eps, queries, torch.Generator().manual_seed(7))
    assert torch.allclose(reached, margin, atol=1e-4)
    assert torch.allclose(points, expected, atol=1e-6)
    return int((reached > 0).sum())


@pytest.mark.parametrize(("eps", "queries"), [(0.1, 300), (EPS, 1100), (0.25, 300)])
def test_every_image_ends_where_the_references_does(eps: float, queries: int) -> None:
    _, _, images, labels = digits()
    model = trained_digits()
    right = model(images).argmax(1) == labels
    assert 0 < check(model, images[right][:60], labels[right][:60], eps, queries) < 60


@pytest.mark.parametrize("shape", [(3, 6, 6), (3, 4, 9), (1, 9, 5), (2, 1, 7)])
def test_colour_and_images_that_are_not_square(shape: tuple[int, int, int]) -> None:
    model = random_network(*shape)
    images = torch.rand(40, *shape, generator=torch.Generator().manual_seed(3))
    labels = model(images).argmax(1)
    assert 0 < check(model, images, labels, 0.08, queries=250) < 40


@pytest.mark.parametrize("block", [1, 5])
def test_how_many_moves_are_tried_at_once_changes_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_network(2, 5, 5)
    images = torch.rand(20, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    with torch.no_grad():
        usual = search(model, images, labels, 0.1, 500, torch.Generator().manual_seed(0))
        monkeypatch.setattr("rcnas_env.attacks.square.LONGEST_BLOCK", block)
        other = search(model, images, labels, 0.1, 500, torch.Generator().manual_seed(0))
    assert torch.equal(usual[0], other[0])


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 1, 5), (2, 30, 7), (3, 64, 64)])
def test_sides_of_the_windows_are_the_references(shape: tuple[int, int, int]) -> None:
    square = pytest.importorskip("pyautoattack.square", reason="the reference, a development dependency")
    attack = square.SquareAttack(nn.Identity(), eps=0.1, n_queries=10_000, resc_schedule=False)
    channels, height, width = shape
    for query in (0, 1, 10, 11, 50, 51, 200, 201, 500, 501, 1000, 1001, 2000, 2001, 4000, 4001, 6001, 8000, 8001, 9999):
        share = attack.p_selection(query)
        side = max(round((share * channels * height * width / channels) ** 0.5), 1)
        assert window_side(query, shape) == min(side, height, width)


def test_moves_are_drawn_one_after_the_other_as_in_the_reference() -> None:
    channels, height, width = 3, 9, 6
    moves = random_moves(300, (channels, height, width), torch.Generator().manual_seed(5), CPU)
    stream = torch.Generator().manual_seed(5)
    for query in range(300):
        side = window_side(query, (channels, height, width))
        row = int((height - side) * torch.rand([1], generator=stream))
        column = int((width - side) * torch.rand([1], generator=stream))
        signs = torch.sign(2 * torch.rand([channels, 1, 1], generator=stream) - 1).flatten()
        assert (int(moves.side[query]), int(moves.row[query]), int(moves.column[query])) == (side, row, column)
        assert torch.equal(moves.signs[query], signs)


def test_repeats_and_changes_of_moves() -> None:
    moves = random_moves(400, (1, 6, 6), torch.Generator().manual_seed(0), CPU)
    changes = moves.changes(6, 6)
    assert torch.equal(changes.abs().sum((1, 2, 3)), moves.side.float() ** 2)
    for query in range(400):
        same = (changes[:query] == changes[query]).flatten(1).all(1).nonzero().flatten()
        assert int(moves.repeats[query]) == (int(same[-1]) + 1 if len(same) else -1)
    assert (moves.repeats > 0).sum() > 100


def test_asks_the_model_far_less_often_than_there_are_queries() -> None:
    _, _, images, labels = digits()
    asked = []
    network = trained_digits()
    model = nn.Sequential(network)
    model.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))
    with torch.no_grad():
        search(model, images[:10], labels[:10], 1e-3, 2000, torch.Generator().manual_seed(0))
    assert 10 * 50 < sum(asked) < 10 * 2000 / 4
    assert max(asked) <= 10  # a pass is never larger than the batch that was handed in
