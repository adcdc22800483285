"""The tables of the pages, row by row, against the records that they cite: what is printed is what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import kendalltau

from experiments.arena_pages import agent_page, agent_pages
from experiments.arena_roster import ROSTER
from experiments.arena_rule import rule_page
from experiments.arena_settings import ArenaSettings
from experiments.claim_list import CLAIMS
from experiments.judge import THEORY, judge_record, read_findings
from experiments.paper_claims import verdicts_markdown
from experiments.reported_tables import load_reported
from experiments.result_table import ResultTable
from rcnas_env.tabular.table import load_table

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
NUMBERS = (
    "evaluations",
    "envs",
    "meta_iterations",
    "meta_envs",
    "meta_seeds",
    "pretrain_steps",
    "compression_emphasis",
)
"""Settings of an arena that its agents' pages name."""
LADDER = ("no switch", "+ matrix products for convolutions", "+ frozen network", "+ kept memory")

BEFORE = "before adversarial training"
THEORY_ROWS = {
    "Lemma 3.1: max ΔL ≤ full's, every t": "Lemma 3.1: max ΔL ≤ full's, at every checkpoint",
    "same, mean over t": "mean over the checkpoints",
    "Lemma 3.1 at t = T: max ΔL ≤ full's": "at the start of adversarial training (t = T)",
    "same, weights that may move": "the same, only weights that may move",
    "same, mean ΔL": "the same, mean of ΔL over neurons",
    "Eq. 20: c ≤ full's": "Eq. 20: least c ≤ full's",
    "same, κ = 1": "the same, κ = 1",
    "same, as many of full's neurons": "the same, against as many random neurons of the full network",
    f"max ‖v‖ ≤ {BEFORE}": "after adversarial training, max ‖v‖ is no larger (full: 10)",
    f"robust accuracy ≥ {BEFORE}": "after adversarial training, robust accuracy is no lower (full: 10)",
    **{
        claim: claim
        for claim in (
            "Theorem 3.2: max ‖v‖ ≤ full's", "mean ‖v‖ ≤ full's", "dense share ≤ full's", "robust accuracy ≥ full's"
        )
    },
}  # fmt: skip
"""Claim of the theory check → the first cell of its row in docs/theory.md."""

Rows = Callable[[dict[str, Any]], Iterator[list[str]]]
"""A record → cells that must stand next to each other in a row of the page (bold or not), for each row."""


def estimate(found: dict[str, float], digits: int) -> str:
    """`value [low, high]`."""
    return "{value:.{n}f} [{low:.{n}f}, {high:.{n}f}]".format(**found, n=digits)


def ratio(found: dict[str, float]) -> str:
    """`ratio (least, most)`."""
    return f"{found['ratio']:.2f} ({found['ratio_least']:.2f}, {found['ratio_most']:.2f})"


def percent(accuracies: dict[str, float]) -> list[str]:
    """Accuracies in %."""
    return [f"{100 * accuracy:.1f}" for accuracy in accuracies.values()]


def quickstart(record: dict[str, Any]) -> Iterator[list[str]]:
    """README's table of the demo."""
    for row in record["results"]["rows"]:
        tried = "–" if row["evaluations"] is None else str(row["evaluations"])
        yield [f"{row['params']:,}", f"{row['macs']:,}", *percent(row["accuracies"]), tried]


def arena(record: dict[str, Any]) -> Iterator[list[str]]:
    """An arena's regrets."""
    for row in record["results"]["agents"]:
        yield [row["agent"], *(estimate(found, 3) for found in row["regret"].values())]


def bars(record: dict[str, Any]) -> Iterator[list[str]]:
    """What meta-trained agents are held to, after as many evaluations of a rival and after more."""
    for row in record["results"]["bars"]:
        mine, theirs = estimate(row["regret"], 3), estimate(row["rival_regret"], 3)
        won = estimate(row["improvement"], 2)
        yield [row["agent"], str(row["after"]), mine, row["rival"], str(row["rival_after"]), theirs, won]


