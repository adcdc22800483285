"""Folders of images as a data set: what is read, what is refused, when the fingerprint changes, the test share."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcnas_env.data import (
    DataCorruptError,
    DatasetEntry,
    DataUnavailableError,
    dataset_entry,
    known_datasets,
    load_splits,
)
from rcnas_env.data.splitting import share_of_class, take_share
from rcnas_env.evaluation.job import Job
from rcnas_env.evaluation.work import train
from rcnas_env.registry import UnknownNameError
from rcnas_env.task import Task, TaskBuffers, TeacherEntry
from rcnas_env.training.recipe import Recipe


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def numbered(value: int, size: int = 32) -> np.ndarray:
    """An image that says which it is."""
    return np.full((size, size, 3), value, dtype=np.uint8)


def fill(part: Path, counts: dict[str, int], first: int = 0) -> None:
    """Number the images from `first` on through all classes."""
    for name, count in counts.items():
        for index in range(count):
            save(part / name / f"{index:03}.png", numbered(first))
            first += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with 8 and 7 training images, and 2 test images each."""
    fill(tmp_path / "train", {"ant": 8, "bee": 7})
    fill(tmp_path / "test", {"ant": 2, "bee": 2}, first=100)
    return tmp_path


def values(pixels: torch.Tensor) -> list[int]:
    return pixels[:, 0, 0, 0].tolist()


def test_training_and_test_images_are_read(folder: Path) -> None:
    entry = dataset_entry(f"imagefolder:{folder}")
    assert (entry.input, entry.classes, entry.training_images) == ((3, 32, 32), 2, 15)
    assert (entry.epsilon, entry.augmentation, entry.crop_padding) == (8 / 255, "crop-flip", 4)
    training, test = entry.load()
    assert values(training.pixels) == list(range(15))
    assert training.labels.tolist() == [0] * 8 + [1] * 7
    assert (values(test.pixels), test.labels.tolist()) == ([100, 101, 102, 103], [0, 0, 1, 1])
    assert (training.pixels.dtype, training.pixels.shape) == (torch.uint8, (15, 3, 32, 32))
    assert bool((training.pixels == training.pixels[:, :1, :1, :1]).all())


def test_splits_are_disjoint(folder: Path) -> None:
    splits = load_splits(f"imagefolder:{folder}", 4)
    assert Counter(splits.eval.labels.tolist()) == {0: 2, 1: 2}
    assert sorted(values(splits.train.pixels) + values(splits.eval.pixels)) == list(range(15))


def test_tasks_take_image_folders(folder: Path) -> None:
    task = Task(f"imagefolder:{folder}@16", "fgsm", "WRN-10-1", 1e6)  # type: ignore[arg-type]
    assert (task.teacher.input, task.teacher.classes, task.radius) == ((3, 16, 16), 2, 8 / 255)


