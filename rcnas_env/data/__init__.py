"""Data sets: registered by name, held in memory, split into disjoint train, eval and test sets."""

import rcnas_env.data.cifar as _cifar  # noqa: F401  (registers itself, as those below)
import rcnas_env.data.digits as _digits  # noqa: F401
import rcnas_env.data.fashion_mnist as _fashion_mnist  # noqa: F401
import rcnas_env.data.image_folder as _image_folder  # noqa: F401
import rcnas_env.data.tiny_imagenet as _tiny_imagenet  # noqa: F401
from rcnas_env.data.augmentation import random_crop_flip
from rcnas_env.data.dataset import (
    AUGMENTATIONS,
    DatasetEntry,
    dataset_entry,
    known_datasets,
    load_splits,
    register_dataset,
    register_dataset_family,
)
from rcnas_env.data.image_set import DataSplits, ImageSet
from rcnas_env.data.storage import DataCorruptError, DataUnavailableError, PublishedFile, data_folder

__all__ = [
    "AUGMENTATIONS",
    "DataCorruptError",
    "DataSplits",
    "DataUnavailableError",
    "DatasetEntry",
    "ImageSet",
    "PublishedFile",
    "data_folder",
    "dataset_entry",
    "known_datasets",
    "load_splits",
    "random_crop_flip",
    "register_dataset",
    "register_dataset_family",
]
