"""Judging a record again: what of the record and of the page changes, and what does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from experiments.judge import Judge, judge_record, run, times_of, with_sections

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence" / "reproduce-laptop.json"
PAGE = ROOT / "docs" / "results.md"


def test_judging_changes_the_verdicts_of_the_record_and_nothing_else(tmp_path: Path) -> None:
    path, page = tmp_path / "record.json", tmp_path / "page.md"
    shutil.copy(PAGE, page)
    before = json.loads(EVIDENCE.read_text(encoding="utf-8"))
    altered = {**before, "results": {**before["results"], "verdicts": []}}
    path.write_text(json.dumps(altered), encoding="utf-8")
    run(Judge(path, page))
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["results"] == before["results"]
    assert set(after) == set(before) | {"judged"} and after["judged"]["commit"]
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")  # it is of this record


def test_a_section_is_replaced_up_to_the_next() -> None:
    page = "# Page\n\nOur words.\n\n\n## table1\nold\n\nolder\n\n## figure1\n![]()\n\n## Claims\n\nold\n"
    new = with_sections(page, {"table1": "new\n", "Claims": "newer\n"})
    assert new == "# Page\n\nOur words.\n\n\n## table1\nnew\n\n## figure1\n![]()\n\n## Claims\n\nnewer\n"
    with pytest.raises(ValueError, match="heading '## table2' once"):
        with_sections(page, {"table2": "new"})


def test_a_file_that_is_no_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="record must be an object, got"):
        run(Judge(tmp_path / "record.json"))


def test_table_4_is_made_anew_of_the_searches() -> None:
    record = json.loads(EVIDENCE.read_text(encoding="utf-8"))
    seconds = {name: each["worker_seconds"] for name, each in record["results"]["students"].items()}
    own = [seconds[f"rc-nas_cifar10_5G_{attack}_0"] for attack in ("clean", "pgd-20", "cw-40", "autoattack")]
    table = times_of(record)
    assert table is not None
    cell = table.cell("cifar10/5G", "hours")
    assert cell is not None and cell.seeds == 4 and cell.value == pytest.approx(sum(own) / 4 / 3600)


def test_a_record_of_another_experiment_is_refused() -> None:
    with pytest.raises(ValueError, match="must be of experiment 'reproduce', got 'search'"):
        judge_record({"experiment": "search"})
