"""What a network is, without building it: a stem, stages of residual blocks, an input and a number of classes.

`NetworkSpec` is frozen, validated, hashable and goes to JSON and back. `rcnas_env.networks.build` makes the
module of one, `rcnas_env.cost.cost` its parameters and multiply-accumulates. So do they for the networks of cells
that it is compared with (`rcnas_env.cell_architecture`); a `Network` is either.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rcnas_env.cell_architecture import CellNetworkSpec, require_classes
from rcnas_env.cell_rivals import CELL_NETWORK_NAMES, named_cell_network
from rcnas_env.image_shape import require_input_shape as require_input_shape
from rcnas_env.registry import Registry, UnknownNameError, unknown_name
from rcnas_env.strict_json import parse_json
from rcnas_env.validation import require_boolean, require_fields, require_integer, shown

ROBUST_EXPANSION = 4
"""A robust stage puts out 4 × planes channels (Huang et al. 2022)."""

ROBUST_MIN_PLANES = 16
"""Below 16 planes a robust block's scales, floor(planes · 10 / 160) · 4 channels each, have none."""

MAX_PLANES = 16_384
MAX_DEPTH = 1_024


@dataclass(frozen=True)
class StemSpec:
    """The first convolution, 3×3: its output `channels` and its `stride` (1, or 2 for 64×64 images)."""

    channels: int = 16
    stride: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", require_integer("stem.channels", self.channels, 1, MAX_PLANES))
        object.__setattr__(self, "stride", require_integer("stem.stride", self.stride, 1, 4))


@dataclass(frozen=True)
class StageSpec:
    """One stage: `depth` residual blocks of `planes` planes.

    `downsample` gives the first block stride 2; `robust` chooses the robust block (its output has
    4 × planes channels) over the basic one (its output has planes channels).

    Raises:
        ValueError: depth < 1, planes < 1, or planes < 16 in a robust stage.
    """

    depth: int
    planes: int
    downsample: bool = False
    robust: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", require_integer("stage.depth", self.depth, 1, MAX_DEPTH))
        object.__setattr__(self, "downsample", require_boolean("stage.downsample", self.downsample))
        object.__setattr__(self, "robust", require_boolean("stage.robust", self.robust))
        low = ROBUST_MIN_PLANES if self.robust else 1
        field = "stage.planes (of a robust stage)" if self.robust else "stage.planes"
        object.__setattr__(self, "planes", require_integer(field, self.planes, low, MAX_PLANES))

    @property
    def out_channels(self) -> int:
        """Channels that the stage puts out."""
        return self.planes * (ROBUST_EXPANSION if self.robust else 1)


