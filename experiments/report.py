"""Put runs on one HTML page: tables, charts, configuration, evidence. It opens anywhere and loads nothing.

Examples:
    python -m experiments.report runs/quickstart-20260101-120000
    python -m experiments.report runs/a runs/b --out comparison.html
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments.reporting.page import page
from experiments.reporting.run_folder import read_runs


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML page about one run or several."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [...]")]
    """Run folders (each with a record.json), or the files of records alone, such as docs/evidence/quickstart.json."""

    out: Path | None = None
    """The page's file; by default report.html, in the run's folder where there is one run, else here."""

    title: str | None = None
    """The page's title; by default the runs' names."""


def report(config: Report) -> Path:
    """Write the page; returns its path.

    Raises:
        ValueError: there is no run, or one of its files is malformed.
        OSError: a file cannot be read, or the page cannot be written.
    """
    runs = read_runs(config.runs)
    alone = len(runs) == 1 and config.runs[0].is_dir()
    out = config.out or (config.runs[0] if alone else Path()) / "report.html"
    title = config.title or f"RC-NAS: {', '.join(run.name for run in runs)}"
    html = page(runs, title)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line `args` (the process's own if None); return its exit code, 2 after bad input."""
    config = tyro.cli(
        Report,
        prog="python -m experiments.report",
        description=__doc__,
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    try:
        out = report(config)
    except (ValueError, OSError) as error:
        print(f"report: error: {error}", file=sys.stderr)
        return 2
    print(f"Report: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
