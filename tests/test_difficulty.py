"""LIPS (Eq. 1) against a linear model worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rcnas_env.architecture import NetworkSpec, StageSpec, StemSpec
from rcnas_env.difficulty import lipschitz_coefficients
from rcnas_env.networks import build

WEIGHT = torch.tensor([[1.0, 2.0], [-3.0, 4.0], [0.0, 1.0]])
IMAGES = torch.tensor([[0.5, 0.5], [0.2, 0.9], [0.4, 0.4], [0.6, 0.1]]).reshape(4, 1, 1, 2)
CHANGES = torch.tensor([[0.1, -0.2], [0.05, 0.0], [0.0, 0.0], [-0.3, 0.3]]).reshape(4, 1, 1, 2)
# ‖Wδ‖₁ / ‖δ‖_∞: (0.3 + 1.1 + 0.2) / 0.2; (0.05 + 0.15 + 0) / 0.05; none; (0.3 + 2.1 + 0.3) / 0.3
BY_HAND = torch.tensor([8.0, 4.0, 0.0, 9.0])


def linear(images: Tensor) -> Tensor:
    return images.flatten(1) @ WEIGHT.T + 7.0


def small_network() -> nn.Module:
    spec = NetworkSpec(tuple(StageSpec(1, 8, downsample=i > 0) for i in range(3)), StemSpec(8), (1, 8, 8))
    return build(spec, torch.Generator().manual_seed(0)).eval()


def sample(count: int = 11, epsilon: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    return images, images + epsilon * (2 * torch.rand(count, 1, 8, 8, generator=generator) - 1)


def test_a_linear_model_by_hand() -> None:
    found = lipschitz_coefficients(linear, IMAGES, IMAGES + CHANGES)
    torch.testing.assert_close(found, BY_HAND, rtol=1e-5, atol=1e-5)
    assert found[2] == 0.0


def test_unchanged_images_have_none_even_where_the_model_is_not_finite() -> None:
    assert lipschitz_coefficients(lambda x: x.flatten(1) / 0.0, IMAGES, IMAGES).tolist() == [0.0] * 4


def test_a_linear_model_s_do_not_depend_on_the_size_of_the_change() -> None:
    found = lipschitz_coefficients(linear, IMAGES, IMAGES + CHANGES / 16)
    torch.testing.assert_close(found, BY_HAND, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 11, 256])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    model, (images, attacked) = small_network(), sample()
    alone = torch.cat([lipschitz_coefficients(model, x[None], y[None]) for x, y in zip(images, attacked, strict=True)])
    found = lipschitz_coefficients(model, images, attacked, batch_size)
    assert found.shape == (11,)
    assert (found > 0).all()
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_both_versions_of_an_image_are_in_one_pass() -> None:
    sizes = []

    def model(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return linear(images)

    lipschitz_coefficients(model, IMAGES, IMAGES + CHANGES, batch_size=3)
    assert sizes == [6, 2]


def test_it_leaves_no_gradient_behind() -> None:
    model, (images, attacked) = small_network(), sample()
    assert not lipschitz_coefficients(model, images, attacked).requires_grad


def test_no_images_give_none() -> None:
    assert lipschitz_coefficients(linear, IMAGES[:0], IMAGES[:0]).shape == (0,)