@dataclass(frozen=True)
class NetworkSpec:
    """A whole network: stem, stages, the shape of one input image (channels, height, width), classes."""

    stages: tuple[StageSpec, ...]
    stem: StemSpec = StemSpec()
    input: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10

    def __post_init__(self) -> None:
        stages = tuple(self.stages) if isinstance(self.stages, list | tuple) else ()
        if not stages or not all(isinstance(stage, StageSpec) for stage in stages):
            raise ValueError(f"stages must be one StageSpec or more, got {shown(self.stages)}")
        if not isinstance(self.stem, StemSpec):
            raise ValueError(f"stem must be a StemSpec, got {shown(self.stem)}")
        object.__setattr__(self, "stages", stages)
        object.__setattr__(self, "input", require_input_shape("input", self.input))
        object.__setattr__(self, "classes", require_classes(self.classes))

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.stages, self.stem, self.input, self.classes))

    def __hash__(self) -> int:  # kept: specs are looked up far more often than made
        return self._hash

    def with_data(self, input: tuple[int, int, int], classes: int) -> NetworkSpec:
        """The same network for images of another shape and another number of classes."""
        return replace(self, input=input, classes=classes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, see `from_dict`."""
        return {
            "stem": {"channels": self.stem.channels, "stride": self.stem.stride},
            "stages": [
                {"depth": s.depth, "planes": s.planes, "downsample": s.downsample, "robust": s.robust}
                for s in self.stages
            ],
            "input": list(self.input),
            "classes": self.classes,
        }

    @classmethod
    def from_dict(cls, value: object) -> NetworkSpec:
        """Read the JSON form: `{"stem": {"channels", "stride"}, "stages": [{"depth", "planes", "downsample",
        "robust"}, …], "input": [channels, height, width], "classes"}`. All fields are required.

        Raises:
            ValueError: a field is missing, unknown or out of range; the message names it.
        """
        fields = require_fields("network", value, ("stem", "stages", "input", "classes"))
        stem = require_fields("stem", fields["stem"], ("channels", "stride"))
        if not isinstance(fields["stages"], list | tuple):
            raise ValueError(f"stages must be a list of one stage or more, got {shown(fields['stages'])}")
        names = ("depth", "planes", "downsample", "robust")
        stages = []
        for position, entry in enumerate(fields["stages"]):
            stage: Mapping[str, Any] = require_fields(f"stages[{position}]", entry, names)
            try:
                stages.append(StageSpec(**stage))
            except ValueError as error:
                raise ValueError(str(error).replace("stage.", f"stages[{position}].", 1)) from None
        return cls(stages=tuple(stages), stem=StemSpec(**stem), input=fields["input"], classes=fields["classes"])

    def to_json(self) -> str:
        """The JSON form as one line."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> NetworkSpec:
        """Read `to_json`'s text.

        Raises:
            ValueError: the text is no JSON, or no network.
        """
        return cls.from_dict(_parse_json(text))


Network = NetworkSpec | CellNetworkSpec
"""What can be built, costed, trained and measured. Only a NetworkSpec can be a teacher or a student."""


def network_from_dict(value: object) -> Network:
    """Read the JSON form of a network of stages, or of cells, which alone has a field "kind".

    Raises:
        ValueError: a field is missing, unknown or out of range; the message names it.
    """
    if isinstance(value, Mapping) and "kind" in value:
        return CellNetworkSpec.from_dict(value)
    return NetworkSpec.from_dict(value)


def network_from_json(text: str) -> Network:
    """Read the text that a spec's `to_json` gives.

    Raises:
        ValueError: the text is no JSON, or no network.
    """
    return network_from_dict(_parse_json(text))


def _parse_json(text: str | bytes) -> object:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"network must be JSON, got text that is not: {error}") from None


_ROBUST_RESNETS = {
    "RobustResNet-A1": ((14, 14, 7), (5, 7, 3)),
    "RobustResNet-A2": ((17, 17, 8), (7, 9, 4)),
    "RobustResNet-A3": ((22, 22, 11), (8, 11, 5)),
    "RobustResNet-A4": ((27, 28, 13), (10, 14, 6)),
}
_WIDE_RESNET = re.compile(r"WRN-(\d{1,4})-(\d{1,4})")
NETWORK_NAMES = ("WRN-d-w", *_ROBUST_RESNETS, "WRN-34-R", *CELL_NETWORK_NAMES)
"""Names that `named_network` knows without any being registered. In WRN-d-w, d is the depth (6n + 4) and w the
widening factor; N@C stands for 3N + 2 cells and C channels."""
_EXAMPLES = ("WRN-28-10", "WRN-34-12", "WRN-46-14", "WRN-70-16", "AdvRush-7@96", "RACL-7@104")

NetworkFactory = Callable[[tuple[int, int, int], int], Network]
"""(input, classes) → a network for images of that shape (channels, height, width) and that many classes."""

_REGISTERED: Registry[NetworkFactory] = Registry("network")


def _three_stages(depths: tuple[int, ...], planes: tuple[int, ...], robust: bool) -> tuple[StageSpec, ...]:
    """Three stages of which the second and the third down-sample, as in every wide residual network."""
    strided = (False, True, True)
    return tuple(
        StageSpec(depth=d, planes=p, downsample=s, robust=robust)
        for d, p, s in zip(depths, planes, strided, strict=True)
    )


