"""What the wanted tables and figures need: searches, final figures, prunings. Made before anything is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from experiments.reproduction.building import THROUGH_TEACHER, finals_of
from experiments.reproduction.contents import FIGURES, TABLES, TARGETS, groups_of, places_of, reason_left_out
from experiments.reproduction.finals import Final, final_job, pruned_name
from experiments.reproduction.networks import fixed_network
from experiments.reproduction.scale import ATTACKS, Scale
from experiments.reproduction.searches import NOT_META_TRAINED, SearchKey
from rcnas_env.data import DataUnavailableError, load_splits
from rcnas_env.evaluation.job import Job
from rcnas_env.validation import require_choice

ALL = "all"


@dataclass(frozen=True)
class Plan:
    """What is to be done, without repetitions, in order.

    targets: what is made.
    missing: data sets whose files are not here, or that are not wanted.
    meta: variants that are meta-trained.
    finals: cells that a fixed or searched network is trained for.
    pruned: cells of pruned teachers.
    """

    targets: tuple[str, ...]
    missing: tuple[str, ...]
    meta: tuple[str, ...]
    searches: tuple[SearchKey, ...]
    finals: tuple[Final, ...]
    pruned: tuple[Final, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Wanted targets that cannot be made, and why."""

    @property
    def prunings(self) -> dict[str, tuple[Final, ...]]:
        """Trainings of pruned teachers by name, each with its cells of different columns."""
        grouped: dict[str, dict[str, Final]] = {}
        for final in self.pruned:
            grouped.setdefault(pruned_name(final), {})[final.column.key] = final
        return {name: tuple(cells.values()) for name, cells in grouped.items()}

    def fixed_jobs(self, scale: Scale) -> list[Job]:
        """Jobs of the finals whose networks are known before any search."""
        jobs = (final_job(scale, final, {}) for final in self.finals if final.search is None)
        return list({job.key: job for job in jobs if job is not None}.values())


def resolve_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """The targets in the paper's order; "all" stands for every one.

    Raises:
        ValueError: a target is unknown, or there is none.
    """
    unknown = [target for target in targets if target not in (*TARGETS, ALL)]
    if unknown or not targets:
        got = repr(unknown[0]) if unknown else "none"
        raise ValueError(f"targets must be among {', '.join((*TARGETS, ALL))}, got {got}")
    return TARGETS if ALL in targets else tuple(target for target in TARGETS if target in targets)


def unwanted_datasets(scale: Scale, wanted: Sequence[str]) -> tuple[str, ...]:
    """Data sets of the scale that are not among the `wanted` ones, if any are named.

    Raises:
        ValueError: a wanted one is not of the scale.
    """
    names = tuple(dict.fromkeys(scale.datasets.values()))
    for dataset in wanted:
        require_choice("datasets", dataset, names)
    return tuple(name for name in names if wanted and name not in wanted)


def absent_datasets(scale: Scale) -> dict[str, DataUnavailableError]:
    """Data sets of the scale whose files are not here, and the error that says so."""
    absent = {}
    for dataset in dict.fromkeys(scale.datasets.values()):
        try:
            load_splits(dataset, scale.recipes(dataset)[0].n_eval)
        except DataUnavailableError as error:
            absent[dataset] = error
    return absent


def missing_datasets(scale: Scale, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """Data sets of the scale that are left out: not among the `wanted` ones, if any are named, or not here.

    Raises:
        ValueError: a wanted one is not of the scale.
        DataUnavailableError: no data set is left.
    """
    unwanted, absent = unwanted_datasets(scale, wanted), absent_datasets(scale)
    missing = tuple(name for name in dict.fromkeys(scale.datasets.values()) if name in (*unwanted, *absent))
    if len(missing) == len(set(scale.datasets.values())):
        raise next(error for name, error in absent.items() if name not in unwanted)
    return missing


def make_plan(scale: Scale, targets: Sequence[str], through_teacher: bool, missing: Sequence[str] = ()) -> Plan:
    """The plan for resolved targets; those that a missing data set or a group leaves nothing of are left out.

    Args:
        through_teacher: measure `THROUGH_TEACHER` tables with attacks through the teacher too.
        missing: data sets to be left out.
    """
    left_out = {name: reason for name in targets if (reason := reason_left_out(scale, name, missing))}
    targets = [name for name in targets if name not in left_out]
    finals = [final for name in targets if name in TABLES for final in finals_of(scale, name, missing)]
    if through_teacher:
        names = [name for name in targets if name in THROUGH_TEACHER]
        finals += [final for name in names for final in finals_of(scale, name, missing, "teacher")]
    finals = [final for final in dict.fromkeys(finals) if _exists(scale, final)]
    searches = [key for final in finals if (key := final.search) is not None]
    searches += [key for name in targets for key in extra_searches(scale, name, missing)]
    variants = dict.fromkeys(key.variant for key in searches if key.variant not in NOT_META_TRAINED)
    return Plan(
        tuple(targets),
        tuple(missing),
        tuple(variants),
        tuple(dict.fromkeys(searches)),
        tuple(final for final in finals if final.entry.source != "pruned"),
        tuple(final for final in finals if final.entry.source == "pruned"),
        left_out,
    )


def extra_searches(scale: Scale, name: str, missing: Sequence[str]) -> list[SearchKey]:
    """The searches that Table 4 times, or that a figure draws."""
    if name == "table4":
        tables = {"cifar10": "table1", "cifar100": "table1", "tiny-imagenet": "table5"}
        return [
            SearchKey("rc-nas", place, group, attack)
            for place in places_of(scale, name, tuple(tables), missing)
            for group in groups_of(scale, tables[place], TABLES[tables[place]].groups)
            for attack in ATTACKS
        ]
    if name not in FIGURES:
        return []
    places, groups, attacks = FIGURES[name]
    variants, seeds = (("rc-nas", "r-nas"), scale.curve_seeds) if name == "figure3" else (("rc-nas",), 1)
    return [
        SearchKey(variant, place, group, attack, seed)
        for seed in range(seeds)
        for variant in variants
        for place in places_of(scale, name, places, missing)
        for group in groups_of(scale, name, groups)
        for attack in attacks
    ]


def _exists(scale: Scale, final: Final) -> bool:
    """Whether the group has this row: a group without WRN-34-R has none of its cells."""
    return final.search is not None or fixed_network(scale, final.place, final.group, final.entry.network) is not None
