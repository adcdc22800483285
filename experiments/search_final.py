"""The end of a search: chosen networks trained by the final recipe, attacked on the test set, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.comparison import Candidate, Row
from experiments.progress import progress_bar
from experiments.search_plan import Plan, final_jobs
from experiments.search_settings import Search
from rcnas_env.architecture import NetworkSpec
from rcnas_env.binomial import standard_error
from rcnas_env.cost import cost
from rcnas_env.evaluation.evaluator import Evaluator
from rcnas_env.rendering import stage_label


def compare_to_the_end(config: Search, plan: Plan, candidates: Sequence[Candidate], evaluator: Evaluator) -> list[Row]:
    """Train every candidate by the final recipe, attack it on the test set; one row each, in order."""
    jobs = [final_jobs(plan, candidate.network, config.seed, config.slow_attack_images) for candidate in candidates]
    flat = [job for own in jobs for job in own]
    with progress_bar("final training and attacks", len({job.key for job in flat})) as bar:
        evaluations = iter(evaluator.evaluate(flat, lambda job, evaluation: bar.advance()))
    rows = []
    for candidate in candidates:
        found = {attack: next(evaluations) for attack in plan.attacks}
        own = cost(candidate.network)
        rows.append(
            Row(
                candidate.name,
                candidate.network,
                own.params,
                own.macs,
                own.macs <= plan.task.budget,
                {attack: each.robust_accuracy for attack, each in found.items()},
                {attack: each.images for attack, each in found.items()},
                candidate.evaluations,
                any(each.diverged for each in found.values()),
            )
        )
    return rows


def markdown(rows: Sequence[Row], attacks: Sequence[str]) -> str:
    """The rows as a Markdown table, accuracies in % with their standard errors."""
    headings = [f"{attack} (n={rows[0].images[attack]})" for attack in attacks]
    lines = [
        f"| network | stages | parameters | MACs | within budget | {' | '.join(headings)} | tried |",
        f"|---|---|--:|--:|---|{'--:|' * (len(attacks) + 1)}",
    ]
    for row in rows:
        assert isinstance(row.network, NetworkSpec)
        figures = [
            f"{100 * row.accuracies[a]:.1f} ± {100 * standard_error(row.accuracies[a], row.images[a]):.1f}"
            for a in attacks
        ]
        stages, tried = " ".join(map(stage_label, row.network.stages)), row.evaluations
        lines.append(
            f"| {row.name} | {stages} | {row.params:,} | {row.macs:,} | {'yes' if row.within_budget else 'no'} | "
            f"{' | '.join(figures)} | {'–' if tried is None else tried} |"
        )
    return "\n".join(lines) + "\n"
