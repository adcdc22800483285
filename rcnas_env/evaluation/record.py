"""What an evaluation found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


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
    diverged: the training did not stay finite; all accuracies are then 0.
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
        value = asdict(self)
        del value["from_store"]
        value["robust"] = [int(entry) for entry in self.robust]
        value["lips"] = list(self.lips)
        if self.diverged:
            value["adversarial_loss"] = None
        return value

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], from_store: bool = False) -> Evaluation:
        """Read `to_dict`'s form.

        Raises:
            ValueError: a field is missing or unknown.
        """
        names = {entry.name for entry in fields(cls)} - {"from_store"}
        if set(value) != names:
            raise ValueError(f"evaluation record must have the fields {sorted(names)}, got {sorted(value)}")
        given = dict(value)
        given["robust"] = tuple(bool(entry) for entry in given["robust"])
        given["lips"] = tuple(given["lips"])
        if given["adversarial_loss"] is None:
            given["adversarial_loss"] = float("inf")
        return cls(**given, from_store=from_store)
