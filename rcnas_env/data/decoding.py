"""Image files to uint8 tensors, by Pillow; several at once, as its decoders release Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rcnas_env.data.storage import DataCorruptError

if TYPE_CHECKING:
    from PIL.Image import Image


def decode_rgb(contents: bytes, name: str) -> Image:
    """An image file's `contents` as an RGB image; grey becomes three equal channels, transparency is dropped.

    Args:
        contents: of a file in any format that Pillow knows.
        name: of the file, for errors.

    Raises:
        DataCorruptError: it cannot be decoded, or is grey of more than 8 bits (which would be clipped; of
            16-bit colours Pillow takes the upper 8).
    """
    from PIL import Image

    try:
        with Image.open(BytesIO(contents)) as image:
            deep = image.mode.startswith(("I", "F"))
            decoded = None if deep else image.convert("RGB")
    except Exception as error:  # decoders raise whatever they like on broken files, SyntaxError included
        raise DataCorruptError(f"{name} is not a readable image: {error}") from error
    if decoded is None:
        raise DataCorruptError(f"{name} must have 8 bits a channel, has more")
    return decoded


def centre_square(image: Image, size: int) -> Image:
    """The largest central square of `image`, resized to `size` × `size` pixels (bicubic)."""
    from PIL import Image as pillow

    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return square if side == size else square.resize((size, size), pillow.Resampling.BICUBIC)


def decode_all(count: int, size: int, decode: Callable[[int], Image]) -> Tensor:
    """The images `decode(0)` … `decode(count − 1)`, each RGB and `size` × `size`: uint8 (count, 3, size, size)."""
    pixels = np.empty((count, 3, size, size), dtype=np.uint8)

    def fill(index: int) -> None:
        """Decode one image into its place; threads call it side by side."""
        pixels[index] = np.asarray(decode(index)).transpose(2, 0, 1)

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for _ in pool.map(fill, range(count)):  # raises the first error
            pass
    return torch.from_numpy(pixels)