def front(record: dict[str, Any]) -> Iterator[list[str]]:
    """Where an arena's agents lie on the Pareto fronts."""
    for row in chain(*record["results"]["fronts"].values()):
        shares = [f"{share:.0%}" for share in row["hypervolume"].values()]
        yield [row["agent"], f"{row['accuracy']:.1%}", f"{row['macs']:,.0f}", f"{row['params']:,.0f}", *shares]


def matrix(record: dict[str, Any]) -> Iterator[list[str]]:
    """Accuracies of the matrix."""
    yield from (percent(row["accuracies"]) for row in record["results"]["rows"])


def theory(record: dict[str, Any]) -> Iterator[list[str]]:
    """Means of the networks, and in how many seeds each claim held."""
    for network in record["results"]["networks"]:
        before, after = network["clean"], network["adversarial"]
        cells = [f"{before[key]:.3f} → {after[key]:.3f}" for key in ("mixture", "mixture_strict", "mean_mixture")]
        yield [network["network"], *cells]
    claims = held(record)
    assert claims.keys() == THEORY_ROWS.keys()
    yield from ([THEORY_ROWS[claim], *counts] for claim, counts in claims.items())


def held(record: dict[str, Any]) -> dict[str, list[str]]:
    """Claim → in how many seeds each compressed network held it."""
    claims: dict[str, list[str]] = {}
    for found in record["results"]["findings"]:
        if found["network"] != "full":
            claims.setdefault(found["claim"], []).append(str(found["held"]))
    return claims


def training(record: dict[str, Any]) -> Iterator[list[str]]:
    """Times of a training step."""
    for name, found in record["summary"].items():
        if name != "peak":
            milliseconds = [f"{found['published_ms']:.0f}", f"{found['ms']:.0f}"]
            yield [name, *milliseconds, ratio(found), f"{found['gflops']:.0f}"]


def ladder(record: dict[str, Any]) -> Iterator[list[str]]:
    """What each switch adds."""
    found = record["summary"]
    for rung in LADDER:
        yield [rung, ratio(found[f"WRN-16-2 at 8x8, {rung}"]), ratio(found[f"robust at 8x8, {rung}"])]


def attacks(record: dict[str, Any]) -> Iterator[list[str]]:
    """Seconds of AutoAttack's components."""
    summary = record["summary"]
    theirs = summary["seconds by component, torchattacks"]
    for name, seconds in summary["seconds by component"].items():
        yield [name, f"{theirs[name]:.1f}", f"{seconds:.1f}", f"{theirs[name] / seconds:.1f}"]


def recipes(record: dict[str, Any]) -> Iterator[list[str]]:
    """What cheap recipes cost and agree with."""
    for name, row in record["summary"].items():
        if name != "digits preset":  # the paper's then, and the same row
            figures = [row[key] for key in ("robust_mean", "sd_networks", "sd_seeds")]
            yield [f"{row['seconds_ratio']:.2f}", *(f"{figure:.3f}"[1:] for figure in figures)]


def scaling(record: dict[str, Any]) -> Iterator[list[str]]:
    """Efficiency of 64 workers."""
    for row in record["summary"]["by ratio"]:
        if row["workers"] == 64:
            yield [f"{100 * row['efficiency']:.1f} %", f"{100 * row['low']:.1f}–{100 * row['high']:.1f}"]


def arena_of(name: str) -> tuple[ArenaSettings, int, list[dict[str, Any]]]:
    """(settings, seeds, rows) of the arena on the twin whose record is called `name`."""
    record = json.loads((EVIDENCE / f"{name}.json").read_text(encoding="utf-8"))
    config = {name: value for name, value in record["config"].items() if name in NUMBERS}
    settings = ArenaSettings(engine="tabular", tasks=tuple(record["config"]["tasks"]), **config)
    return settings, record["config"]["seeds"], record["results"]["agents"]


