"""The report: what stands on the pages of real evidence and of a run folder, that nothing escapes, what it refuses."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from report_samples import (
    EVIDENCE,
    HOSTILE,
    Parsed,
    marks,
    quickstart,
    record_searches,
    sample_searches,
    write_run,
)

from experiments.report import Report, main, report
from experiments.reporting.scales import Scale, in_units, plain_number

ROOT = EVIDENCE.parent.parent
NOTHING_SHARED = "No two of these runs share task, recipe and reward, so their figures do not compare."


def page_of(tmp_path: Path, *runs: Path) -> tuple[str, Parsed]:
    """The page of `runs`, as text and taken apart."""
    html = report(Report(runs, tmp_path / "page.html")).read_text(encoding="utf-8")
    return html, Parsed(html)


def drawn(page: Parsed) -> Counter[str | None]:
    """Marks of each kind."""
    return Counter(found["data-mark"] for found in page.with_attribute("data-mark"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Parsed]:
    """The page of a run folder with everything, and of a record that shares its task."""
    folder = tmp_path_factory.mktemp("report")
    return page_of(folder, write_run(folder / HOSTILE.replace("/", "|")), EVIDENCE / "quickstart.json")


# -- what stands on the page ------------------------------------------------------------------------------


def test_quickstart_has_a_mark_for_each_number_of_its_record(tmp_path: Path) -> None:
    record = quickstart()
    _, page = page_of(tmp_path, EVIDENCE / "quickstart.json")
    expected = Counter(marks([record_searches(record)]))
    rewards = record["results"]["meta_rewards"]
    means = np.cumsum(rewards) / np.arange(1, len(rewards) + 1)
    expected += Counter(curve=1, change=1 + int(np.count_nonzero(np.diff(means))))
    assert drawn(page) == expected
    text = " ".join(page.texts)
    for fact in (record["commit"], record["versions"]["torch"], record["hardware"]["processor"]):
        assert fact in text


def test_arena_shows_a_regret_curve_an_agent(tmp_path: Path) -> None:
    agents = json.loads((EVIDENCE / "arena.json").read_text())["results"]["agents"]
    _, page = page_of(tmp_path, EVIDENCE / "arena.json")
    with_regret = [agent["agent"] for agent in agents if agent.get("mean_regret")]
    assert with_regret
    assert drawn(page)["curve"] == len(with_regret)
    assert set(with_regret) <= set(page.texts)


def test_matrix_shows_its_rows_as_a_table(tmp_path: Path) -> None:
    rows = json.loads((EVIDENCE / "matrix.json").read_text())["results"]["rows"]
    html, page = page_of(tmp_path, EVIDENCE / "matrix.json")
    body = re.search(r"<caption>rows</caption>.*?<tbody>(.*?)</tbody>", html, re.DOTALL)
    assert body is not None
    assert body[1].count("<tr>") == len(rows)
    assert page.with_attribute("class", "filter"), "a long table has a filter"
    assert not drawn(page)


def test_a_reproduction_s_record_alone_shows_its_tables(tmp_path: Path) -> None:
    tables = json.loads((EVIDENCE / "reproduce-laptop.json").read_text())["results"]["tables"]
    html, page = page_of(tmp_path, EVIDENCE / "reproduce-laptop.json")
    assert len(page.with_attribute("class", "results")) == len(tables) >= 11
    roles = [found["data-role"] for found in page.with_attribute("data-role")]
    assert len(roles) == sum(len(table["rows"]) for table in tables.values())
    cell = next(row["cells"]["cifar10/clean"] for row in tables["table1"]["rows"] if row["role"] == "5G/teacher")
    assert (
        f"{cell['value']:.1f} ± {cell['deviation']:.1f}" in page.texts and f"{cell['seeds']} seeds, 240 images" in html
    )
    assert "label_headings" not in html, "tables, not trees of them"


def test_a_damaged_table_in_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps({"experiment": "reproduce", "results": {"tables": {"table1": {}}}}))
    with pytest.raises(ValueError, match=r"record.json: results.tables\['table1'\]: table must have the fields"):
        report(Report((path,), tmp_path / "page.html"))


def test_run_folder_shows_all_that_it_holds(whole: tuple[str, Parsed]) -> None:
    html, page = whole
    text = " ".join(page.texts)
    assert "90.0 ± 1.3" in text
    assert page.with_attribute("title", "3 seeds, 1,000 images")
    roles = [found["data-role"] for found in page.with_attribute("data-role")]
    assert roles == ["teacher", "rc-nas"]
    assert "Attacks are computed on the row's own network" in text
    assert "holds" in page.texts  # verdicts.md
    assert "Heading" in page.texts  # table.md
    images = [found["src"] or "" for found in page.named("img")]
    assert len(images) == 1
    assert base64.b64decode(images[0].removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    assert html.startswith("<!DOCTYPE html>")


def test_runs_on_one_task_are_compared(whole: tuple[str, Parsed]) -> None:
    _, page = whole
    assert page.with_attribute("id", "comparison")
    assert {f"quickstart: {label}" for label in quickstart()["results"]["trials"]} <= set(page.texts)
    alone = Counter(marks([sample_searches()])) + Counter(marks([record_searches(quickstart())]))
    assert drawn(page)["trial"] == 2 * alone["trial"], "once in their sections, once side by side"


def test_runs_on_other_tasks_are_not_compared(tmp_path: Path) -> None:
    _, page = page_of(tmp_path, EVIDENCE / "quickstart.json", EVIDENCE / "matrix.json")
    assert NOTHING_SHARED in page.texts


@pytest.mark.parametrize("change", [{"compression_emphasis": 0.0}, {"recipe": {"epochs": 9}}])
def test_runs_of_another_reward_or_recipe_are_not_compared(change: dict[str, object], tmp_path: Path) -> None:
    record = quickstart()
    for name, config in (("one", {}), ("other", change)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**record, "config": {**record["config"], **config}}))
    _, page = page_of(tmp_path, tmp_path / "one.json", tmp_path / "other.json")
    assert NOTHING_SHARED in page.texts


def test_charts_have_text_alternatives_and_tables(whole: tuple[str, Parsed]) -> None:
    _, page = whole
    charts = page.with_attribute("data-chart")
    drawings = page.with_attribute("role", "img")
    assert len(charts) == len(drawings) > 0
    assert all(found["aria-label"] for found in drawings)
    assert len(page.with_attribute("class", "numbers")) == len(charts)
    names = [found["id"] for found in page.with_attribute("id")]
    assert len(names) == len(set(names))


# -- nothing escapes --------------------------------------------------------------------------------------


def test_nothing_of_a_record_becomes_markup(whole: tuple[str, Parsed]) -> None:
    html, page = whole
    assert len(page.named("script")) == 1, "the page's own"
    assert not [name for _, found in page.tags for name in found if name.startswith("on") or name == "style"]
    assert [found["src"] for found in page.named("img") if found["src"] == "x"] == []
    assert html.count("<script>alert") == 0
    assert HOSTILE in page.texts, "shown as it is"


def test_nothing_on_the_page_reaches_for_the_network(whole: tuple[str, Parsed]) -> None:
    html, page = whole
    addresses = [found[name] or "" for _, found in page.tags for name in ("src", "href", "action") if name in found]
    assert addresses
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not {"link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    assert re.search(r"@import|url\((?!#)", html) is None
    policy = page.with_attribute("http-equiv", "Content-Security-Policy")[0]["content"] or ""
    assert policy.startswith("default-src 'none';")
    for tag in ("script", "style"):
        content = html.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy


def test_control_characters_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps({"results": {"label": "a\x00b\x1b[31m\ud800"}}))
    html, _ = page_of(tmp_path, path)
    assert "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}" in html


def test_a_report_needs_no_torch() -> None:
    code = "import sys, experiments.report; sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# -- axes -------------------------------------------------------------------------------------------------


def test_ticks_are_round_and_inside() -> None:
    assert Scale(0.0, 1.0, 0, 100).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(30.0, 3000.0, 0, 100, logarithmic=True).ticks() == [50, 100, 200, 500, 1000, 2000]
    scale = Scale(1.0, 100.0, 0.0, 10.0, logarithmic=True)
    assert [scale(value) for value in (1, 10, 100, 1000)] == pytest.approx([0, 5, 10, 10])
    assert (in_units(659_302), in_units(1e6), in_units(12)) == ("659 k", "1 M", "12")
    assert plain_number(0.1 + 0.2) == "0.3"
    with pytest.raises(ValueError, match="low < high"):
        Scale(1.0, 1.0, 0, 1)


# -- what is refused --------------------------------------------------------------------------------------


def _cut_png(run: Path) -> None:
    (run / "figure.png").write_bytes(b"GIF89a")


def _set(file: str, text: str) -> Callable[[Path], None]:
    return lambda run: (run / file).write_text(text) and None


def _bad_trial(run: Path) -> None:
    searches = sample_searches()
    searches[2]["trials"][0]["macs"] = 0
    (run / "searches.json").write_text(json.dumps(searches))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_set("record.json", "[]"), "record.json: must be a JSON object, got list"),
        (_set("record.json", "{"), "record.json: must be JSON"),
        (_set("searches.json", "{}"), "searches.json must be a list, got dict"),
        (_set("tables/table1.json", "{}"), r"tables/table1.json: table must have the fields .*missing 'name'"),
        (_bad_trial, r"searches.json\[2\].trials\[0\].macs must be .* 1"),
        (_cut_png, r"figure.png: must be a PNG image, its first bytes are b'GIF89a'"),
        (lambda run: (run / "record.json").unlink(), "run must be a folder with a record.json"),
    ],
)
def test_damaged_runs_are_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    run = write_run(tmp_path / "run")
    damage(run)
    with pytest.raises(ValueError, match=message):
        report(Report((run,), tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()


def test_command_writes_beside_the_run_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run")
    assert main([str(run)]) == 0
    assert (run / "report.html").is_file()
    assert "report.html" in capsys.readouterr().out
    assert main([str(tmp_path / "absent")]) == 2
    assert "report: error: run must be a folder with a record.json" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    _, page = page_of(tmp_path, write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run"))
    assert {"run", "run (2)"} <= set(page.texts)


def test_no_run_is_refused() -> None:
    with pytest.raises(ValueError, match="runs must be one run folder or more, got none"):
        report(Report(()))
