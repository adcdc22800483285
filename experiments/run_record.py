"""A run's record: what was run, on what, with what result; one JSON file that every figure can be traced to."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from experiments.wandb_settings import history
from rcnas_env.environment_variables import lent_variables
from rcnas_env.whole_files import write_text

PACKAGES = (
    "torch", "torchvision", "gymnasium", "stable-baselines3", "sb3-contrib", "optuna", "torchattacks", "numpy", "scipy",
    "scikit-learn",
)  # fmt: skip


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
            "command": shlex.join(["python", "-m", f"experiments.{self.name}", *sys.argv[1:]]),
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": {**self.seconds, "all": sum(self.seconds.values())},
            "commit": commit(),
            "versions": versions(),
            "hardware": hardware(),
            "config": dict(self.config),
            "results": self.results,
        }
        path = self.folder / "record.json"
        write_text(path, json.dumps(record, indent=1, default=str) + "\n")
        return path

    def log_to_wandb(self, mode: Literal["off", "offline", "online"]) -> None:
        """Send the record's numbers to wandb: configuration, learning curves, as summary seconds, results and tables.

        "off" does nothing, whatever the environment says. Otherwise WANDB_MODE in the environment wins over `mode`, as
        do WANDB_PROJECT and WANDB_NAME over the project "rc-nas" and the folder's name. "offline" keeps all below
        the run folder and does not reach for the network; "online" uploads. All is read before wandb is started, and
        wandb's run is finished even when logging fails. Where wandb is not installed, cannot be reached, or refuses,
        a line on standard error says so: what days have computed is in record.json, and does not fail for its sake.

        Raises:
            ValueError: a file of tables/ is malformed.
            OSError: there is no room below the run folder.
        """
        if mode == "off":
            return
        from experiments.reporting.run_folder import read_tables

        tables = {
            table.name: {row.role: {key: cell.to_dict() for key, cell in row.cells.items()} for row in table.rows}
            for table in read_tables(self.folder)
        }
        numbers = json.loads(
            json.dumps({"seconds": self.seconds, "results": self.results, "tables": tables}, default=str)
        )
        config = json.loads(json.dumps(dict(self.config), default=str))
        steps = history(self.results)
        given = os.environ.get("WANDB_MODE")
        try:
            with _wandb_surroundings(self.folder, online=(given or mode) in _UPLOADING):
                import wandb

                with wandb.init(
                    project=None if os.environ.get("WANDB_PROJECT") else "rc-nas",
                    name=None if os.environ.get("WANDB_NAME") else self.folder.resolve().name,
                    dir=self.folder,
                    mode=None if given else mode,  # None: wandb reads WANDB_MODE itself
                    config=config,
                ) as run:
                    for step, values in enumerate(steps, start=1):
                        run.log(values, step=step)
                    run.summary.update(numbers)
        except Exception as error:
            if not _is_of_wandb(error):
                raise
            text = f"wandb did not take the results ({' '.join(str(error).split())}); the run's record stands"
            print(f"{self.name}: {text}: {self.folder / 'record.json'}", file=sys.stderr)


def _is_of_wandb(error: Exception) -> bool:
    """Whether wandb is missing, or the error is one of its own or of the checks of its settings (by pydantic)."""
    if isinstance(error, ModuleNotFoundError):
        return error.name == "wandb"
    return any(each.__module__.partition(".")[0] in ("wandb", "pydantic_core") for each in type(error).__mro__)


_UPLOADING = ("online", "run", "shared")
"""Values of WANDB_MODE with which wandb uploads."""


def _wandb_surroundings(folder: Path, online: bool) -> AbstractContextManager[None]:
    """Have wandb's service keep its logs in `folder` too, and report no errors over the network unless `online`.

    Both can only be told through the environment; what the user has set there stays.
    """
    wanted = {"WANDB_CACHE_DIR": str((folder / "wandb" / "cache").resolve())}
    if not online:
        wanted["WANDB_ERROR_REPORTING"] = "false"
    return lent_variables(wanted)
