"""How a benchmark shows what it found."""

from __future__ import annotations

import json
from collections.abc import Mapping

from experiments.run_record import commit, hardware, versions


def print_summary(summary: Mapping[str, Mapping[str, float]], as_json: bool) -> None:
    """Print the figures of each thing measured: a line each, or JSON with commit, versions and hardware."""
    if as_json:
        evidence = {"summary": summary, "commit": commit(), "versions": versions(), "hardware": hardware()}
        print(json.dumps(evidence, indent=1))
        return
    for name, figures in summary.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()))