def _named_stages(name: str) -> tuple[StageSpec, ...]:
    if name in _ROBUST_RESNETS:
        depths, widths = _ROBUST_RESNETS[name]
        return _three_stages(depths, tuple(16 * 2**i * w for i, w in enumerate(widths)), robust=True)
    if name == "WRN-34-R":  # Huang et al. 2021: widening factors 20, 20, 8
        return _three_stages((5, 5, 5), (320, 640, 512), robust=False)
    match = _WIDE_RESNET.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise unknown_name("network", name, (*known_networks(), *_EXAMPLES))
    depth, width = int(match[1]), int(match[2])
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"network {name!r}: the depth d of WRN-d-w must be 6n + 4 with n ≥ 1 (10, 16, 22, 28, …)")
    blocks = (depth - 4) // 6
    return _three_stages((blocks,) * 3, tuple(16 * 2**i * width for i in range(3)), robust=False)


def register_network(name: str, factory: NetworkFactory) -> None:
    """Make a network known by its name: a teacher, or a rival made of cells.

    >>> def one_stage(input, classes):
    ...     return NetworkSpec((StageSpec(depth=1, planes=8),), input=input, classes=classes)
    >>> register_network("one-stage", one_stage)
    >>> named_network("one-stage", (1, 8, 8)).classes
    10

    Raises:
        ValueError: the name is empty, ends in ".json" (which `read_network` takes for a file), is taken, or has the
            form of one of the families (WRN-d-w, N@C).
    """
    if not isinstance(name, str) or not name or name.endswith(".json"):
        raise ValueError(f"network name must be a string that is not empty and no .json file, got {name!r}")
    if _is_built_in(name):
        raise ValueError(f"network {name!r} is registered already")
    _REGISTERED.register(name, factory)


def known_networks() -> tuple[str, ...]:
    """`NETWORK_NAMES`, then the registered networks in the order of their registration."""
    return (*NETWORK_NAMES, *_REGISTERED)


def _is_built_in(name: str) -> bool:
    if name in NETWORK_NAMES:
        return True
    try:
        return named_cell_network(name, (3, 32, 32), 10) is not None or bool(_named_stages(name))
    except UnknownNameError:
        return False
    except ValueError:  # a family's name with numbers that it does not take
        return True


def _registered_network(name: str, input: tuple[int, int, int], classes: int) -> Network:
    network = _REGISTERED[name](input, classes)
    if not isinstance(network, NetworkSpec | CellNetworkSpec):
        raise ValueError(f"network {name!r} must be made a NetworkSpec or a CellNetworkSpec, got {network!r}")
    if (network.input, network.classes) != (input, classes):
        raise ValueError(
            f"network {name!r} must be made for input {input} and {classes} classes, got {network.input} and "
            f"{network.classes}"
        )
    return network


def named_network(name: str, input: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> Network:
    """The network called `name`: any WRN-d-w, RobustResNet-A1 … A4, WRN-34-R, and, as a `CellNetworkSpec`,
    RobNet-large-v2, any AdvRush-N@C, any RACL-N@C; or a registered one.

    From 64×64 images on the stem has stride 2 (paper, Tiny-ImageNet); that of a registered one is its factory's.

    Raises:
        UnknownNameError: no such name; the message lists the known ones and the nearest.
        ValueError: WRN-d-w with a depth that is not 6n + 4, N@C out of range, or a registered network that does not
            fit `input` and `classes`.
    """
    shape = require_input_shape("input", input)
    if isinstance(name, str) and name in _REGISTERED:
        return _registered_network(name, shape, classes)
    cells = named_cell_network(name, shape, classes)
    if cells is not None:
        return cells
    stem = StemSpec(channels=16, stride=2 if min(shape[1:]) >= 64 else 1)
    return NetworkSpec(stages=_named_stages(name), stem=stem, input=shape, classes=classes)


def read_network(name_or_file: str, input: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> Network:
    """A network by its name, or from the JSON file of its spec (whose own input and classes then hold).

    Raises:
        ValueError: the name is unknown, or the file holds no valid spec; the message names file and field.
    """
    path = Path(name_or_file)
    try:
        if path.suffix == ".json" or path.is_file():
            return network_from_dict(_parse_json(path.read_bytes()))
    except OSError as error:
        raise ValueError(f"network file {shown(name_or_file)} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"network file {shown(name_or_file)}: {error}") from None
    return named_network(name_or_file, input=input, classes=classes)
