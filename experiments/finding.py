"""A network that a run found, as the run's files have it: what is delivered, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rcnas_env.delivery import Measurement
from rcnas_env.evaluation.job import Job


@dataclass(frozen=True)
class Finding:
    """A network of a run, as its record has it.

    name: in the run's table.
    job: whose training made the weights.
    measurements: on the test set, white box.
    search: how it was found, as JSON values.
    versions, commit: of the run.
    store: the run's store, as `open_store` takes it.
    """

    name: str
    job: Job
    measurements: tuple[Measurement, ...]
    search: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = "unknown"
    store: str = "default"
