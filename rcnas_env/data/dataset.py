"""The registry of data sets, and the one way from a name to disjoint, class-balanced splits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from rcnas_env.data.image_set import DataSplits, ImageSet
from rcnas_env.data.splitting import SPLIT_SEED, take_per_class
from rcnas_env.registry import Registry
from rcnas_env.validation import require_integer


@dataclass(frozen=True)
class DatasetEntry:
    """What is known of a data set before it is loaded.

    input: (channels, height, width) of an image;
    classes: number of classes;
    epsilon: the L_inf radius at which networks are trained and attacked unless said otherwise, in [0, 1] units;
    training_images: images available to train on and to split the eval set off;
    load: returns (training part, test part).
    """

    name: str
    input: tuple[int, int, int]
    classes: int
    epsilon: float
    training_images: int
    load: Callable[[], tuple[ImageSet, ImageSet]]


_DATASETS: Registry[DatasetEntry] = Registry("dataset")


def register_dataset(entry: DatasetEntry) -> None:
    """Make a data set known by its name.

    Raises:
        ValueError: the name is taken.
    """
    _DATASETS.register(entry.name, entry)


def dataset_entry(name: str) -> DatasetEntry:
    """The entry of the data set `name`; nothing is loaded.

    Raises:
        UnknownNameError: there is none.
    """
    return _DATASETS[name]


def known_datasets() -> tuple[str, ...]:
    """The names of all registered data sets."""
    return tuple(_DATASETS)


def validate_eval_size(name: str, n_eval: object) -> int:
    """Return `n_eval`, the number of eval images that data set `name` can spare.

    Raises:
        ValueError: fewer than one an class, or so many that less than one image a class is left to train on.
    """
    entry = dataset_entry(name)
    return require_integer(
        f"n_eval (eval images split off {name}'s {entry.training_images} training images)",
        n_eval,
        entry.classes,
        entry.training_images - entry.classes,
    )


@functools.lru_cache(maxsize=4)
def load_splits(name: str, n_eval: int = 256) -> DataSplits:
    """Load data set `name` and split `n_eval` class-balanced images off its training part.

    The split depends on `name` and `n_eval` only, so that every network of a search sees the same images.

    Raises:
        UnknownNameError: no such data set.
        ValueError: `n_eval` does not fit the data.
    """
    entry = dataset_entry(name)
    validate_eval_size(name, n_eval)
    training, test = entry.load()
    chosen, rest = take_per_class(training.labels, n_eval, SPLIT_SEED)
    return DataSplits(train=training.subset(rest), eval=training.subset(chosen), test=test)
