"""What is said of a delivered student, in student.json: the network, its input, how it was trained, what was measured.

{"format": 1, "network": spec, "params", "macs", "dataset", "preprocessing", "measurements": [...],
 "training": {...}, "search": {...}, "versions": {...}, "commit", "files": {file name: SHA-256}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from rcnas_env.architecture import Network, network_from_dict
from rcnas_env.attacks import attack_entry
from rcnas_env.binomial import standard_error
from rcnas_env.cost import cost
from rcnas_env.evaluation.job import SPLITS
from rcnas_env.image_shape import require_input_shape
from rcnas_env.task import ATTACK_SOURCES
from rcnas_env.validation import require_choice, require_fields, require_integer, require_number

FORMAT = 1
"""Version of student.json; another is not read."""

_FIXED = {"pixels": "uint8", "layout": "NCHW", "range": [0.0, 1.0], "normalisation": None}
"""Of every student of this format: networks take images in [0, 1] as they are."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Preprocessing:
    """All that happens to pixels before the network: x = pixels / scale, float32. No mean is taken off, nothing is
    divided by a deviation, nothing is resized; images must come in the size that the network was trained on.

    input: (channels, height, width) of one image.
    scale: the integer that stands for full brightness (255; 16 for scikit-learn's digits), at least 1.

    Raises:
        ValueError: a field is out of range.
    """

    input: tuple[int, int, int]
    scale: int = 255

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", require_input_shape("preprocessing.input", self.input))
        object.__setattr__(self, "scale", require_integer("preprocessing.scale", self.scale, 1))

    def __call__(self, pixels: Tensor) -> Tensor:
        """The network's input, float32 (N, channels, height, width) in [0, 1], of `pixels`, uint8 of that shape.

        Raises:
            ValueError: another type or shape, or a pixel above `scale`.
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != self.input:
            raise ValueError(
                f"pixels must be uint8 (N, {', '.join(map(str, self.input))}), got {pixels.dtype} {tuple(pixels.shape)}"
            )
        if pixels.numel() and int(pixels.max()) > self.scale:
            raise ValueError(f"pixels must be from 0 to {self.scale}, got {int(pixels.max())}")
        return pixels.float().div_(self.scale)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"input": list(self.input), "scale": self.scale, **_FIXED}

    @classmethod
    def from_dict(cls, value: object) -> Preprocessing:
        """Read `to_dict`'s form.

        Raises:
            ValueError: a field is missing, unknown or out of range, or asks for more than a division.
        """
        given = require_fields("preprocessing", value, ("input", "scale", *_FIXED))
        for name, only in _FIXED.items():
            if given[name] != only:
                raise ValueError(f"preprocessing.{name} must be {only!r} in format {FORMAT}, got {given[name]!r}")
        return cls(given["input"], given["scale"])


@dataclass(frozen=True)
class Measurement:
    """A share of images that the network still classifies correctly under an attack.

    attack: its name; "clean" for none.
    epsilon: L_inf radius in [0, 1] image units.
    attack_source: "student", white box, or "teacher", transferred.
    split: "test" or "eval".
    images: how many, at least 1; class-balanced where that is not the whole split.
    accuracy: in [0, 1].

    Raises:
        ValueError: a field is out of range.
    """

    attack: str
    epsilon: float
    attack_source: str
    split: str
    images: int
    accuracy: float

    def __post_init__(self) -> None:
        if not isinstance(self.attack, str) or not self.attack:
            raise ValueError(f"measurement.attack must be an attack's name, got {self.attack!r}")
        require_choice("measurement.attack_source", self.attack_source, ATTACK_SOURCES)
        require_choice("measurement.split", self.split, SPLITS)
        object.__setattr__(self, "images", require_integer("measurement.images", self.images, 1))
        for name in ("epsilon", "accuracy"):
            number = require_number(f"measurement.{name}", getattr(self, name), minimum=0.0, maximum=1.0)
            object.__setattr__(self, name, number)

    @property
    def standard_error(self) -> float:
        """Of `accuracy` (`rcnas_env.binomial.standard_error`)."""
        return standard_error(self.accuracy, self.images)

    @property
    def perturbs(self) -> bool:
        """Whether images are changed at all: not under "clean"."""
        return self.attack != "clean"

    @classmethod
    def of(cls, attack: str, epsilon: float, images: int, accuracy: float) -> Measurement:
        """A white-box measurement on test images, of a registered attack.

        Raises:
            UnknownNameError: there is no such attack.
        """
        return cls(attack_entry(attack).name, epsilon, "student", "test", images, accuracy)


@dataclass(frozen=True)
class StudentCard:
    """All that is said of a delivered student.

    network: what it is.
    dataset: name of the data set that it was trained on.
    preprocessing: what comes before it.
    measurements: one or more.
    training: how it was trained: recipe, seed, epsilon, key in the store, provenance; JSON values.
    search: how it was found: task, agent, evaluations, command; JSON values, {} for a network that was not searched.
    versions: of Python and packages, where it was trained and measured.
    commit: of the code; "unknown" outside a checkout.
    files: SHA-256 of each file of weights, by its name; filled in by `write_student`.

    Raises:
        ValueError: a field is of the wrong kind, or network and preprocessing take different images.
    """

    network: Network
    dataset: str
    preprocessing: Preprocessing
    measurements: tuple[Measurement, ...]
    training: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = "unknown"
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "measurements", tuple(self.measurements))
        if not self.measurements or not all(isinstance(each, Measurement) for each in self.measurements):
            raise ValueError(f"card.measurements must be one Measurement or more, got {self.measurements!r}")
        if self.preprocessing.input != self.network.input:
            raise ValueError(
                f"card.preprocessing.input must be the network's {self.network.input}, got {self.preprocessing.input}"
            )
        for name in ("dataset", "commit"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"card.{name} must be a string, got {getattr(self, name)!r}")
        for name in ("training", "search", "versions", "files"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"card.{name} must be an object, got {getattr(self, name)!r}")
        for name, digest in self.files.items():
            if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
                raise ValueError(f"card.files[{name!r}] must be a SHA-256, 64 hexadecimal digits, got {digest!r}")

    def to_dict(self) -> dict[str, Any]:
        """The content of student.json."""
        own = cost(self.network)
        return {
            "format": FORMAT,
            "network": self.network.to_dict(),
            "params": own.params,
            "macs": own.macs,
            "dataset": self.dataset,
            "preprocessing": self.preprocessing.to_dict(),
            "measurements": [asdict(each) for each in self.measurements],
            **{name: dict(getattr(self, name)) for name in ("training", "search", "versions")},
            "commit": self.commit,
            "files": dict(self.files),
        }

    def to_json(self) -> str:
        """student.json as text.

        Raises:
            ValueError: training or search hold what JSON cannot, such as NaN.
        """
        return json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, value: object) -> StudentCard:
        """Read `to_dict`'s form; params and macs follow from the network and are not read.

        Raises:
            ValueError: another format, or a field is missing, unknown or out of range.
        """
        found = value.get("format") if isinstance(value, Mapping) else None
        if found != FORMAT:  # first: another format may well have other fields
            raise ValueError(f"format must be {FORMAT}, got {found!r}")
        names = ("network", "dataset", "training", "search", "versions", "commit", "files")
        given = require_fields("card", value, ("format", "params", "macs", "preprocessing", "measurements", *names))
        if not isinstance(given["measurements"], list):
            raise ValueError(f"card.measurements must be a list, got {given['measurements']!r}")
        fields = ("attack", "epsilon", "attack_source", "split", "images", "accuracy")
        return cls(
            preprocessing=Preprocessing.from_dict(given["preprocessing"]),
            measurements=tuple(Measurement(**require_fields("measurement", m, fields)) for m in given["measurements"]),
            **{name: given[name] for name in names} | {"network": network_from_dict(given["network"])},
        )