TABLES: list[tuple[str, str, Rows]] = [
    ("README.md", "quickstart", quickstart),
    ("README.md", "arena", arena),
    ("docs/agents.md", "arena", arena),
    ("docs/agents.md", "arena", front),
    ("docs/agents.md", "arena-bars", bars),
    ("docs/agents.md", "arena-live", arena),
    ("docs/agents.md", "arena-ablations", arena),
    ("docs/agents.md", "arena-additions", arena),
    ("docs/agents.md", "arena-bayesian", arena),
    ("docs/matrix.md", "matrix", matrix),
    ("docs/theory.md", "theory", theory),
    ("docs/performance.md", "bench-training", training),
    ("docs/performance.md", "bench-training-amx", training),
    ("docs/performance.md", "bench-ladder", ladder),
    ("docs/performance.md", "bench-attacks-standard", attacks),
    ("docs/performance.md", "recipes", recipes),
    ("docs/scaling.md", "scaling", scaling),
]


@pytest.mark.parametrize(("page", "evidence", "rows"), TABLES, ids=lambda each: getattr(each, "__name__", each))
def test_a_table_s_rows_are_the_record_s(page: str, evidence: str, rows: Rows) -> None:
    text = (ROOT / page).read_text(encoding="utf-8").replace("**", "")
    record = json.loads((EVIDENCE / f"{evidence}.json").read_text(encoding="utf-8"))
    wanted = [row for row in rows(record) if rows is not arena or f"| {row[0]} |" in text]  # a page may choose agents
    assert len(wanted) >= 4
    assert [row for row in wanted if f"| {' | '.join(row)} |" not in text] == []


@pytest.mark.parametrize(
    ("evidence", "options"),
    [("decay-0", "--decay 0"), ("dimension-50", "--dimension 50 --sparsity 4"), ("radius-0.3", "--radius 0.3")],
)
def test_the_theory_s_other_settings_are_their_records(evidence: str, options: str) -> None:
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    claims = held(json.loads((EVIDENCE / f"theory-{evidence}.json").read_text(encoding="utf-8")))
    shown = ("Lemma 3.1 at t = T: max ΔL ≤ full's", "Theorem 3.2: max ‖v‖ ≤ full's", "robust accuracy ≥ full's")
    cells = [", ".join(counts) for counts in zip(*(claims[claim] for claim in shown), strict=True)]
    assert f"| `{options}` ([evidence](evidence/theory-{evidence}.json)) | {' | '.join(cells)} |" in page


def test_the_table_of_the_reward_s_weight_is_both_records() -> None:
    page = (ROOT / "docs" / "paper-notes.md").read_text(encoding="utf-8")
    default, unweighted = (
        json.loads((EVIDENCE / f"{name}.json").read_text(encoding="utf-8"))["results"]["fronts"]
        for name in ("arena", "arena-emphasis-0")
    )
    assert set(unweighted) == {"half", "quarter"}
    for task, rows in unweighted.items():
        found = {row["agent"]: row for row in default[task]}
        for row in rows:
            cells = [
                f"{each['accuracy']:.1%} | {each['macs']:,.0f} | {each['params']:,.0f}"
                for each in (found[row["agent"]], row)
            ]
            assert f"| {row['agent']} | {' | '.join(cells)} |" in page


def test_what_ten_evaluations_beat_is_said_of_both_comparisons() -> None:
    page = " ".join((ROOT / "docs" / "agents.md").read_text(encoding="utf-8").split())
    said = []
    for name in ("arena", "arena-bars"):
        results = json.loads((EVIDENCE / f"{name}.json").read_text(encoding="utf-8"))["results"]
        mine = [row for row in results["bars"] if row["agent"] == "rc-nas+" and row["after"] < row["rival_after"]]
        assert [(row["rival"], row["rival_after"]) for row in mine] == [
            ("random-search", 100), ("evolution", 30), ("tpe", 30)
        ]  # fmt: skip
        said.append("{:.2f}, {:.2f} and {:.2f}".format(*(row["improvement"]["value"] for row in mine)))
    assert f"with {said[0]} in the first comparison, and with {said[1]} in the second" in page


