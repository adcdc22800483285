"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): grey, 28×28, 10 classes, 60,000 training and 10,000 test images.

"fashion-mnist-14" has the same images at half the width and height, after the manner of the down-sampled ImageNet
(Chrabaszcz, Loshchilov and Hutter 2017): a training on them costs about a quarter.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from rcnas_env.data.dataset import DatasetEntry, register_dataset
from rcnas_env.data.image_set import ImageSet
from rcnas_env.data.storage import DataCorruptError, PublishedFile, data_folder, data_unavailable

NAME = "fashion-mnist"
HALF_SIZE_NAME = "fashion-mnist-14"
FOLDER = "FashionMNIST/raw"
"""Below the data folder: where torchvision keeps the files, too."""

MOST_BYTES = 16 + 60_000 * 28 * 28
"""Of the largest of the four files, unpacked."""

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist puts them."""

_MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_FILES = tuple(
    PublishedFile(f"{FOLDER}/{name}.gz", f"{_MIRROR}{name}.gz", md5)
    for name, md5 in (
        ("train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe"),
        ("t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310"),
    )
)

# Of what is inside the .gz files. Debian compressed the same contents again, so that its .gz files have other MD5s.
CONTENT_SHA256: Mapping[str, str] = MappingProxyType(
    {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }
)


def load_fashion_mnist(
    folders: Sequence[Path] | None = None, sha256: Mapping[str, str] = CONTENT_SHA256, name: str = NAME
) -> tuple[ImageSet, ImageSet]:
    """(training part, test part), out of the first folder that has all four files, as .gz or unpacked.

    Args:
        folders: where to look; None for `FashionMNIST/raw` in `data_folder()`, then Debian's.
        sha256: SHA-256 of the contents of each file, unpacked.
        name: of the data set that is asked for, for errors.

    Raises:
        DataUnavailableError: no folder has them all.
        DataCorruptError: a file is truncated or altered.
    """
    for folder in (data_folder() / FOLDER, DEBIAN_FOLDER) if folders is None else folders:
        found = {file: _present(folder, file) for file in sha256}
        if all(found.values()):
            break
    else:
        package = f"The Debian package dataset-fashion-mnist, which puts them into {DEBIAN_FOLDER}, serves as well."
        raise data_unavailable(name, data_folder(), FASHION_MNIST_FILES, package)
    from torchvision.datasets import FashionMNIST

    # torchvision checks no checksum here, and reads no .gz: it is given a folder of checked, unpacked files.
    with tempfile.TemporaryDirectory(prefix="rcnas-") as root:
        raw = Path(root) / FOLDER
        raw.mkdir(parents=True)
        for file, path in found.items():
            assert path is not None
            (raw / file).write_bytes(_checked_contents(path, sha256[file]))
        parts = [FashionMNIST(root, train=train, download=False) for train in (True, False)]
    training, test = (ImageSet(part.data.unsqueeze(1), part.targets.long()) for part in parts)
    return training, test


def half_size(images: ImageSet) -> ImageSet:
    """The images at half the width and height, both even: each pixel the mean of four, a half rounded up."""
    count, channels, height, width = images.pixels.shape
    blocks = images.pixels.reshape(count, channels, height // 2, 2, width // 2, 2)
    pixels = (blocks.sum(dim=(3, 5), dtype=torch.int32) + 2) // 4  # integers: the same on every machine
    return ImageSet(pixels.to(torch.uint8), images.labels, images.scale)


def load_half_size() -> tuple[ImageSet, ImageSet]:
    """(training part, test part) of 14×14 pixels; errors as for `load_fashion_mnist`."""
    training, test = load_fashion_mnist(name=HALF_SIZE_NAME)
    return half_size(training), half_size(test)


def _present(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _checked_contents(path: Path, sha256: str) -> bytes:
    """The contents of the file at `path`, unpacked."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            contents = file.read(MOST_BYTES + 1)  # a bomb is not unpacked further; the checksum tells
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataCorruptError(f"{path} is no whole .gz file ({error}); delete it and get it again") from error
    found = hashlib.sha256(contents).hexdigest()
    if found != sha256:
        raise DataCorruptError(
            f"{path} must have contents with sha256 {sha256}, has {found}: it is truncated or altered; delete it "
            "and get it again"
        )
    return contents


_entry = functools.partial(
    DatasetEntry,
    classes=10,
    # As Wong and Kolter 2018. MNIST's 0.3 would be more than half of the contrast here: clothes have half-tones,
    # where MNIST is nearly black and white.
    epsilon=0.1,
    training_images=60_000,
    files=FASHION_MNIST_FILES,
)
register_dataset(_entry(name=NAME, input=(1, 28, 28), load=load_fashion_mnist))
register_dataset(_entry(name=HALF_SIZE_NAME, input=(1, 14, 14), load=load_half_size))
