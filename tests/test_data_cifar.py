"""CIFAR-10 and CIFAR-100, read from small archives in the official format; what is refused before it is unpickled."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from rcnas_env.data import DataCorruptError, DataUnavailableError, ImageSet, dataset_entry
from rcnas_env.data.cifar import CIFAR10_FILES, CIFAR100_FILES, CifarFiles, load_cifar

OFFICIAL = {"cifar10": CIFAR10_FILES, "cifar100": CIFAR100_FILES}
PER_BATCH = 6


class OldPickler(pickle.Pickler):
    """Writes arrays as numpy did in 2009, when the archives were made: dtypes with the integers 0 and 1."""

    def reducer_override(self, obj: Any) -> Any:
        """See `pickle.Pickler`."""
        if isinstance(obj, np.dtype):
            return np.dtype, (obj.str[1:], 0, 1), obj.__reduce__()[2]
        return NotImplemented


def pickled(value: object) -> bytes:
    stream = io.BytesIO()
    OldPickler(stream, protocol=2).dump(value)
    return stream.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


def batch(seed: int, label_key: str, classes: int) -> tuple[dict[str, Any], np.ndarray, list[int]]:
    """(what is pickled, pixels (N, 3, 32, 32), labels)."""
    draws = np.random.default_rng(seed)
    pixels = draws.integers(256, size=(PER_BATCH, 3072), dtype=np.uint8)
    labels = [int(label) for label in draws.integers(classes, size=PER_BATCH)]
    content = {"data": pixels, label_key: labels, "filenames": [f"{i}.png" for i in range(PER_BATCH)]}
    if label_key == "fine_labels":
        content["coarse_labels"] = [0] * PER_BATCH
    return content, pixels.reshape(-1, 3, 32, 32), labels


class SmallArchive:
    """An archive with few images, its checksums, and the images."""

    def __init__(self, folder: Path, name: str) -> None:
        official, classes = OFFICIAL[name], dataset_entry(name).classes
        self.folder, self.path = folder, folder / official.archive.path
        self.members: dict[str, bytes] = {}
        pixels: dict[str, np.ndarray] = {}
        labels: dict[str, list[int]] = {}
        for seed, member in enumerate([each for each, _ in (*official.training, *official.test)]):
            key = "labels" if name == "cifar10" else "fine_labels"
            content, pixels[member], labels[member] = batch(seed, key, classes)
            self.members[member] = pickled(content)
        meta_key = "label_names" if name == "cifar10" else "fine_label_names"
        self.members[official.meta[0]] = pickled({meta_key: [f"class {i}" for i in range(classes)]})
        with tarfile.open(self.path, "w:gz") as tar:
            for member, content in {**self.members, "readme.html": b"not needed"}.items():
                info = tarfile.TarInfo(f"{official.folder}/{member}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        self.files = with_checksums(official, self.path, self.members)
        self.parts = [
            (
                torch.from_numpy(np.concatenate([pixels[each] for each, _ in members])),
                torch.tensor([label for each, _ in members for label in labels[each]]),
            )
            for members in (official.training, official.test)
        ]

    def unpack(self) -> Path:
        target = self.folder / self.files.folder
        target.mkdir()
        for name, content in self.members.items():
            (target / name).write_bytes(content)
        return target


def with_checksums(official: CifarFiles, archive: Path, members: dict[str, bytes]) -> CifarFiles:
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in members.items()}
    return replace(
        official,
        archive=replace(official.archive, md5=hashlib.md5(archive.read_bytes()).hexdigest()),
        training=tuple((name, md5[name]) for name, _ in official.training),
        test=tuple((name, md5[name]) for name, _ in official.test),
        meta=(official.meta[0], md5[official.meta[0]]),
    )


def assert_are(loaded: tuple[ImageSet, ImageSet], archive: SmallArchive) -> None:
    for part, (pixels, labels) in zip(loaded, archive.parts, strict=True):
        assert (part.pixels.dtype, part.labels.dtype, part.scale) == (torch.uint8, torch.int64, 255)
        assert torch.equal(part.pixels, pixels)
        assert torch.equal(part.labels, labels)
        assert part.pixels.is_contiguous()


@pytest.fixture(params=list(OFFICIAL))
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> SmallArchive:
    return SmallArchive(tmp_path, request.param)


def test_the_archive_is_read(archive: SmallArchive) -> None:
    assert_are(load_cifar(archive.files, archive.folder), archive)
    assert [path.name for path in archive.folder.iterdir()] == [archive.path.name]  # nothing is left behind


def test_the_unpacked_folder_is_read(archive: SmallArchive) -> None:
    archive.unpack()
    archive.path.unlink()
    assert_are(load_cifar(archive.files, archive.folder), archive)


def test_the_data_folder_is_where_it_is_read_from(archive: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCNAS_DATA", str(archive.folder))
    assert_are(load_cifar(archive.files), archive)


def test_the_official_checksum_is_insisted_on(archive: SmallArchive) -> None:
    official = OFFICIAL[archive.files.dataset]
    with pytest.raises(DataCorruptError, match=f"{archive.path} must have md5 {official.archive.md5}, has "):
        load_cifar(official, archive.folder)


def test_a_truncated_archive_is_refused(archive: SmallArchive) -> None:
    archive.path.write_bytes(archive.path.read_bytes()[:-1])
    with pytest.raises(DataCorruptError, match=f"{archive.path} must have md5 {archive.files.archive.md5}, has "):
        load_cifar(archive.files, archive.folder)


def test_an_archive_of_something_else_is_refused(archive: SmallArchive) -> None:
    other = replace(archive.files, folder="elsewhere")
    with pytest.raises(DataCorruptError, match=r"lacks elsewhere/"):
        load_cifar(other, archive.folder)


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled_before_every_checksum_holds(archive: SmallArchive) -> None:
    unpacked, sprung = archive.unpack(), archive.folder / "sprung"
    trap = pickle.dumps(Trap(sprung))
    for name in archive.members:
        (unpacked / name).write_bytes(trap)
        with pytest.raises(DataCorruptError, match=f"{unpacked / name} must have md5 "):
            load_cifar(archive.files, archive.folder)
        assert not sprung.exists()
        (unpacked / name).write_bytes(archive.members[name])
    pickle.loads(trap)
    assert sprung.exists()  # it would have been seen


def test_a_file_missing_from_the_unpacked_folder_is_named(archive: SmallArchive) -> None:
    missing = archive.unpack() / archive.files.test[0][0]
    missing.unlink()
    with pytest.raises(DataCorruptError, match=f"{missing} must be a file with md5 .* missing"):
        load_cifar(archive.files, archive.folder)


def test_absent_files_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError) as caught:
        load_cifar(CIFAR10_FILES, tmp_path)
    for part in (str(tmp_path / "cifar-10-python.tar.gz"), CIFAR10_FILES.archive.md5, "-m rcnas_env.data cifar10"):
        assert part in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_the_checksums_are_torchvisions(name: str, kind: str) -> None:
    reader, files = getattr(torchvision.datasets, kind), OFFICIAL[name]
    assert (files.archive.path, files.archive.url, files.archive.md5) == (reader.filename, reader.url, reader.tgz_md5)
    assert [list(each) for each in files.training] == reader.train_list
    assert [list(each) for each in files.test] == reader.test_list
    assert files.meta == (reader.meta["filename"], reader.meta["md5"])
    assert files.folder == reader.base_folder
