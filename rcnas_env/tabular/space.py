"""All networks that a teacher's students, and their students, can be: finite, enumerated, indexed in constant time."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rcnas_env.architecture import ROBUST_MIN_PLANES, Network, NetworkSpec, StageSpec
from rcnas_env.compression import NARROW_STAGE, compress_stage, kept_depth, kept_planes, planes_multiple

PLANES_UNIT = 8
"""Every student's planes are a multiple of it (`rcnas_env.compression`)."""

MOST_NETWORKS = 1_000_000
"""Enumerating more would take gigabytes."""

MOST_OF_A_STAGE = 1_000
"""Stages that one action makes of one stage; enumerating all takes time with their square."""

Rows = NDArray[np.int64]
Stages = NDArray[np.int64]
"""(…, N_stage, 4): planes, depth, down-sample, robust, as in the environment's observation."""


def stage_students(teacher: StageSpec) -> tuple[StageSpec, ...]:
    """Every stage that any number of compressions can make of `teacher`, and the teacher itself; sorted."""
    found = {teacher}
    waiting = [teacher]
    while waiting:
        new = direct_stage_students(waiting.pop()) - found
        found |= new
        waiting.extend(new)
    return tuple(sorted(found, key=_stage_order))


def direct_stage_students(teacher: StageSpec) -> set[StageSpec]:
    """Every stage that one action can make of `teacher`."""
    multiple = planes_multiple(teacher.planes)
    # every share at which the rounded planes change, and all of them
    widths = [min(1.0, kept * multiple / teacher.planes) for kept in range(1, teacher.planes // multiple + 1)] + [1.0]
    depths = [share / teacher.depth for share in range(teacher.depth + 1)]
    switches = (False, True)
    return {compress_stage(teacher, *kept) for kept in itertools.product(widths, depths, switches, switches)}


def _stage_order(stage: StageSpec) -> tuple[int, int, bool, bool]:
    return stage.planes, stage.depth, stage.downsample, stage.robust


def _require_enumerable(teacher: NetworkSpec) -> None:
    """Raise a ValueError before an enumeration that would not end in reasonable time.

    One action makes at least widths × depths × 2 (down-sampling) basic stages of a stage.
    """
    fewest = [2 * stage.depth * (stage.planes // planes_multiple(stage.planes)) for stage in teacher.stages]
    if max(fewest) > MOST_OF_A_STAGE or math.prod(fewest) > MOST_NETWORKS:
        raise ValueError(
            f"teacher must have at most {MOST_NETWORKS:,} students of students, got {math.prod(fewest):,} or more (and "
            f"at most {MOST_OF_A_STAGE:,} of a stage, got {max(fewest):,})"
        )


class StudentSpace:
    """The closure of one teacher under compression: every combination of what each of its stages can become.

    A network is a row from 0 to len(space) − 1.

    Args:
        teacher: whose students, and their students, make up the space; it is a row itself.

    Raises:
        ValueError: there are more than MOST_NETWORKS of them, a stage has more than MOST_OF_A_STAGE, or
            the teacher's planes are no multiples of 8.
    """

    def __init__(self, teacher: NetworkSpec) -> None:
        if any(stage.planes % PLANES_UNIT for stage in teacher.stages):
            raise ValueError(f"teacher's planes must be multiples of {PLANES_UNIT}, got {teacher.to_json()}")
        _require_enumerable(teacher)
        self.teacher = teacher
        self.choices = tuple(stage_students(stage) for stage in teacher.stages)
        self._sizes = tuple(len(choices) for choices in self.choices)
        if (count := math.prod(self._sizes)) > MOST_NETWORKS:
            raise ValueError(f"teacher must have at most {MOST_NETWORKS:,} students of students, got {count:,}")
        # strides turn the choices of the stages into a row, like the digits of a number
        self._strides = np.array([int(np.prod(self._sizes[position + 1 :])) for position in range(len(self._sizes))])
        self._networks: dict[int, NetworkSpec] = {}
        self._rows: dict[NetworkSpec, int] = {}
        self._choices_of = tuple(
            {(s.planes // PLANES_UNIT, s.depth, s.downsample, s.robust): index for index, s in enumerate(choices)}
            for choices in self.choices
        )
        self._steps = tuple(int(stride) for stride in self._strides)
        self._index = tuple({stage: index for index, stage in enumerate(choices)} for choices in self.choices)
        self._lookup = tuple(_lookup_table(choices) for choices in self.choices)

    def __len__(self) -> int:
        return int(np.prod(self._sizes))

    @functools.cached_property
    def stages(self) -> Stages:
        """(len, N_stage, 4): every network, a row a stage: planes, depth, down-sample, robust."""
        columns = [
            np.array([_stage_order(stage) for stage in choices], np.int64)[self._choice_of_rows(position)]
            for position, choices in enumerate(self.choices)
        ]
        return np.stack(columns, axis=1)

    def row(self, network: Network) -> int:
        """The network's row.

        Raises:
            KeyError: it is not in the space.
        """
        if not isinstance(network, NetworkSpec):
            raise KeyError(f"network must be a student of {self.teacher.to_json()}, got one of cells")
        known = self._rows.get(network)
        if known is not None:
            return known
        ours = (self.teacher.stem, self.teacher.input, self.teacher.classes, len(self.choices))
        if (network.stem, network.input, network.classes, len(network.stages)) == ours:
            chosen = [index.get(stage) for index, stage in zip(self._index, network.stages, strict=True)]
            if None not in chosen:
                row = sum(choice * stride for choice, stride in zip(chosen, self._steps, strict=True))  # type: ignore[operator, misc]
                self._rows[network] = row
                return row
        raise KeyError(f"network must be a student of {self.teacher.to_json()}, got {network.to_json()}")

    def student(self, teacher: int, keep: NDArray[np.float64], switch: NDArray[np.bool_]) -> int:
        """The row of what a valid action (N_stage, 2), (N_stage, 2) makes of the network in row `teacher`."""
        row = 0
        shares, switches = keep.tolist(), switch.tolist()
        for position, stage in enumerate(self.network(teacher).stages):
            (width, depth), (downsample, robust) = shares[position], switches[position]
            planes = kept_planes(stage.planes, width, robust) // PLANES_UNIT
            choice = self._choices_of[position][planes, kept_depth(stage.depth, depth), downsample, robust]
            row += choice * self._steps[position]
        return row

    def network(self, row: int) -> NetworkSpec:
        """The network of a row; the same object every time."""
        found = self._networks.get(row)
        if found is None:
            found = self._networks[row] = self._make_network(row)
            self._rows[found] = row
        return found

    def _make_network(self, row: int) -> NetworkSpec:
        chosen = [
            choices[row // int(stride) % len(choices)]
            for choices, stride in zip(self.choices, self._strides, strict=True)
        ]
        return replace(self.teacher, stages=tuple(chosen))

    def compress(self, teachers: Rows, keep: NDArray[np.floating], switch: NDArray[np.integer]) -> Rows:
        """`rcnas_env.compression.compress` for a batch.

        Args:
            teachers: rows, (B,).
            keep: (B, N_stage, 2) in [0, 1].
            switch: (B, N_stage, 2), zeros and ones.

        Returns:
            The students' rows, (B,).
        """
        teacher = self.stages[teachers]
        planes, depth = teacher[:, :, 0], teacher[:, :, 1]
        keep = np.asarray(keep, np.float64)
        multiple = np.where(planes < NARROW_STAGE, PLANES_UNIT, 2 * PLANES_UNIT)
        robust = np.asarray(switch[:, :, 1], np.int64)
        new_planes = multiple * np.maximum(1, np.floor(keep[:, :, 0] * planes / multiple + 0.5).astype(np.int64))
        new_planes = np.where(robust == 1, np.maximum(new_planes, ROBUST_MIN_PLANES), new_planes)
        new_depth = np.maximum(1, np.floor(keep[:, :, 1] * depth + 0.5).astype(np.int64))
        rows = np.zeros(len(teachers), np.int64)
        for position, table in enumerate(self._lookup):
            choice = table[
                new_planes[:, position] // PLANES_UNIT,
                new_depth[:, position],
                switch[:, position, 0],
                robust[:, position],
            ]
            rows += choice * self._strides[position]
        return rows

    def _choice_of_rows(self, position: int) -> Rows:
        return np.arange(len(self)) // self._strides[position] % self._sizes[position]


def first_generation(space: StudentSpace, teacher: int) -> Rows:
    """(n,): the rows of all students that one action makes of the network in row `teacher`, sorted."""
    stages = space.network(teacher).stages
    chosen = [
        [choices.index(student) for student in direct_stage_students(stage)]
        for choices, stage in zip(space.choices, stages, strict=True)
    ]
    return np.sort(np.ravel_multi_index(np.meshgrid(*chosen, indexing="ij"), [len(c) for c in space.choices]).ravel())


def _lookup_table(choices: tuple[StageSpec, ...]) -> NDArray[np.int64]:
    """Index of a choice by (planes / 8, depth, down-sample, robust)."""
    planes = max(stage.planes for stage in choices) // PLANES_UNIT
    depth = max(stage.depth for stage in choices)
    table = np.full((planes + 1, depth + 1, 2, 2), -1, np.int64)
    for index, stage in enumerate(choices):
        table[stage.planes // PLANES_UNIT, stage.depth, int(stage.downsample), int(stage.robust)] = index
    return table
