"""How a command line chooses what trains for it: processes of its own, or the workers of a Ray cluster."""

from __future__ import annotations

from typing import Any, Literal

TrainingEngine = Literal["trained", "ray"]
"""The engines that really train."""


def training_options(
    engine: TrainingEngine, workers: int, device: str, ray_address: str | None = None, time_limit: float | None = None
) -> dict[str, Any]:
    """The engine's options (`make_engine`).

    Args:
        engine: of processes of one's own, or of a cluster (docs/scaling.md).
        workers: processes, or tasks given out at once; 0 for this process, on a cluster for one.
        device: "cpu" asks a cluster for no GPU, "auto" for a whole one a task where it has any.
        ray_address: of the cluster; None for $RAY_ADDRESS, else one is started in this process.
        time_limit: seconds of one training or attack, which then counts as diverged; None for no limit.

    Raises:
        ValueError: a cluster's address without a cluster, or a certain GPU of one.
    """
    if engine == "trained":
        if ray_address is not None:
            raise ValueError(f"ray_address must be given with the engine 'ray', got {ray_address!r} with {engine!r}")
        return {"workers": workers, "device": device, "time_limit": time_limit}
    if device not in ("auto", "cpu"):
        raise ValueError(f"device must be 'auto' or 'cpu' with the engine 'ray', which lends GPUs, got {device!r}")
    return {
        "workers": max(1, workers),
        "num_gpus": 0 if device == "cpu" else None,
        "address": ray_address,
        "time_limit": time_limit,
    }
