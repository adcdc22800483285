"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): colour, 32×32, 50,000 training and 10,000 test images."""

from __future__ import annotations

import functools
import shutil
import tarfile
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rcnas_env.data.dataset import DatasetEntry, register_dataset
from rcnas_env.data.image_set import ImageSet
from rcnas_env.data.storage import DataCorruptError, PublishedFile, data_folder, data_unavailable, require_intact

EPSILON = 8 / 255
"""The radius of the paper's experiments, and of RobustBench's L_inf leader board."""


@dataclass(frozen=True)
class CifarFiles:
    """One of the two sets in its "python version", each file with its md5 (those of torchvision's classes).

    dataset: "cifar10" or "cifar100";
    archive: the .tar.gz as published;
    folder: what it unpacks to;
    training, test: (file name, md5) of each batch;
    meta: (file name, md5) of the class names.
    """

    dataset: str
    archive: PublishedFile
    folder: str
    training: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]
    meta: tuple[str, str]

    @property
    def members(self) -> dict[str, str]:
        """The md5 of every file needed out of the archive, by its name."""
        return dict((*self.training, *self.test, self.meta))


CIFAR10_FILES = CifarFiles(
    dataset="cifar10",
    archive=PublishedFile(
        "cifar-10-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        "c58f30108f718f92721af3b95e74349a",
    ),
    folder="cifar-10-batches-py",
    training=(
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test=(("test_batch", "40351d587109b95175f43aff81a1287e"),),
    meta=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
)
CIFAR100_FILES = CifarFiles(
    dataset="cifar100",
    archive=PublishedFile(
        "cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
    ),
    folder="cifar-100-python",
    training=(("train", "16019d7e3df5f24257cddd939b257f8d"),),
    test=(("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    meta=("meta", "7973b15100ade9c7d40fb424638fde48"),
)


def load_cifar(files: CifarFiles, folder: Path | None = None) -> tuple[ImageSet, ImageSet]:
    """(training part, test part), out of the unpacked archive if it is there, else out of the archive itself.

    Args:
        files: which set, with the checksums to insist on.
        folder: where it lies; None for `data_folder()`.

    Raises:
        DataUnavailableError: neither is there.
        DataCorruptError: a file fails its checksum.
    """
    folder = data_folder() if folder is None else folder
    if (folder / files.folder).is_dir():
        return _read_batches(files, folder)
    archive = folder / files.archive.path
    if not archive.is_file():
        raise data_unavailable(files.dataset, folder, [files.archive])
    require_intact(archive, files.archive.md5)
    with tempfile.TemporaryDirectory(prefix="rcnas-") as unpacked:
        _unpack(files, archive, Path(unpacked))
        return _read_batches(files, Path(unpacked))


def _unpack(files: CifarFiles, archive: Path, folder: Path) -> None:
    """Copy the members needed, and no others, out of the archive; their paths are ours, not the archive's."""
    (folder / files.folder).mkdir()
    wanted = {f"{files.folder}/{name}": folder / files.folder / name for name in files.members}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            source = tar.extractfile(member) if member.name in wanted else None
            if source is not None:
                with wanted[member.name].open("wb") as target:
                    shutil.copyfileobj(source, target)
    missing = [name for name, path in wanted.items() if not path.is_file()]
    if missing:
        raise DataCorruptError(f"{archive} must hold {', '.join(wanted)}; lacks {', '.join(missing)}")


def _read_batches(files: CifarFiles, folder: Path) -> tuple[ImageSet, ImageSet]:
    # The batches are pickles, and torchvision unpickles them. What is unpickled is the authors' own file to the
    # byte, or nothing: here every checksum comes first, and torchvision compares them once more before it reads.
    for name, md5 in files.members.items():
        require_intact(folder / files.folder / name, md5)
    reader = _reader(files)
    with warnings.catch_warnings():
        # numpy 2.4.0 to 2.4.4 warn of an argument inside these pickles of 2009; later ones take it again.
        warnings.filterwarnings("ignore", r"dtype\(\): align should be passed as Python or NumPy boolean")
        training, test = (reader(folder, train=train, download=False) for train in (True, False))
    return _image_set(training), _image_set(test)


def _reader(files: CifarFiles) -> Any:
    """The class of torchvision for the set, holding to the checksums of `files`."""
    from torchvision.datasets import CIFAR10, CIFAR100

    base = {CIFAR10_FILES.dataset: CIFAR10, CIFAR100_FILES.dataset: CIFAR100}[files.dataset]
    meta_name, meta_md5 = files.meta
    overridden = {
        "base_folder": files.folder,
        "train_list": [list(each) for each in files.training],
        "test_list": [list(each) for each in files.test],
        "meta": {**base.meta, "filename": meta_name, "md5": meta_md5},
    }
    return type(base.__name__, (base,), overridden)


def _image_set(part: Any) -> ImageSet:
    pixels = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.tensor(part.targets, dtype=torch.int64))


for _files, _classes in ((CIFAR10_FILES, 10), (CIFAR100_FILES, 100)):
    register_dataset(
        DatasetEntry(
            name=_files.dataset,
            input=(3, 32, 32),
            classes=_classes,
            epsilon=EPSILON,
            training_images=50_000,
            load=functools.partial(load_cifar, _files),
            augmentation="crop-flip",
            files=(_files.archive,),
        )
    )
