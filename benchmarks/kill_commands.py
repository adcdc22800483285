"""The commands that `benchmarks.kills` kills: each of the long ones, so small that it takes seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.killed_run import TINY_PRESET, Command


def quickstart(*options: str) -> Command:
    """Pre-training, meta-training with a checkpoint after each of four iterations, fine-tuning, final comparison."""

    def arguments(folder: Path) -> list[str]:
        """The command line that writes to `folder`."""
        return [
            "--out", str(folder), "--fresh", "--meta-iterations", "4", "--meta-envs", "1", "--evaluations", "4",
            "--pretrain-steps", "20", "--recipe.n-eval", "20", "--final-recipe.n-eval", "20",
            "--final-recipe.n-test", "20", "--autoattack-images", "1", "--device", "cpu", *options,
        ]  # fmt: skip

    return Command("quickstart", arguments)


def arena(*options: str) -> Command:
    """Encoders, meta-trainings, and the runs of a few agents by two seeds."""

    def arguments(folder: Path) -> list[str]:
        """The command line that writes to `folder`."""
        return [
            "--out", str(folder), "--tasks", "half", "--seeds", "2", "--evaluations", "4", "--meta-iterations", "2",
            "--meta-envs", "1", "--meta-seeds", "2", "--pretrain-steps", "5", *options,
        ]  # fmt: skip

    return Command("compare_agents", arguments)


def recording(students: int, *options: str) -> Command:
    """Real trainings and attacks of so many students, each anchor by two seeds; no table."""

    def arguments(folder: Path) -> list[str]:
        """The command line that records into a store in `folder`."""
        return [
            "--preset", TINY_PRESET, "--teacher", "WRN-10-1", "--students", str(students), "--seeds", "2",
            "--store", str(folder / "store"), *options,
        ]  # fmt: skip

    return Command("record_table", arguments)


def table(students: int, *options: str) -> Command:
    """A recording, and the table of it."""
    recorded = recording(students, *options)

    def arguments(folder: Path) -> list[str]:
        """The command line that fits a table in `folder` to the recording in its store."""
        same = [each.replace("--", "--recording.") for each in recording(students).arguments(folder)]
        return [*same, "--out", str(folder / "table" / "tiny")]

    return Command(recorded.experiment, recorded.arguments, then=Command("fit_table", arguments))


ANALYTIC = ("--engine", "analytic", "--recipe.n-eval", "10")
TINY_TRAINING = (
    "--recipe.epochs", "1", "--recipe.batch-size", "100", "--recipe.inner-steps", "1", "--recipe.n-train", "200",
    "--final-recipe.epochs", "1", "--final-recipe.inner-steps", "1", "--final-recipe.n-train", "200",
)  # fmt: skip

COMMANDS: Mapping[str, Command] = {
    "quickstart, analytic": quickstart("--engine", "analytic"),
    "quickstart, trained, 2 workers": quickstart(*TINY_TRAINING, "--meta-iterations", "2", "--workers", "2"),
    "arena, analytic": arena(*ANALYTIC, "--agents", "rc-nas+", "rc-nas", "evolution"),
    "arena, tabular, 2 workers": arena("--agents", "rc-nas", "tpe", "--workers", "2"),
    "table, trained, 2 workers": table(14, "--workers", "2"),
}
"""By the names under which results are told."""
