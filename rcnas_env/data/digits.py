"""scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998): grey, 8×8, 17 levels; shipped in the package."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rcnas_env.data.dataset import DatasetEntry, register_dataset
from rcnas_env.data.image_set import ImageSet
from rcnas_env.data.splitting import SPLIT_SEED, take_per_class

IMAGES = 1_797
TEST_IMAGES = 240
LEVELS = 16


def load_digits_sets() -> tuple[ImageSet, ImageSet]:
    """(training part of 1,557 images, test part of 240 images, 24 a class).

    The data set has no official test set; this split is fixed and seeded.
    """
    table = torch.from_numpy(_rows())
    everything = ImageSet(table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].long(), scale=LEVELS)
    test, training = take_per_class(everything.labels, TEST_IMAGES, SPLIT_SEED)
    return everything.subset(training), everything.subset(test)


def _rows() -> NDArray[np.uint8]:
    """(1797, 65): 64 pixels and the label of each image, out of the file that `sklearn.datasets.load_digits` reads.

    Its 900 modules are not imported for that, which would take every worker process a second.
    """
    package = importlib.util.find_spec("sklearn")
    folders = (package.submodule_search_locations if package else None) or []
    for file in (Path(folder) / "datasets" / "data" / "digits.csv.gz" for folder in folders):
        if file.is_file():
            with gzip.open(file, "rt", encoding="ascii") as lines:
                return np.loadtxt(lines, np.uint8, delimiter=",")
    from sklearn.datasets import load_digits  # another scikit-learn may keep the file elsewhere

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target]).astype(np.uint8)


register_dataset(
    DatasetEntry(
        name="digits",
        input=(1, 8, 8),
        classes=10,
        epsilon=0.2,  # hard, not hopeless: see the teacher in docs/evidence/quickstart.json
        training_images=IMAGES - TEST_IMAGES,
        load=load_digits_sets,
    )
)
