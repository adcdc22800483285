"""Image sets attacked through a teacher (Algorithm 2): the same for all of its students, so attacked once.

Whoever measures the first student hands the set back; the engine keeps it in the store, and gives it to all others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a store is looked after without torch
    from torch import Tensor

    from rcnas_env.evaluation.job import Job

TENSOR = "images"
"""The name of the one tensor in a set's safetensors bytes."""

TOLERANCE = 1e-5
"""By which rounding may put a pixel outside the radius."""


@dataclass(frozen=True)
class AttackedSet:
    """Attacked images and where they are from.

    record: JSON values: the provenance of the attack, `seconds` that it took, `images` that there are, and
        `micro_batch` where memory ran out.
    images: float32 (N, channels, height, width) as safetensors bytes.
    """

    record: dict[str, Any]
    images: bytes

    @classmethod
    def of(cls, images: Tensor, seconds: float, origin: dict[str, Any]) -> AttackedSet:
        """The set of `images`, attacked in `seconds`; `origin` are further fields of the record."""
        from safetensors.torch import save

        record = {**origin, "seconds": seconds, "images": len(images)}
        return cls(record, save({TENSOR: images.detach().cpu().contiguous()}))

    def attacked(self, clean: Tensor, radius: float) -> Tensor | None:
        """The images on the device of the `clean` ones; None if they cannot be these, attacked within `radius`."""
        from safetensors.torch import load

        images = load(self.images).get(TENSOR)
        if images is None or images.shape != clean.shape or images.dtype != clean.dtype:
            return None
        images = images.to(clean.device)
        distance = (images - clean).abs().max().item() if images.numel() else 0.0
        return images if distance <= radius + TOLERANCE else None  # not where it is NaN


def attacked_set_key(job: Job, weights: bytes, through: tuple[dict[str, Any], bytes] | None, device: str) -> str | None:
    """Identity of the set that a job is measured by, 64 hexadecimal digits; None where no other job has the same.

    Args:
        job: what is measured.
        weights: of its network, safetensors bytes.
        through: (report, weights) of the teacher, as for `work.measure`.
        device: where the attack runs: another type of device draws other random numbers.
    """
    if job.task.attack_source != "teacher" or (through is not None and through[0]["diverged"]):
        return None
    of_the_teacher = weights if through is None else through[1]
    parts = job.teacher_job.key, hashlib.sha256(of_the_teacher).hexdigest(), device.partition(":")[0]
    return hashlib.sha256(" ".join(("attacked set", *parts)).encode()).hexdigest()
