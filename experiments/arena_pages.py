"""A results page of each agent in an arena: what it is, its settings, its command, its figures with intervals."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from agents.registry import agent_settings
from experiments.arena_roster import RANDOM_SEARCH, entry
from experiments.arena_settings import ArenaSettings
from experiments.arena_summary import CONFIDENCE, REPETITIONS, Estimate

METRICS = f"""
| metric | meaning |
|---|---|
| regret | the best expected reward of a student within the budget minus that of the incumbent, the student that the \
agent would deliver by then; 0 is best; interquartile mean over runs and tasks |
| regret on one task | the same over the runs on that task |
| improvement | probability that a run's incumbent is better than that of a run of random search after as many \
evaluations, ties as halves; 0.5 is no difference |
| mean regret | over runs, tasks and evaluations 1 to the last: the area under the curve; no interval |
| charged | distinct evaluations, of students and teachers, before the search: pre-training and meta-training |
| hours | simulated hours of training and attack: before the search, and in it (students met again cost nothing) |

In brackets, {CONFIDENCE:.0%} intervals of a stratified bootstrap ({REPETITIONS:,} repetitions); of agents whose runs
share a state encoder and a meta-training, these are drawn first, then runs within them. The incumbent is the student of
the best reward so far; `vpg+` asks its critic (`own_choice`). Settings not listed are the library's defaults.
"""


def agent_pages(settings: ArenaSettings, seeds: int, rows: Sequence[Mapping[str, Any]]) -> str:
    """The whole of agents.md, as Markdown.

    Args:
        settings: of the comparison.
        seeds: runs of each agent on each task.
        rows: `arena_summary.agent_rows`.
    """
    title = f"{settings.engine} engine, tasks {', '.join(settings.tasks)}, {seeds} seeds an agent and task"
    rival = any(row["agent"] == RANDOM_SEARCH for row in rows)
    pages = [agent_page(settings, seeds, row, rival) for row in rows]
    return "\n".join([f"# Agents one by one: {title}", METRICS, *pages])


def agent_page(settings: ArenaSettings, seeds: int, row: Mapping[str, Any], rival: bool) -> str:
    """One agent's page, as Markdown.

    Args:
        settings: of the comparison.
        seeds: runs of each agent on each task.
        row: the agent's of `arena_summary.agent_rows`.
        rival: whether random search was there, to hold it against.
    """
    agent = entry(row["agent"])
    lines = [f"## {agent.label}", agent.about, "", f"    {_command(agent.label, settings, seeds, rival)}", ""]
    known = {**agent_settings(agent.agent), **agent.settings}
    lines += [f"Settings: {_listed(known)}.", "", _figures(row), ""]
    mean = sum(row["mean_regret"]) / len(row["mean_regret"])
    before = f"{row['charged_evaluations']:,.0f} evaluations, {row['charged_hours']:.2f} hours"
    lines.append(f"Mean regret {mean:.3f}. Charged {before}; {row['hours']:.2f} hours of search.\n")
    return "\n".join(lines)


def _command(label: str, settings: ArenaSettings, seeds: int, rival: bool) -> str:
    defaults = ArenaSettings(engine=settings.engine)
    changed = _flags("", settings.deciding(), defaults.deciding())
    labels = [label, RANDOM_SEARCH] if rival and label != RANDOM_SEARCH else [label]
    parts = [f"--engine {settings.engine} --seeds {seeds}", *changed, f"--agents {' '.join(labels)}"]
    return f"python -m experiments.compare_agents {' '.join(parts)}"


def _flags(prefix: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Command-line options of the settings that are not at their defaults; names of their own have the prefix."""
    flags = []
    for name, value in given.items():
        if value == defaults.get(name) or name in ("engine", "table_sha256"):
            continue
        if isinstance(value, Mapping):
            flags += _flags(f"{prefix}{name}.", value, defaults[name])
        elif isinstance(value, bool):
            flags.append(f"--{prefix}{'' if value else 'no-'}{name.replace('_', '-')}")
        else:
            words = [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
            flags.append(f"--{prefix}{name.replace('_', '-')} {shlex.join(words)}")
    return flags


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "none"


def _figures(row: Mapping[str, Any]) -> str:
    points = list(row["regret"])
    tasks = row["task_regret"]
    lines = [("after", *points), ("---", *["--:"] * len(points)), ("regret", *_texts(row["regret"], points, 3))]
    lines += [(f"regret on {name}", *_texts(of_task, points, 3)) for name, of_task in tasks.items()]
    if row["improvement"]:
        lines.append(("improvement on random search", *_texts(row["improvement"], points, 2)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _texts(figures: Mapping[str, Mapping[str, float]], points: Sequence[str], digits: int) -> list[str]:
    return [Estimate(**figures[point]).text(digits) for point in points]
