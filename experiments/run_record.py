"""A run's record: what was run, on what, with what result; one JSON file that every figure can be traced to."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

PACKAGES = ("torch", "torchvision", "gymnasium", "stable-baselines3", "torchattacks", "numpy", "scikit-learn")


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, GPU."""
    import torch

    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
    }


def processor_name() -> str:
    """The processor's model as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def commit() -> str:
    """The checkout's commit, with a + where files have changed since; "unknown" outside a checkout."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@dataclass
class RunRecord:
    """The record of a run of experiment `name` in `folder`.

    Phases are timed as they go; `finish` writes record.json.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clock = time.perf_counter()

    def phase(self, name: str) -> None:
        """Note the seconds since the last phase ended (or the run began) under `name`."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._clock
        self._clock = now

    def finish(self) -> Path:
        """Write record.json; returns its path."""
        record = {
            "experiment": self.name,
            "command": " ".join(["python", "-m", f"experiments.{self.name}", *sys.argv[1:]]),
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": {**self.seconds, "all": sum(self.seconds.values())},
            "commit": commit(),
            "versions": versions(),
            "hardware": hardware(),
            "config": dict(self.config),
            "results": self.results,
        }
        path = self.folder / "record.json"
        path.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
        return path

    def log_to_wandb(self, mode: Literal["off", "offline", "online"]) -> None:
        """Send the results to wandb: "off" does nothing, "offline" keeps them in the run folder, "online" uploads."""
        if mode == "off":
            return
        import wandb

        with wandb.init(
            project="rc-nas", name=self.folder.name, dir=self.folder, mode=mode, config=dict(self.config)
        ) as run:
            run.summary.update({"seconds": self.seconds, "results": self.results})
