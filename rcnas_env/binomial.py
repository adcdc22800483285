"""The binomial distribution's word on an accuracy that was measured on a few images."""

from __future__ import annotations

import math


def standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy in [0, 1] on `images` images: √(a (1 − a) / images), a at least half an image off 0 and 1."""
    share = min(max(accuracy, 0.5 / images), 1 - 0.5 / images)
    return math.sqrt(share * (1 - share) / images)
