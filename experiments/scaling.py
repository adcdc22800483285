"""Meta-training's wall time and efficiency on 1 to 256 workers, simulated with measured evaluation times.

    python -m experiments.scaling

Students are those of uniformly random actions on the digits preset's teachers. A training takes what the measured cost
model says (docs/evidence/bench-cost-model.json), divided by 1 + one of that model's measured errors on held-out
trainings, drawn anew for each student; a gradient step of an attack takes what an inner step of the same batch does.
What a task takes besides is assumed, and printed with the figures; `benchmarks.distributed` measures it.
docs/scaling.md reads them.
"""

from __future__ import annotations

import json
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from benchmarks.cost_model import FEATURES, Prices, random_students
from benchmarks.workload import workload
from experiments.run_record import commit, versions
from experiments.scaling_simulation import Cluster, Pace, Student, Training, simulate
from rcnas_env.architecture import NetworkSpec, named_network
from rcnas_env.cost import cost
from rcnas_env.data import dataset_entry, load_splits
from rcnas_env.presets import preset_entry
from rcnas_env.validation import require_integer, require_number

EVIDENCE = Path(__file__).resolve().parent.parent / "docs" / "evidence"
ATTACK_PASSES = 2
"""Pairs of passes of an attack's measurement besides its steps: verdicts, Lipschitz coefficients."""


@dataclass(frozen=True)
class Scaling:
    """Settings of the simulation."""

    workers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """Tasks at once."""
    ratios: tuple[int, ...] = (1, 2, 4, 8)
    """Episodes side by side for each worker."""
    episodes: tuple[int, ...] = (4, 64, 256, 1024)
    """Episodes side by side, whatever the number of workers; 4 is the arena's."""
    students: int = 10_240
    """Of the meta-training whose wall time is shown: two updates of 1,024 episodes of 5 steps, or 512 of 4."""
    iterations: int = 2
    """Updates that a simulation has."""
    seeds: int = 10
    """Simulations of each setting."""
    pool: int = 1_000
    """Different students drawn from."""
    task_ms: float = 10.0
    """By which a task is longer than its computation; two tasks are one evaluation."""
    driver_ms: float = 2.0
    """Of the one driver for each task: schedule, send, receive, save."""
    cost_model: Path = EVIDENCE / "bench-cost-model.json"
    """Measured prices and errors."""
    out: Path | None = None
    """JSON file for the figures."""
    figure: Path | None = None
    """PNG file."""

    def __post_init__(self) -> None:
        for name in ("workers", "ratios", "episodes"):
            for number in getattr(self, name):
                require_integer(name, number, 1)
        for name in ("students", "iterations", "seeds", "pool"):
            require_integer(name, getattr(self, name), 1)
        for name in ("task_ms", "driver_ms"):
            require_number(name, getattr(self, name), minimum=0.0)


def read_prices(path: Path) -> tuple[Prices, list[float]]:
    """(prices, relative errors of the held-out trainings) as benchmarks/cost_model.py measured them."""
    summary = json.loads(path.read_text(encoding="utf-8"))["summary"]
    units = [summary[f"milliseconds a unit of {name}"] for name in FEATURES]
    pair, rest = (np.array([unit[part] for unit in units]) / 1e3 for part in ("inner_pair", "rest"))
    errors = [figures["error"] for name, figures in summary.items() if name.startswith("held-out")]
    return Prices(pair, rest), errors


