"""Theory check: Lemma 3.1 and Theorem 3.2 of the paper, both sides measured.

    python -m experiments.theory_check
    python -m experiments.theory_check --seeds 20 --radius 0.3 --out runs/theory-wide

1. Draws sparse-coding data (section 3.4) and trains the symmetric network of Eq. 6 on it, cleanly, then adversarially.
2. Does the same with compressed networks, on the same stream of samples: fewer neurons, or weights held at zero.
3. Measures both sides of the two inequalities in each seed, and the robust accuracy they are meant to explain.
4. Writes table.md, theory.png and record.json into the run folder.

docs/theory.md says how each symbol is measured, and what was found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from experiments.progress import progress_bar
from experiments.run_record import RunRecord
from experiments.theory.comparison import run_seed
from experiments.theory.report import Outcomes, network_rows, report, theory_figure
from experiments.theory.settings import TheorySettings
from experiments.theory.verdict import findings
from rcnas_env.validation import require_integer


@dataclass(frozen=True)
class TheoryCheck(TheorySettings):
    """Settings of the check.

    Raises:
        ValueError: a field is out of range.
    """

    seeds: int = 10
    """Seeds 0, 1, …: each draws task, start, samples and test anew; at least 2."""
    out: Path = Path("runs/theory")
    """Run folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("seeds", self.seeds, 2)


def check(config: TheoryCheck, on_seed: Callable[[int], None] | None = None) -> Path:
    """The whole check; returns the run folder. `on_seed` is called with each seed that is done."""
    record = RunRecord("theory_check", config.out, asdict(config))
    outcomes: Outcomes = []
    with progress_bar("seeds", config.seeds) as bar:
        for seed in range(config.seeds):
            outcomes = [*outcomes, run_seed(config, seed)]
            bar.advance()
            if on_seed:
                on_seed(seed)
    record.phase("training and measuring")
    found = findings(outcomes)
    (config.out / "table.md").write_text(report(config, outcomes, found), encoding="utf-8")
    theory_figure(config, outcomes, config.out / "theory.png")
    record.results = {
        "moments": config.moments(),
        "networks": network_rows(outcomes),
        "findings": [{**asdict(each), "word": each.word} for each in found],
    }
    record.phase("table and figure")
    record.finish()
    return config.out


def main() -> int:
    """Command line."""
    config = tyro.cli(TheoryCheck, description=__doc__)
    try:
        folder = check(config)
    except ValueError as error:
        print(f"theory_check: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"theory_check: error: {error}. Nothing is kept: the whole check takes minutes.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is kept: the whole check takes minutes.", file=sys.stderr)
        return 130
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"Table, figure and record: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
