"""A recorded table: really trained and attacked students of one space, and what a model predicts of all others.

A table is two files, `NAME.npz` (arrays, no pickle) and `NAME.json`, its card: where it comes from, what it is worth,
and the checksum of the arrays. `experiments.fit_table` makes them; docs/tabular.md documents the format.

| array | shape | meaning |
|---|---|---|
| params, macs | (N,) | exact cost of every network of the space |
| angle | (N, 1 + A) uint16 | expected clean and robust accuracies p, as asin √p in units of π/2 / 65,535 |
| lips_scale, loss | (N, A) float16 | natural logarithm of the mean of Eq. 1, and of the loss under attack |
| seconds | (N, 1 + A) float16 | natural logarithm of what training and each attack take, on the recording machine |
| lips_pattern | (A, n_eval) float32 | Eq. 1 of each image as a share of its network's mean |
| residuals | (R, 1 + A) float32 | measured deviations of single seeds from their networks' means, in angles |
| recorded_row, recorded_seed | (n,) | which training each record is |
| recorded_correct | (n, 1 + A) uint16 | images correct: clean, and under each attack |
| held_out | (m, 1 + A) float32 | accuracies predicted for recorded networks by models that had not seen them |

N networks, A attacks. asin √p has about the same seed noise at every accuracy p (it stabilises a binomial's variance).
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rcnas_env.architecture import NetworkSpec
from rcnas_env.registry import unknown_name
from rcnas_env.strict_json import parse_json
from rcnas_env.tabular.archive import read_arrays
from rcnas_env.tabular.space import StudentSpace
from rcnas_env.training.recipe import Recipe
from rcnas_env.validation import require_integer, require_number, shown

TABLES = Path(__file__).parent / "tables"
"""The tables that come with the package."""

FORMAT = 1
ANGLE_UNIT = np.pi / 2 / 65_535

CARD_FIELDS = (
    "format",
    "name",
    "sha256",
    "dataset",
    "attacks",
    "epsilon",
    "teacher",
    "recipe",
    "images",
    "students",
    "trainings",
)
"""What every card says; it may say more."""

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class TableError(ValueError):
    """A table's files do not fit each other, or are no table."""


