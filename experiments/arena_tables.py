"""The arena's figures as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.arena_settings import ArenaSettings
from experiments.arena_summary import CONFIDENCE, REPETITIONS, Estimate

NOTES = f"""
Regret: the best expected reward of a student within the budget, minus that of the incumbent, the student that the agent
would deliver (of the best reward so far; vpg+ asks its critic); interquartile mean over runs and tasks. Improvement:
probability that a run's incumbent is better than one of random search after as many evaluations, ties as halves. In
brackets, {CONFIDENCE:.0%} intervals of a stratified bootstrap ({REPETITIONS:,} repetitions); of agents whose runs
share a state encoder and a meta-training, these are drawn first, then runs within them. Charged: distinct evaluations,
of students and teachers, that pre-training and meta-training took before the search, and their hours; search hours
come on top.
"""

LIVE_NOTE = """
Real training: expected rewards are means over trainings that no search has seen, on the eval images that all searches
saw, and the best expected reward is that of the best student that any run of this comparison found: the highest of many
noisy ones, so that all regrets are rather too large.
"""


def agents_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row an agent: regret and improvement after some evaluations, charge, hours."""
    points = list(rows[0]["regret"])
    heads = [
        "agent",
        *(f"regret after {point}" for point in points),
        *(f"improvement after {point}" for point in points),
        "charged evaluations",
        "charged hours",
        "search hours",
    ]
    lines = []
    for row in rows:
        lines.append(
            [
                row["agent"],
                *(_text(row["regret"][point], 3) for point in points),
                *(_text(row["improvement"].get(point), 2) for point in points),
                f"{row['charged_evaluations']:,.0f}",
                f"{row['charged_hours']:.2f}",
                f"{row['hours']:.2f}",
            ]
        )
    return _markdown(heads, lines)


def bars_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row for each bar that a meta-trained agent is to clear."""
    heads = ["agent", "after", "regret", "against", "after", "its regret", "improvement"]
    lines = [
        [
            row["agent"],
            str(row["after"]),
            _text(row["regret"], 3),
            row["rival"],
            str(row["rival_after"]),
            _text(row["rival_regret"], 3),
            _text(row["improvement"], 2),
        ]
        for row in rows
    ]
    return _markdown(heads, lines)


def report(
    settings: ArenaSettings, seeds: int, rows: Sequence[Mapping[str, Any]], bars: Sequence[Mapping[str, Any]]
) -> str:
    """The whole of table.md."""
    title = f"{settings.engine} engine, tasks {', '.join(settings.tasks)}, {seeds} seeds an agent and task"
    parts = [f"# {title}\n", agents_table(rows), NOTES]
    if settings.engine == "trained":
        parts.append(LIVE_NOTE)
    if bars:
        parts += ["\n## Fine-tuned after meta-training, against search from nothing\n", bars_table(bars)]
    return "\n".join(parts)


def _text(figure: Mapping[str, float] | None, digits: int) -> str:
    return "–" if figure is None else Estimate(**figure).text(digits)


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rules = ["---", *["--:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rules, *lines))
