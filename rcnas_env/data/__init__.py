"""Data sets: registered by name, held in memory, split into disjoint train, eval and test sets."""

import rcnas_env.data.digits as _digits  # noqa: F401  (registers itself)
from rcnas_env.data.dataset import DatasetEntry, dataset_entry, known_datasets, load_splits, register_dataset
from rcnas_env.data.image_set import DataSplits, ImageSet

__all__ = [
    "DataSplits",
    "DatasetEntry",
    "ImageSet",
    "dataset_entry",
    "known_datasets",
    "load_splits",
    "register_dataset",
]
