"""Training-time augmentation of batches, on the device that they are on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rcnas_env.validation import require_integer


def random_crop_flip(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Crop each image at random out of itself with a border of zeros, and mirror it with probability ½.

    The usual augmentation of CIFAR (He et al. 2016, section 4.2: padding 4). Every image has its own row offset,
    column offset (each uniform on 0 … 2·padding) and mirroring, drawn in this order for the whole batch.

    Args:
        images: any dtype, (N, C, H, W).
        padding: width of the border, in pixels, at least 0 (then images are mirrored only).
        generator: the only source of randomness, on the images' device.

    Returns:
        A new tensor of the images' shape, dtype, device and memory format.

    Raises:
        ValueError: `images` has not four dimensions, `padding` is no integer of at least 0, or `generator` is on
            another kind of device.
    """
    if images.dim() != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}")
    require_integer("padding (pixels)", padding, 0)
    if generator.device.type != images.device.type:
        raise ValueError(f"generator must be on the images' device, {images.device}, got {generator.device}")
    count, _, height, width = images.shape
    device = images.device
    offsets = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=device)
    mirrored = torch.randint(2, (count, 1), generator=generator, device=device).bool()
    columns = torch.arange(width, device=device)
    rows = offsets[0] + torch.arange(height, device=device)  # (N, H) of the padded image
    columns = offsets[1] + torch.where(mirrored, columns.flip(0), columns)  # (N, W)
    # The channels last: whole pixels are gathered, and the result is in training's memory format already.
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    image = torch.arange(count, device=device)[:, None, None]
    cropped = padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.empty_like(images).copy_(cropped)  # empty_like has the images' strides
