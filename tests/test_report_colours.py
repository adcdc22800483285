"""The report's colours: contrast with the background, and series apart for every kind of colour vision."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from experiments.reporting import chart_parts
from experiments.reporting.chart_parts import COLOURS

CSS = Path(chart_parts.__file__).with_name("page.css").read_text(encoding="utf-8")

# Linear RGB → what someone without the L, M or S cone sees (Machado, Oliveira, Fernandes 2009, severity 1).
VISIONS = {
    "trichromat": np.eye(3),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanope": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def linear(colour: str) -> np.ndarray:
    """Linear RGB in [0, 1] of "#rrggbb" (IEC 61966-2-1)."""
    encoded = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def contrast(first: str, second: str) -> float:
    """WCAG 2's contrast ratio, from 1 to 21."""
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB, white point D65."""
    ratio = TO_XYZ @ rgb.clip(0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def schemes() -> dict[str, dict[str, str]]:
    """Colours of page.css by name, in light and dark."""
    light, dark = (dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part)) for part in CSS.split("@media screen", 1))
    return {"light": light, "dark": dark}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_and_apart(scheme: str) -> None:
    colours = schemes()[scheme]
    series = [colours[f"s{place}"] for place in range(COLOURS)]
    assert f"s{COLOURS}" not in colours
    assert contrast("#ffffff", "#000000") == pytest.approx(21, abs=1e-3)
    for name in (*(f"s{place}" for place in range(COLOURS)), "teacher", "front", "budget"):
        assert contrast(colours[name], colours["background"]) >= 3, name  # WCAG 1.4.11: graphics
    for name in ("text", "quiet", "link"):
        assert contrast(colours[name], colours["background"]) >= 4.5, name  # WCAG 1.4.3: text
    for vision, matrix in VISIONS.items():
        seen = [lab(matrix @ linear(colour)) for colour in (*series, colours["teacher"])]
        for first, second in combinations(range(len(seen)), 2):
            apart = float(np.linalg.norm(seen[first] - seen[second]))  # ΔE*ab; 2.3 is just noticeable
            assert apart >= 15, (vision, first, second)
