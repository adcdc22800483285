"""What RobustResNet's scaling rule comes to on the arena's held-out tasks: one network a budget, no search, no luck.

    python -m experiments.arena_rule

Prints the rule's page of docs/agent-results.md. The rule makes no curve of evaluations and so is no competitor of the
arena; its network is judged as incumbents are there, by its expected reward on the tabular twin.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import tyro

from agents.scaling_rule import scaling_rule
from experiments.arena_tasks import held_out_task, known_tasks
from rcnas_env.cost import cost
from rcnas_env.rendering import stage_label
from rcnas_env.tabular.landscape import TaskLandscape
from rcnas_env.tabular.table import Table, load_table
from rcnas_env.task import Task

COMMAND = "python -m experiments.arena_rule"
HEADS = ("task", "budget", "stages", "parameters", "MACs", "robust accuracy", "expected reward", "best", "regret")


@dataclass(frozen=True)
class ArenaRule:
    """Print the page of the scaling rule."""

    table: str = "digits"
    """A table's name or path."""


def rule_page(table: Table) -> str:
    """The page, as Markdown: the rule's network on each held-out task with its expected reward and regret.

    Raises:
        LookupError: the table says nothing about a task or about the rule's network.
    """
    lines = [HEADS, ("---", "--:", "---", *["--:"] * 6)]
    lines += [_line(name, held_out_task(name), table) for name in known_tasks()]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"""## scaling-rule
RobustResNet's scaling rule (Huang et al. 2022): no search, the largest network of fixed proportions within the budget.

    {COMMAND}

Settings: none.

{rows}

Stages read blocks × planes, r for robust blocks, ↓ for down-sampling. Robust accuracy and expected reward: in
expectation over training seeds, on the twin. One evaluation, nothing charged.
"""


def _line(name: str, task: Task, table: Table) -> tuple[str, ...]:
    landscape = TaskLandscape(table, task)
    start, best = (name, f"{task.budget:,.0f}"), f"{landscape.best:.3f}"
    try:
        network = scaling_rule(task.budget, task.teacher)
    except ValueError:  # even its smallest network costs more
        return *start, "none is small enough", *["–"] * 4, best, "–"
    costs, worth = cost(network), landscape.expected_reward(network)
    accuracy = f"{landscape.expected_accuracy(network):.1%}"
    figures = (f"{costs.params:,}", f"{costs.macs:,}", accuracy, f"{worth:.3f}", best, f"{landscape.best - worth:.3f}")
    return *start, " ".join(map(stage_label, network.stages)), *figures


def main() -> int:
    """Command line."""
    config = tyro.cli(ArenaRule, description=__doc__)
    try:
        print(rule_page(load_table(config.table)))
    except (ValueError, LookupError, OSError) as error:
        print(f"arena_rule: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