def draw_students(config: Scaling, rng: np.random.Generator) -> list[Student]:
    """`config.pool` students of the digits preset with their seconds."""
    prices, errors = read_prices(config.cost_model)
    entry = preset_entry("digits")
    recipe, buffers = entry.recipe, entry.buffers()
    data = dataset_entry("digits")
    images = len(load_splits("digits", recipe.n_eval).train)
    named = [named_network(str(teacher.network), data.input, data.classes) for teacher in buffers.teachers]
    teachers = [spec for spec in named if isinstance(spec, NetworkSpec)]
    specs = [spec for teacher in teachers for spec in random_students(teacher, -(-config.pool // len(teachers)), rng)]
    students = []
    for spec in specs[: config.pool]:
        speed = 1 + float(rng.choice(errors))
        steps = gradient_steps(str(rng.choice(buffers.attacks))) + ATTACK_PASSES
        attack = steps * float(workload(spec).features(recipe.n_eval) @ prices.pair)
        students.append(Student(cost(spec).macs, prices.training(spec, recipe, images) / speed, attack / speed))
    return students


def gradient_steps(attack: str) -> int:
    """How many forward and backward passes an attack takes: the number at its name's end, or 1."""
    number = attack.rpartition("-")[2]
    return int(number) if number.isdigit() else 1


def estimate(config: Scaling, workers: int, shape: Training, students: Sequence[Student]) -> dict[str, Any]:
    """Efficiency and seconds a student, means over the seeds, and the 95 % interval of the mean efficiency."""
    cluster = Cluster(workers, config.task_ms / 1e3, config.driver_ms / 1e3)
    outcomes = [
        simulate(cluster, shape, students, np.random.default_rng([seed, workers])) for seed in range(config.seeds)
    ]
    found = [outcome.efficiency for outcome in outcomes]
    error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0
    quantile = float(stats.t.ppf(0.975, len(found) - 1)) if len(found) > 1 else 0.0
    mean, mean_seconds = statistics.fmean(found), statistics.fmean(each.training + each.attack for each in students)
    return {
        "workers": workers,
        "episodes": shape.episodes,
        "pace": shape.pace,
        "update_share": shape.update_share,
        "efficiency": mean,
        "low": mean - quantile * error,
        "high": mean + quantile * error,
        "least": min(found),
        "hours": config.students * mean_seconds / (workers * mean) / 3600,
    }


def measure(config: Scaling) -> dict[str, Any]:
    """All settings, simulated."""
    students = draw_students(config, np.random.default_rng(0))
    seconds = [each.training + each.attack for each in students]

    def at(workers: int, episodes: int, pace: Pace = "lockstep", share: float = 1.0) -> dict[str, Any]:
        """The estimate for so many workers and episodes an iteration."""
        shape = Training(episodes, iterations=config.iterations, pace=pace, update_share=share)
        return estimate(config, workers, shape, students)

    middle = 64 if 64 in config.workers else config.workers[-1]
    return {
        "student": {
            "mean_seconds": statistics.fmean(seconds),
            "sd_seconds": statistics.stdev(seconds),
            "most_seconds": max(seconds),
            "attack_share": sum(each.attack for each in students) / sum(seconds),
        },
        "by ratio": [at(workers, ratio * workers) for ratio in config.ratios for workers in config.workers],
        "by episodes": [at(workers, episodes) for episodes in config.episodes for workers in config.workers],
        "remedies": [
            at(middle, middle),
            at(middle, middle, "own"),
            at(middle, middle, "own", 0.5),
            at(middle, 2 * middle, "own"),
            at(middle, 2 * middle, "own", 0.5),
            at(middle, 4 * middle, "own"),
            at(middle, 4 * middle, "own", 0.5),
        ],
    }


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw efficiency by episodes a worker, and wall time by episodes, both against workers."""
    figure = Figure(figsize=(8.0, 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axis, rows, key, label in (
        (left, found["by ratio"], "efficiency", lambda row: f"{row['episodes'] // row['workers']} episodes a worker"),
        (right, found["by episodes"], "hours", lambda row: f"{row['episodes']:,} episodes"),
    ):
        curves: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            curves.setdefault(label(row), []).append(row)
        for name, points in curves.items():
            axis.plot([row["workers"] for row in points], [row[key] for row in points], "o-", markersize=3, label=name)
        axis.set_xscale("log", base=2)
        axis.set(xlabel="workers")
        axis.legend(fontsize=7, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    left.axhline(0.85, color="#888888", linestyle=":")
    left.set(title="efficiency, episodes in step", ylim=(0, 1.02))
    right.set(title="hours of wall time for the same students", yscale="log")
    figure.savefig(path)


def main() -> int:
    """Command line."""
    try:
        run(tyro.cli(Scaling, description=__doc__))
    except (ValueError, LookupError, OSError) as error:
        print(f"scaling: error: {error}", file=sys.stderr)
        return 2
    return 0


def run(config: Scaling) -> None:
    """Simulate all settings, print them, and write record and figure where asked.

    Raises:
        ValueError, LookupError, OSError: a setting is out of range, or a file is not what it must be or cannot be
            written.
    """
    found = measure(config)
    for row in [*found["by ratio"], *found["remedies"]]:
        print(
            f"{row['workers']:4} workers, {row['episodes']:5} episodes, {row['pace']}, update at "
            f"{row['update_share']:.0%}: efficiency {row['efficiency']:.1%} "
            f"({row['low']:.1%} to {row['high']:.1%}), {row['hours']:.2f} h"
        )
    if config.out is not None:
        settings = {**asdict(config), "cost_model": config.cost_model.name, "out": None, "figure": None}
        record = {
            "command": shlex.join(["python", "-m", "experiments.scaling", *sys.argv[1:]]),
            "config": settings,
            "summary": found,
            "commit": commit(),
            "versions": versions(),
        }
        config.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if config.figure is not None:
        draw(found, config.figure)


if __name__ == "__main__":
    sys.exit(main())