class Table:
    """Evaluations of every network of a space: recorded where one was trained, predicted elsewhere.

    Attack numbers index `attacks`. Accuracies are shares in [0, 1].

    Args:
        card: the card's fields; see CARD_FIELDS.
        arrays: by name, as in the module's docstring.

    Raises:
        TableError: a field or an array is missing, or of another shape than the space.
    """

    def __init__(self, card: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        _validate_card(card)
        self.card = dict(card)
        self.name: str = card["name"]
        self.dataset: str = card["dataset"]
        self.attacks: tuple[str, ...] = tuple(card["attacks"])
        self.recipe = Recipe.from_dict(card["recipe"])
        self.images: int = card["images"]
        self.space = StudentSpace(NetworkSpec.from_dict(card["teacher"]))
        self._arrays = _validated(arrays, len(self.space), len(self.attacks), self.images)
        self.params: Rows = arrays["params"].astype(np.int64)
        self.macs: Rows = arrays["macs"].astype(np.int64)
        self._angle = arrays["angle"] * ANGLE_UNIT
        self._residuals = arrays["residuals"].astype(np.float64)
        self._record = {
            (int(row), int(seed)): index
            for index, (row, seed) in enumerate(zip(arrays["recorded_row"], arrays["recorded_seed"], strict=True))
        }

    @functools.cached_property
    def expected(self) -> Floats:
        """(N, 1 + A): accuracies, clean and under each attack, in expectation over training seeds."""
        return expected_shares(self._angle, self._residuals)

    def accuracies(self, rows: Rows, seed: int) -> Floats:
        """(B, 1 + A): accuracies, clean and under each attack, of one training of each row by `seed`.

        The record where there is one; else the expected angle plus a measured residual, which one being a
        function of (row, seed). Multiples of 1 / images, as a real evaluation's.
        """
        drawn = self._residuals[residual_index(rows, seed, len(self._residuals))]
        found = np.rint(np.sin(self._angle[rows] + drawn) ** 2 * self.images)
        found[:, 1:] = np.minimum(found[:, 1:], found[:, :1])  # robust is correct clean and under attack
        of_seed = self._records_of(seed)
        known = of_seed[rows]
        if (known >= 0).any():
            found[known >= 0] = self._arrays["recorded_correct"][known[known >= 0]]
        return found / self.images

    @functools.lru_cache(maxsize=8)  # noqa: B019 - tables live as long as the process
    def accuracies_of_all(self, seed: int) -> Floats:
        """(N, 1 + A): `accuracies` of every network; read-only, kept for the seeds asked for last."""
        found = self.accuracies(np.arange(len(self.space)), seed)
        found.flags.writeable = False
        return found

    def is_recorded(self, row: int, seed: int) -> bool:
        """Whether this very training was done."""
        return (row, seed) in self._record

    def lips(self, rows: Rows, attacks: Rows) -> NDArray[np.float32]:
        """(B, images): Eq. 1, the network's mean spread over the images as they differ on average."""
        scale = np.exp(self._arrays["lips_scale"][rows, attacks].astype(np.float32))
        return scale[:, None] * self._arrays["lips_pattern"][attacks]

    def lips_of(self, row: int, attack: int) -> NDArray[np.float32]:
        """(images,): `lips` of one network."""
        shares: NDArray[np.float32] = self._arrays["lips_pattern"][attack]
        return math.exp(self._arrays["lips_scale"][row, attack]) * shares

    def loss(self, row: int, attack: int) -> float:
        """Mean cross-entropy on the attacked images, in nats."""
        return math.exp(self._arrays["loss"][row, attack])

    def seconds(self, rows: Rows, attacks: Rows) -> tuple[Floats, Floats]:
        """(training, attack): what they take on one core of the machine that the table was recorded on."""
        log = self._arrays["seconds"]
        return np.exp(log[rows, 0].astype(np.float64)), np.exp(log[rows, 1 + attacks].astype(np.float64))

    def seconds_of(self, row: int, attack: int) -> tuple[float, float]:
        """`seconds` of one network."""
        log = self._arrays["seconds"][row]
        return math.exp(log[0]), math.exp(log[1 + attack])

    def array(self, name: str) -> NDArray[Any]:
        """One of the module docstring's arrays, read-only."""
        return self._arrays[name]

    @functools.lru_cache(maxsize=64)  # noqa: B019 - tables live as long as the process
    def _records_of(self, seed: int) -> Rows:
        """(N,): index of the record of each row by `seed`, −1 where there is none."""
        index = np.full(len(self.space), -1, np.int64)
        mine = self._arrays["recorded_seed"] == seed
        index[self._arrays["recorded_row"][mine]] = np.flatnonzero(mine)
        return index


def _validate_card(card: Mapping[str, Any]) -> None:
    """Raise a TableError for a field that is missing or of another kind."""
    for field in CARD_FIELDS:
        if field not in card:
            raise TableError(f"card must have the fields {', '.join(CARD_FIELDS)}: missing {field!r}")
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(("teacher", "recipe"), (dict,)),
        **dict.fromkeys(("name", "sha256", "dataset"), (str,)),
        "attacks": (list, tuple),
        "images": (int,),
        "epsilon": (int, float),
    }
    for field, kind in kinds.items():
        if not isinstance(card[field], kind):
            raise TableError(f"card's {field} must be of type {kind[0].__name__}, got {shown(card[field])}")
    if not all(isinstance(attack, str) for attack in card["attacks"]) or not card["attacks"]:
        raise TableError(f"card's attacks must be names, got {shown(card['attacks'])}")
    try:
        require_integer("card's images", card["images"], 1)
        require_number("card's epsilon", card["epsilon"], minimum=0.0, maximum=1.0)
    except ValueError as error:
        raise TableError(str(error)) from None


def _validated(arrays: Mapping[str, NDArray[Any]], networks: int, attacks: int, images: int) -> dict[str, NDArray[Any]]:
    """The arrays, read-only.

    Raises:
        TableError: one is missing, or of another shape than the module's docstring says.
    """
    records = len(arrays.get("recorded_row", ()))
    shapes: dict[str, tuple[int | None, ...]] = {  # None: any length
        **dict.fromkeys(("params", "macs"), (networks,)),
        **dict.fromkeys(("angle", "seconds"), (networks, 1 + attacks)),
        **dict.fromkeys(("lips_scale", "loss"), (networks, attacks)),
        "lips_pattern": (attacks, images),
        **dict.fromkeys(("residuals", "held_out"), (None, 1 + attacks)),
        **dict.fromkeys(("recorded_row", "recorded_seed"), (records,)),
        "recorded_correct": (records, 1 + attacks),
    }
    checked = {}
    for name, shape in shapes.items():
        if name not in arrays:
            raise TableError(f"table must have the arrays {', '.join(shapes)}: missing {name!r}")
        given = arrays[name].shape
        if len(given) != len(shape) or any(w not in (None, g) for w, g in zip(shape, given, strict=True)):
            raise TableError(f"table's {name} must have shape {shape}, got {given}")
        _require_values(name, arrays[name], networks, images)
        checked[name] = arrays[name].copy()
        checked[name].flags.writeable = False
    return checked


