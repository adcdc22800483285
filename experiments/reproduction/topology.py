"""What remains of a teacher in a student: shares of blocks and planes, by stage and in all (Figures 1, 4 and 6)."""

from __future__ import annotations

from rcnas_env.architecture import NetworkSpec


def depths(network: NetworkSpec) -> list[int]:
    """Blocks of each stage."""
    return [stage.depth for stage in network.stages]


def widths(network: NetworkSpec) -> list[int]:
    """Planes of each stage."""
    return [stage.planes for stage in network.stages]


def stage_shares(teacher: NetworkSpec, student: NetworkSpec) -> list[float]:
    """Blocks × planes of each stage, as a share of the teacher's."""
    return [kept / whole for kept, whole in zip(_capacities(student), _capacities(teacher), strict=True)]


def whole_share(teacher: NetworkSpec, student: NetworkSpec) -> float:
    """Blocks × planes of all stages together, as a share of the teacher's."""
    return sum(_capacities(student)) / sum(_capacities(teacher))


def keep_ratios(teacher: NetworkSpec, student: NetworkSpec) -> dict[str, float]:
    """Depth and width kept in each of the three stages, and the share of all width kept to that of all depth."""
    depth = [kept / whole for kept, whole in zip(depths(student), depths(teacher), strict=True)]
    wide = [kept / whole for kept, whole in zip(widths(student), widths(teacher), strict=True)]
    total = (sum(widths(student)) / sum(widths(teacher))) / (sum(depths(student)) / sum(depths(teacher)))
    named = {f"depth {stage + 1}": value for stage, value in enumerate(depth)}
    return {**named, **{f"width {stage + 1}": value for stage, value in enumerate(wide)}, "width : depth": total}


def _capacities(network: NetworkSpec) -> list[int]:
    return [depth * width for depth, width in zip(depths(network), widths(network), strict=True)]
