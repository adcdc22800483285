"""scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak 1998): grey, 8×8, 17 levels; shipped in the package."""

from __future__ import annotations

import torch

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
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    everything = ImageSet(pixels, torch.from_numpy(bunch.target).long(), scale=LEVELS)
    test, training = take_per_class(everything.labels, TEST_IMAGES, SPLIT_SEED)
    return everything.subset(training), everything.subset(test)


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