def _require_values(name: str, array: NDArray[Any], networks: int, images: int) -> None:
    """Raise a TableError for values that some question to the table would fail on."""
    counts = {"recorded_row": networks - 1, "recorded_seed": math.inf, "recorded_correct": images}
    highest = {"params": math.inf, "macs": math.inf, "angle": 65_535, **counts}.get(name)
    if array.dtype.kind not in ("f" if highest is None else "iu"):
        kind = "floats" if highest is None else "integers"
        raise TableError(f"table's {name} must be {kind}, got {array.dtype}")
    if name == "residuals" and not len(array):
        raise TableError("table's residuals must be one or more, got none")
    if not array.size:
        return
    if highest is None:
        if not np.isfinite(array).all():
            raise TableError(f"table's {name} must be finite, got values that are not")
    elif array.min() < 0 or array.max() > highest:
        raise TableError(f"table's {name} must be from 0 to {highest}, got {array.min()} to {array.max()}")


def expected_shares(angles: Floats, residuals: Floats) -> Floats:
    """E[sin²(a + e)] = ½ (1 − cos 2a · E[cos 2e] + sin 2a · E[sin 2e]), e drawn from the residuals (R, k); (…, k)."""
    cosine, sine = np.cos(2 * residuals).mean(axis=0), np.sin(2 * residuals).mean(axis=0)
    shares: Floats = 0.5 * (1 - np.cos(2 * angles) * cosine + np.sin(2 * angles) * sine)
    return shares


def residual_index(rows: Rows, seed: int, count: int) -> Rows:
    """A residual for each row, from 0 to count − 1, well mixed over rows and seeds (SplitMix64's finaliser)."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(rows, np.uint64) + np.uint64(seed % 2**32) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(count)).astype(np.int64)


def known_tables() -> tuple[str, ...]:
    """The names of the tables that come with the package."""
    return tuple(sorted(path.stem for path in TABLES.glob("*.npz")))


def load_table(name: str) -> Table:
    """The table of that name, or of that path (to either file, or without an ending); read again where it has changed.

    Raises:
        UnknownNameError: no table has the name, and nothing is at the path.
        TableError: the arrays' checksum is not the card's, or the files are no table.
    """
    base = str(TABLES / name) if name in known_tables() else re.sub(r"\.(npz|json)$", "", str(name))
    files = Path(os.path.abspath(base + ".npz")), Path(os.path.abspath(base + ".json"))
    try:
        there = all(file.is_file() for file in files)
        stamps = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files] if there else []
    except OSError:  # a name that is too long
        there = False
    if not there:
        raise unknown_name("table", name, known_tables())
    return _read_table(name, *files, tuple(stamps))


@functools.lru_cache(maxsize=8)
def _read_table(name: str, arrays_file: Path, card_file: Path, stamps: tuple[tuple[int, int], ...]) -> Table:
    """See `load_table`; `stamps` (times of change and sizes) have changed files read anew."""
    try:
        content, described = arrays_file.read_bytes(), card_file.read_bytes()
    except OSError as error:
        raise TableError(f"table {shown(name)} cannot be read: {error.strerror}") from None
    try:
        card = parse_json(described)
    except ValueError as error:
        raise TableError(f"{card_file.name} must be a table's card in JSON, got {error}") from error
    missing = [field for field in CARD_FIELDS if not isinstance(card, dict) or field not in card]
    if missing or card["format"] != FORMAT:
        raise TableError(f"{card_file.name} must be a card of format {FORMAT} with {', '.join(CARD_FIELDS)}")
    if hashlib.sha256(content).hexdigest() != card["sha256"]:
        raise TableError(f"{arrays_file.name} must have the checksum that its card names, {shown(card['sha256'])}")
    try:
        return Table(card, read_arrays(content))
    except TableError:
        raise
    except (ValueError, TypeError) as error:
        raise TableError(f"{arrays_file.name} and {card_file.name} must be a table, got {error}") from error
