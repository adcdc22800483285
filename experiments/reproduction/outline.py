"""What a plan trains, in words: searches, and the networks of each budget group that are trained to the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from experiments.reproduction.building import network_labels
from experiments.reproduction.finals import Final
from experiments.reproduction.plan import Plan
from experiments.reproduction.scale import Scale


def outline(scale: Scale, plan: Plan) -> str:
    """Targets, meta-trainings, searches, and a line for each group on each data set with its networks."""
    attacks = Counter(key.variant for key in plan.searches)
    searches = ", ".join(f"{variant} {count}" for variant, count in attacks.items()) or "none"
    lines = [
        f"{', '.join(plan.targets)} at scale {scale.name}",
        f"Meta-trainings: {', '.join(plan.meta) or 'none'}. Searches of {scale.fine_tune_evaluations} students each:"
        f" {searches}.",
        f"Networks trained to the end, each from scratch with {scale.seeds} seed{'s' * (scale.seeds != 1)}:",
        *_groups(scale, plan),
    ]
    return "\n".join(lines)


def _groups(scale: Scale, plan: Plan) -> Iterator[str]:
    groups: dict[tuple[str, str], list[Final]] = {}
    for final in (*plan.finals, *plan.pruned):
        groups.setdefault((final.group, final.place), []).append(final)
    if not groups:
        yield "  none"
    for (group, place), finals in groups.items():
        dataset = scale.datasets[place]
        where = dataset if dataset == place else f"{dataset} at the place of {place}"
        yield f"  {group}, {where}: {'; '.join(_networks(scale, finals))}"


def _networks(scale: Scale, finals: list[Final]) -> Iterator[str]:
    """Each fixed network once, with the methods that train or prune it where these are not TRADES alone."""
    labels, methods = network_labels(scale), dict[str, dict[str, None]]()
    students = dict[str, set[str]]()
    for final in finals:
        if final.search is not None:
            students.setdefault(final.entry.variant, set()).add(final.search.name)
        else:
            name = labels[final.place, final.group, final.entry.network]
            methods.setdefault(name, {})[final.entry.method] = None
    for name, used in methods.items():
        yield name if list(used) == ["trades"] else f"{name} by {', '.join(used)}"
    for variant, found in students.items():
        yield f"{len(found)} student{'s' * (len(found) != 1)} of {variant}"