def test_the_search_without_a_policy_is_the_record_s() -> None:
    page = " ".join((ROOT / "docs" / "agents.md").read_text(encoding="utf-8").split())
    results = json.loads((EVIDENCE / "arena-policy.json").read_text(encoding="utf-8"))["results"]
    found = next(row for row in results["agents"] if row["agent"] == "plus-no-policy")
    ten, thirty, hundred = (estimate(each, 3) for each in found["regret"].values())
    assert f"{ten} after 10, {thirty} after 30 and {hundred} after 100" in page


def test_the_agreement_of_the_twin_and_real_training_is_the_records() -> None:
    twin, live = ({row["agent"]: row["mean_regret"] for row in arena_of(name)[2]} for name in ("arena", "arena-live"))
    assert len(live) == 6
    taus = {
        after: kendalltau(*([curves[label][after - 1] for label in live] for curves in (twin, live))).statistic
        for after in (1, 5, 10, 15)
    }
    said = "{:.2f} after 1, {:.2f} after 5, {:.2f} after 10 and {:.2f} after 15".format(*taus.values())
    assert f"Kendall's τ is {said}" in " ".join((ROOT / "docs" / "agents.md").read_text(encoding="utf-8").split())


def test_the_results_page_has_the_tables_and_verdicts_of_the_record() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    results = json.loads((EVIDENCE / "reproduce-laptop.json").read_text(encoding="utf-8"))["results"]
    assert len(results["tables"]) >= 11 and len(results["verdicts"]) == len(CLAIMS)
    for name, found in results["tables"].items():
        table = ResultTable.from_dict(found)
        assert table.markdown(load_reported(name.removesuffix("-through-teacher"))) in page, name
    for verdict in results["verdicts"]:
        claim = verdict["claim"]
        assert f"| {claim['statement']} | {claim['section']} | {verdict['outcome']} |" in page


def test_the_verdicts_of_the_record_are_what_the_rules_of_today_make_of_its_cells() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    record = json.loads((EVIDENCE / "reproduce-laptop.json").read_text(encoding="utf-8"))
    verdicts = judge_record(record, read_findings(THEORY))
    assert json.loads(json.dumps([asdict(each) for each in verdicts])) == record["results"]["verdicts"]
    assert verdicts_markdown(verdicts) in page


def test_the_agents_pages_are_made_from_the_records_and_every_agent_has_one() -> None:
    page = (ROOT / "docs" / "agent-results.md").read_text(encoding="utf-8")
    settings, seeds, rows = arena_of("arena-bayesian")
    bayesian = next(row for row in rows if row["agent"] == "bayesian")
    parts = [
        agent_pages(*arena_of("arena")),
        agent_page(settings, seeds, bayesian, True),
        rule_page(load_table("digits")),
    ]
    places = [page.find(part) for part in parts]
    assert 0 < places[0] < places[1] < places[2] == len(page) - len(parts[2])
    headings = set(re.findall(r"^## (.*)$", page, re.MULTILINE))
    assert headings == {each.label for each in ROSTER} | {"scaling-rule"}


def test_every_record_is_cited_and_says_how_it_came_about() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    cited = " ".join(page.read_text(encoding="utf-8") for page in pages)
    records = sorted(EVIDENCE.glob("*.json"))
    assert len(records) > 20
    assert [path.name for path in records if f"evidence/{path.name})" not in cited] == []
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["command"].startswith(("python -m ", "make ")), path.name
        assert {"torch", "numpy", "python"} <= set(record["versions"]) and record["config"], path.name
        assert path.stem == "scaling" or record["hardware"], path.name  # a simulation measures none
