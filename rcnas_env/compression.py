"""From a teacher and a hybrid action to a student (paper section 3.2; Eq. 3's a_t)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rcnas_env.architecture import ROBUST_MIN_PLANES, NetworkSpec, StageSpec
from rcnas_env.validation import shown

Action = Mapping[str, NDArray[Any]]
"""{"keep": float (N_stage, 2), "switch": 0/1 (N_stage, 2)}."""

WIDTH, DEPTH = 0, 1
"""Columns of `keep`: the share of the teacher's planes and of its blocks that remains, each in [0, 1]."""

DOWNSAMPLE, ROBUST = 0, 1
"""Columns of `switch`: stride 2 at the stage's first block; robust blocks."""

NARROW_STAGE = 64
"""Teachers' stages with fewer planes than this round to multiples of 8, all others to multiples of 16."""


def action_space(stages: int = 3) -> spaces.Dict:
    """`Dict(keep=Box(0, 1, (stages, 2)), switch=MultiBinary((stages, 2)))`."""
    return spaces.Dict(
        {
            "keep": spaces.Box(0.0, 1.0, (stages, 2), np.float32),
            "switch": spaces.MultiBinary((stages, 2)),
        }
    )


def validate_action(action: object, stages: int = 3) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return (keep, switch) of an action inside the space.

    Raises:
        ValueError: a part is missing, of another shape, not a number, or outside its range.
    """
    if not isinstance(action, Mapping) or set(action) != {"keep", "switch"}:
        given = sorted(map(str, action)) if isinstance(action, Mapping) else shown(action)
        raise ValueError(f'action must be {{"keep": …, "switch": …}}, got {given}')
    keep = _numbers("keep", action["keep"], stages, "numbers in [0, 1]")
    switch = _numbers("switch", action["switch"], stages, "zeros and ones")
    if not ((keep >= 0) & (keep <= 1)).all():  # NaN fails too
        raise ValueError(f"action['keep'] must be numbers in [0, 1], got {keep.tolist()}")
    if not ((switch == 0) | (switch == 1)).all():
        raise ValueError(f"action['switch'] must be zeros and ones, got {switch.tolist()}")
    return keep, switch.astype(bool)


def _numbers(part: str, value: object, stages: int, allowed: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # rows of unequal length, a tensor that needs a gradient
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"action[{part!r}] must be {allowed}, got {shown(value)}")
    if array.shape != (stages, 2):
        raise ValueError(f"action[{part!r}] must have shape ({stages}, 2), got {array.shape}")
    return array.astype(np.float64)


def round_half_up(value: float) -> int:
    """The nearest integer, halves upwards (Python's `round` would send them to the even one)."""
    return math.floor(value + 0.5)


def planes_multiple(teacher_planes: int) -> int:
    """What a student's planes are a multiple of: 8 for a stage of fewer than 64 planes, else 16."""
    return 8 if teacher_planes < NARROW_STAGE else 16


def compress_stage(
    teacher: StageSpec, keep_width: float, keep_depth: float, downsample: bool, robust: bool
) -> StageSpec:
    """One stage of the student: shares of the teacher's planes and blocks, rounded to what can be built."""
    planes = kept_planes(teacher.planes, keep_width, robust)
    return StageSpec(kept_depth(teacher.depth, keep_depth), planes, downsample, robust)


def kept_planes(planes: int, share: float, robust: bool) -> int:
    """What remains of a teacher's stage of so many planes: a multiple of 8 or 16, at least 16 in a robust stage."""
    multiple = planes_multiple(planes)
    kept = multiple * max(1, round_half_up(share * planes / multiple))
    return max(kept, ROBUST_MIN_PLANES) if robust else kept


def kept_depth(depth: int, share: float) -> int:
    """What remains of a teacher's stage of so many blocks: at least one."""
    return max(1, round_half_up(share * depth))


def compress(teacher: NetworkSpec, action: object) -> NetworkSpec:
    """The student that `action` makes of `teacher`; always a valid network.

    Raises:
        ValueError: the action is outside the space.
    """
    keep, switch = validate_action(action, len(teacher.stages))
    stages = tuple(
        compress_stage(stage, float(k[WIDTH]), float(k[DEPTH]), downsample=bool(s[DOWNSAMPLE]), robust=bool(s[ROBUST]))
        for stage, k, s in zip(teacher.stages, keep, switch, strict=True)
    )
    return replace(teacher, stages=stages)
