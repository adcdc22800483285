"""Random crops and mirroring: against images cropped one by one, and in distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rcnas_env.data import random_crop_flip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_by_one(images: Tensor, padding: int, draws: torch.Generator) -> Tensor:
    """The same draws, applied to one image after another."""
    count, channels, height, width = images.shape
    offsets = torch.randint(2 * padding + 1, (2, count, 1), generator=draws)
    mirrored = torch.randint(2, (count, 1), generator=draws)
    result = torch.zeros_like(images)
    for index in range(count):
        row, column = int(offsets[0, index]), int(offsets[1, index])
        bordered = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=images.dtype)
        bordered[:, padding : padding + height, padding : padding + width] = images[index]
        crop = bordered[:, row : row + height, column : column + width]
        result[index] = crop.flip(2) if mirrored[index] else crop
    return result


@given(
    shape=st.tuples(st.integers(0, 5), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)),
    padding=st.integers(0, 9),
    seed=st.integers(0, 1_000),
)
def test_batches_are_what_single_images_give(shape: tuple[int, int, int, int], padding: int, seed: int) -> None:
    images = torch.rand(shape, generator=generator(seed)) + 0.1
    for given_images in (images, images.contiguous(memory_format=torch.channels_last)):
        before = given_images.clone()
        result = random_crop_flip(given_images, padding, generator(seed))
        assert torch.equal(result, one_by_one(images, padding, generator(seed)))
        assert torch.equal(given_images, before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_memory_format_and_type_are_kept(memory_format: torch.memory_format, channels: int, dtype: torch.dtype) -> None:
    images = torch.ones(4, channels, 6, 6, dtype=dtype).contiguous(memory_format=memory_format)
    result = random_crop_flip(images, 2, generator())
    assert (result.dtype, result.shape, result.stride()) == (images.dtype, images.shape, images.stride())
    assert result.is_contiguous(memory_format=memory_format)


def offsets_of(count: int, padding: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(row offsets, column offsets, mirrored) of `count` draws, told from the images themselves."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    image = torch.stack([rows + 1.0, columns + 1.0])  # 0 is the border
    result = random_crop_flip(image.expand(count, 2, size, size), padding, generator())
    middle = size // 2  # inside the original whatever the offset
    mirrored = result[:, 1, middle, middle] > result[:, 1, middle, middle + 1]
    upright = torch.where(mirrored[:, None, None, None], result.flip(3), result)
    row = upright[:, 0, middle, middle] - 1 - middle + padding
    column = upright[:, 1, middle, middle] - 1 - middle + padding
    return row.long(), column.long(), mirrored


def test_every_offset_is_as_likely_and_half_are_mirrored() -> None:
    count, padding = 20_000, 2
    row, column, mirrored = offsets_of(count, padding, size=10)
    cells = torch.bincount((row * 5 + column) * 2 + mirrored, minlength=50)
    assert len(cells) == 50
    chi_square = ((cells - count / 50) ** 2 / (count / 50)).sum().item()
    assert chi_square < 85.4  # 49 degrees of freedom: P = 0.001


def test_no_padding_mirrors_only() -> None:
    images = torch.rand(50, 3, 5, 5, generator=generator())
    result = random_crop_flip(images, 0, generator())
    same = (result == images).flatten(1).all(dim=1)
    flipped = (result == images.flip(3)).flatten(1).all(dim=1)
    assert bool((same ^ flipped).all())
    assert same.any() and flipped.any()


def test_only_the_generator_is_drawn_from() -> None:
    before = torch.random.get_rng_state()
    images = torch.rand(8, 3, 5, 5, generator=generator())
    draws = generator(3)
    first, second = random_crop_flip(images, 2, draws), random_crop_flip(images, 2, draws)
    assert not torch.equal(first, second)
    assert torch.equal(first, random_crop_flip(images, 2, generator(3)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(N, C, H, W\), got \(3, 5, 5\)"):
        random_crop_flip(torch.zeros(3, 5, 5), 2, generator())
    with pytest.raises(ValueError, match=r"padding \(pixels\) must be an integer of at least 0, got -1"):
        random_crop_flip(torch.zeros(1, 3, 5, 5), -1, generator())
    with pytest.raises(ValueError, match="generator must be on the images' device, meta, got cpu"):
        random_crop_flip(torch.zeros(1, 3, 5, 5, device="meta"), 1, generator())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_runs_on_a_gpu() -> None:
    images = torch.rand(64, 3, 32, 32, generator=generator()).cuda().contiguous(memory_format=torch.channels_last)
    first, again = (random_crop_flip(images, 4, torch.Generator("cuda").manual_seed(0)) for _ in range(2))
    assert first.device == images.device
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, again)
    assert not torch.equal(first, images)
