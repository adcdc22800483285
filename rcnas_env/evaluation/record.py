"""What an evaluation found."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rcnas_env.validation import require_boolean, require_fields, require_integer, require_number, shown


@dataclass(frozen=True)
class Evaluation:
    """The result of one job; JSON both ways.

    key: of the job.
    params, macs: cost of the network.
    images: how many were attacked.
    clean_accuracy, robust_accuracy: shares in [0, 1]; robust is correct clean and under attack.
    adversarial_loss: mean cross-entropy on the attacked images, a smoother signal than accuracy;
        infinite for a diverged training.
    robust: per image, in the split's order: still correct under attack.
    lips: Eq. 1 per image; empty where the attack went through another network.
    zero_perturbations: share of images that the attack left as they were.
    diverged: the training did not stay finite, or failed (provenance "failed" says why: docs/faults.md); all accuracies
        are then 0.
    training_seconds, attack_seconds: wall time when it was computed; 0 for an engine that trains nothing.
    provenance: engine, versions, device, threads.
    from_store: whether this record was looked up rather than computed; not stored.
    """

    key: str
    params: int
    macs: int
    images: int
    clean_accuracy: float
    robust_accuracy: float
    adversarial_loss: float
    robust: tuple[bool, ...]
    lips: tuple[float, ...]
    zero_perturbations: float
    diverged: bool
    training_seconds: float
    attack_seconds: float
    provenance: dict[str, Any] = field(default_factory=dict, hash=False)
    from_store: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, without `from_store`; an infinite loss is null."""
        # not dataclasses.asdict, which copies every image's entry deeply: stored steps are thousands a second
        value = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "from_store"}
        value["provenance"] = copy.deepcopy(self.provenance)
        value["robust"] = [int(entry) for entry in self.robust]
        value["lips"] = list(self.lips)
        if math.isinf(self.adversarial_loss):
            value["adversarial_loss"] = None
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], from_store: bool = False) -> Evaluation:
        """Read `to_dict`'s form.

        Raises:
            ValueError: a field is missing, unknown, or not what the class documents.
        """
        names = [entry.name for entry in fields(cls) if entry.name != "from_store"]
        given = dict(require_fields("evaluation record", value, names))
        for name in ("params", "macs", "images"):
            given[name] = require_integer(f"evaluation.{name}", given[name], 0)
        for name in ("clean_accuracy", "robust_accuracy", "zero_perturbations"):
            given[name] = require_number(f"evaluation.{name}", given[name], minimum=0.0, maximum=1.0)
        for name in ("training_seconds", "attack_seconds"):
            given[name] = require_number(f"evaluation.{name}", given[name], minimum=0.0)
        loss = given["adversarial_loss"]
        given["adversarial_loss"] = math.inf if loss is None else require_number("evaluation.adversarial_loss", loss)
        require_boolean("evaluation.diverged", given["diverged"])
        if not isinstance(given["key"], str) or not isinstance(given["provenance"], Mapping):
            raise ValueError(f"evaluation must have a string as key and an object as provenance, got {shown(value)}")
        given["robust"] = tuple(bool(entry) for entry in _per_image(given, "robust", maximum=1, may_be_empty=False))
        given["lips"] = tuple(_per_image(given, "lips", maximum=math.inf, may_be_empty=True))
        return cls(**given, from_store=from_store)


def _per_image(given: Mapping[str, Any], name: str, maximum: float, may_be_empty: bool) -> list[float]:
    """The list `name` of a record: a number from 0 to `maximum` for each of its images."""
    values, images = given[name], given["images"]
    fits = isinstance(values, list | tuple) and (len(values) == images or (may_be_empty and not values))
    numbers = fits and {type(entry) for entry in values} <= {int, float, bool}
    try:  # a NaN fails the sum where it slips through the extremes
        numbers = numbers and (not values or (min(values) >= 0 and max(values) <= maximum and sum(values) >= 0))
    except OverflowError:  # of an integer beyond a float's range, in the sum
        numbers = False
    if not numbers:
        raise ValueError(f"evaluation.{name} must be {images} numbers from 0 to {maximum}, got {shown(values)}")
    return list(values)