def test_students_on_image_folders_become_teachers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    buffers = TaskBuffers([f"imagefolder:{folder.name}"], ["fgsm"], [TeacherEntry("WRN-10-1", (1e6,))])
    rng = np.random.default_rng(0)
    first = buffers.sample(rng)
    narrower = tuple(replace(stage, planes=stage.planes // 2) for stage in first.teacher.stages)
    student = replace(first.teacher, stages=narrower)
    buffers.add_student(first, student)
    assert student in {buffers.sample(rng).teacher for _ in range(20)}


def test_the_central_square_is_resized_as_pillow_does(folder: Path) -> None:
    wide = np.random.default_rng(0).integers(256, size=(40, 71, 3), dtype=np.uint8)
    save(folder / "train" / "ant" / "000.png", wide)
    loaded = dataset_entry(f"imagefolder:{folder}@24").load()[0].pixels
    square = Image.fromarray(wide[:, 15:55].copy()).resize((24, 24), Image.Resampling.BICUBIC)
    assert np.array_equal(loaded[0].numpy(), np.asarray(square).transpose(2, 0, 1))
    assert loaded.shape[1:] == (3, 24, 24)


def test_images_of_the_right_size_are_left_alone(folder: Path) -> None:
    tall = np.random.default_rng(0).integers(256, size=(33, 32, 3), dtype=np.uint8)
    save(folder / "train" / "ant" / "000.png", tall)
    loaded = dataset_entry(f"imagefolder:{folder}").load()[0].pixels
    assert np.array_equal(loaded[0].numpy(), tall[:32].transpose(2, 0, 1))


def test_every_format_is_read_and_other_files_are_not(folder: Path) -> None:
    cat = folder / "train" / "cat"
    cat.mkdir()
    save(folder / "test" / "cat" / "0.png", numbered(200))
    picture = Image.fromarray(numbered(200))
    for index, suffix in enumerate(("png", "JPG", "jpeg", "bmp", "WEBP")):
        picture.save(cat / f"{index}.{suffix}")
    picture.convert("L").save(cat / "5.png")
    picture.quantize(4).save(cat / "6.png")
    picture.convert("RGBA").save(cat / "7.png")
    picture.convert("LA").save(cat / "8.png")
    (cat / "notes.txt").write_text("no image")
    (cat / ".hidden.png").write_text("no image")
    (cat / "deeper.png").mkdir()
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "readme.png").write_text("no class")
    training = dataset_entry(f"imagefolder:{folder}").load()[0]
    pixels = training.pixels[training.labels == 2]
    assert len(pixels) == 9
    torch.testing.assert_close(pixels.float(), torch.full_like(pixels, 200).float(), atol=2, rtol=0)


@pytest.mark.parametrize(("size", "padding"), [(8, 1), (31, 3), (32, 4), (64, 8)])
def test_the_border_of_crops_grows_with_the_image(folder: Path, size: int, padding: int) -> None:
    entry = dataset_entry(f"imagefolder:{folder}@{size}")
    assert (entry.input, entry.crop_padding) == ((3, size, size), padding)


def test_names_are_made_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    by_relative, by_absolute = dataset_entry(f"imagefolder:{folder.name}"), dataset_entry(f"imagefolder:{folder}@32")
    assert by_relative.name == by_absolute.name == f"imagefolder:{folder}@32"
    assert by_relative.fingerprint == by_absolute.fingerprint
    again = load_splits(f"imagefolder:{folder.name}", 4)
    assert again is load_splits(f"imagefolder:{folder}", 4)


def test_an_at_sign_in_a_path_is_part_of_it(tmp_path: Path) -> None:
    fill(tmp_path / "me@home" / "train", {"ant": 2, "bee": 2})
    assert dataset_entry(f"imagefolder:{tmp_path}/me@home").input == (3, 32, 32)
    assert dataset_entry(f"imagefolder:{tmp_path}/me@home@16").input == (3, 16, 16)


# ------------------------------------------------------------------------------------------------ without a test part


def entry_without_test(root: Path, counts: dict[str, int]) -> DatasetEntry:
    fill(root / "train", counts)
    return dataset_entry(f"imagefolder:{root}")


def test_a_sixth_of_each_class_is_the_test_part(tmp_path: Path) -> None:
    entry = entry_without_test(tmp_path, {"ant": 36, "bee": 13, "cat": 2})
    training, test = entry.load()
    assert torch.bincount(test.labels).tolist() == [6, 2, 1]
    assert torch.bincount(training.labels).tolist() == [30, 11, 1]
    assert entry.training_images == len(training) == 42
    assert sorted(values(training.pixels) + values(test.pixels)) == list(range(51))


def test_the_test_part_is_always_the_same_and_not_the_first_images(tmp_path: Path) -> None:
    entry = entry_without_test(tmp_path, {"ant": 36, "bee": 36})
    first, again = entry.load()[1], dataset_entry(entry.name).load()[1]
    assert torch.equal(first.pixels, again.pixels)
    assert values(first.pixels) != [*range(6), *range(36, 42)]


def test_shares_are_whole_disjoint_and_by_class() -> None:
    labels = torch.tensor([0] * 20 + [1] * 7 + [2] * 3)[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    taken, rest = take_share(labels, 6, seed=1)
    assert torch.bincount(labels[taken]).tolist() == [3, 1, 1] == [share_of_class(count, 6) for count in (20, 7, 3)]
    assert sorted([*taken.tolist(), *rest.tolist()]) == list(range(30))
    assert not torch.equal(taken, take_share(labels, 6, seed=2)[0])


def test_n_eval_must_leave_every_class_something_to_train_on(tmp_path: Path) -> None:
    entry = entry_without_test(tmp_path, {"ant": 20, "bee": 4})
    assert torch.bincount(load_splits(entry.name, 4).train.labels).tolist() == [15, 1]
    with pytest.raises(ValueError, match=r"n_eval must leave .* an image of every class.* 8 leaves none of class 1"):
        load_splits(entry.name, 8)


# ------------------------------------------------------------------------------------------------------- fingerprint


def change_nothing(folder: Path) -> None:
    (folder / "train" / "ant" / "notes.txt").write_text("no image")


def rewrite(folder: Path) -> None:
    """Same size, other content, a later time, as an editor leaves it."""
    path = folder / "train" / "ant" / "000.png"
    before = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def rename(folder: Path) -> None:
    (folder / "test" / "bee" / "000.png").rename(folder / "test" / "bee" / "999.png")


def move_to_the_other_class(folder: Path) -> None:
    (folder / "train" / "ant" / "000.png").rename(folder / "train" / "bee" / "999.png")


def remove(folder: Path) -> None:
    (folder / "test" / "bee" / "000.png").unlink()


def add(folder: Path) -> None:
    save(folder / "train" / "bee" / "999.png", numbered(99))


@pytest.mark.parametrize("change", [rewrite, rename, move_to_the_other_class, remove, add])
def test_the_fingerprint_follows_the_images(folder: Path, change: object) -> None:
    assert callable(change)
    name = f"imagefolder:{folder}"
    before, splits = dataset_entry(name), load_splits(name, 4)
    assert len(before.fingerprint) == 64
    change_nothing(folder)
    assert dataset_entry(name).fingerprint == before.fingerprint
    assert load_splits(name, 4) is splits
    change(folder)
    assert dataset_entry(name).fingerprint != before.fingerprint
    assert load_splits(name, 4) is not splits
    with pytest.raises(DataCorruptError, match=r"changed while they were read|cannot be read"):
        before.load()


# ------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_an_unreadable_image_is_named(folder: Path, content: bytes) -> None:
    path = folder / "train" / "bee" / "003.png"
    path.write_bytes(content)
    with pytest.raises(DataCorruptError, match=f"{path} is not a readable image"):
        load_splits(f"imagefolder:{folder}", 4)


def test_a_truncated_image_is_named(folder: Path) -> None:
    path = folder / "test" / "ant" / "noise.png"
    save(path, np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataCorruptError, match=f"{path} is not a readable image"):
        load_splits(f"imagefolder:{folder}", 4)


def test_images_that_change_after_a_job_was_made_are_not_taken_for_its_own(folder: Path) -> None:
    name = f"imagefolder:{folder}"
    task = Task(name, "fgsm", "WRN-10-1", 1e6)
    job = Job(task.teacher, task, Recipe(epochs=1, batch_size=4, n_eval=4))
    assert job.training_key  # asked for once
    image, *_ = sorted((folder / "train").rglob("*.png"))
    os.utime(image, ns=(1, 1))
    with pytest.raises(DataCorruptError, match="has changed since the run began"):
        train(job)


def test_sixteen_bits_a_channel_are_not_clipped_unnoticed(folder: Path) -> None:
    path = folder / "train" / "ant" / "deep.png"
    save(path, np.full((32, 32), 40_000, dtype=np.uint16))
    with pytest.raises(DataCorruptError, match=f"{path} must have 8 bits a channel"):
        load_splits(f"imagefolder:{folder}", 4)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match=f"no folder {tmp_path / 'train'}: .*PATH/train/CLASS/"):
        dataset_entry(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("size", ["0", "7", "257", "99999999999999999999"])
def test_sizes_out_of_range_are_refused(folder: Path, size: str) -> None:
    with pytest.raises(ValueError, match=rf"size of dataset .* must be an integer from 8 to 256, got {size}"):
        dataset_entry(f"imagefolder:{folder}@{size}")


def test_a_path_is_needed() -> None:
    with pytest.raises(ValueError, match=re.escape("must be imagefolder:PATH or imagefolder:PATH@SIZE, got")):
        dataset_entry("imagefolder:")


@pytest.mark.parametrize("classes", [0, 1])
def test_two_classes_are_needed(tmp_path: Path, classes: int) -> None:
    (tmp_path / "train").mkdir()
    fill(tmp_path / "train", {"ant": 3} if classes else {})
    with pytest.raises(ValueError, match=f"train must have at least 2 classes, a folder each, has {classes}"):
        dataset_entry(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_images_is_refused(folder: Path, part: str) -> None:
    (folder / part / "cat").mkdir()
    with pytest.raises(ValueError, match=f"{folder / part / 'cat'} must hold at least one image"):
        dataset_entry(f"imagefolder:{folder}")


def test_train_and_test_must_have_the_same_classes(folder: Path) -> None:
    save(folder / "train" / "cat" / "0.png", numbered(0))
    with pytest.raises(ValueError, match="train and test must have the same classes; only one of them has cat"):
        dataset_entry(f"imagefolder:{folder}")


def test_one_image_is_too_few_to_share(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path / 'train' / 'bee'} must have at least 2 images as there is no"):
        entry_without_test(tmp_path, {"ant": 3, "bee": 1})


def test_misspellings_are_told_of_folders(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"known: .*imagefolder:PATH\[@SIZE\]"):
        dataset_entry(f"imagefolders:{folder}")
    assert not any(name.startswith("imagefolder") for name in known_datasets())
