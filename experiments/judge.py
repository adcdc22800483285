"""Judge the paper's claims again from a reproduction's record, and write its tables and verdicts into a page.

    python -m experiments.judge docs/evidence/reproduce-laptop.json --page docs/results.md

Nothing is trained or measured: the record's own tables, curves and students are judged by the rules of
`experiments.paper_claims` as they are now. Table 4 is made anew of the record's searches, by the rules as they are now;
nothing else in the record is touched. It notes with which commit it was judged. In the page, the sections of the
record's tables and the one of the claims are written anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.claim_verdict import Verdict
from experiments.paper_claims import judge, verdicts_markdown
from experiments.reported_tables import load_reported
from experiments.reproduction.building import time_table
from experiments.reproduction.scale import recorded_scale
from experiments.reproduction.searches import SearchKey
from experiments.result_table import ResultTable
from experiments.run_record import commit
from experiments.theory_claims import Findings
from experiments.topology_claims import Students
from rcnas_env.architecture import NetworkSpec
from rcnas_env.strict_json import parse_json
from rcnas_env.task import resolve_teacher
from rcnas_env.validation import shown
from rcnas_env.whole_files import write_text

THEORY = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "theory.json"
CLAIMS_HEADING = "Claims"
"""Of the page's section of verdicts."""


@dataclass(frozen=True)
class Judge:
    """Settings of a judgement."""

    record: Annotated[Path, tyro.conf.Positional]
    """record.json of a run of experiments.reproduce."""
    page: Path | None = None
    """Markdown page whose sections of tables and claims are written anew; none if not given."""
    theory: Path = THEORY
    """record.json of a run of experiments.theory_check, for Lemma 3.1 and Theorem 3.2."""


def judge_record(record: Mapping[str, Any], theory: Findings | None = None) -> list[Verdict]:
    """A verdict on every claim, from what a record of `experiments.reproduce` holds.

    Args:
        theory: findings of `experiments.theory_check`.

    Raises:
        ValueError: it is of another experiment, or malformed.
    """
    if record.get("experiment") != "reproduce":
        raise ValueError(f"record must be of experiment 'reproduce', got {record.get('experiment')!r}")
    results = record["results"]
    tables = {name: ResultTable.from_dict(table) for name, table in results["tables"].items()}
    return judge(tables, results["curves"] or None, students_of(record), theory)


def students_of(record: Mapping[str, Any]) -> Students:
    """What the record's searches found, beside the teachers of its scale."""
    scale, found = record["config"]["scale_settings"], {}
    for name, entry in record["results"]["students"].items():
        key = SearchKey.named(name)
        teacher = resolve_teacher(scale["groups"][key.group]["teacher"], scale["datasets"][key.place])
        found[name] = (teacher, NetworkSpec.from_dict(entry["student"]))
    return found


def times_of(record: Mapping[str, Any]) -> ResultTable | None:
    """Table 4 of what the record's searches took; None where it has none."""
    results = record["results"]
    if "table4" not in results["tables"]:
        return None
    seconds = {SearchKey.named(name): each["worker_seconds"] for name, each in results["students"].items()}
    meta = ResultTable.from_dict(results["tables"]["table4"]).cell("meta-training", "hours")
    return time_table(recorded_scale(record["config"]["scale_settings"]), seconds, meta, results["left out"])


def read_findings(path: Path) -> Findings:
    """The findings of a record of `experiments.theory_check`.

    Raises:
        ValueError, OSError, LookupError: it is none.
    """
    findings: Findings = parse_json(path.read_bytes())["results"]["findings"]
    return findings


def sections(record: Mapping[str, Any], verdicts: list[Verdict]) -> dict[str, str]:
    """Heading → text of a page's section, of each table and of the claims."""
    found = {CLAIMS_HEADING: verdicts_markdown(verdicts)}
    for name, table in record["results"]["tables"].items():
        reported = load_reported(name.removesuffix("-through-teacher"))
        found[name] = ResultTable.from_dict(table).markdown(reported)
    return found


def with_sections(page: str, texts: Mapping[str, str]) -> str:
    """The page with the text below each heading "## NAME" replaced, up to the next one.

    Raises:
        ValueError: a heading is not there, or not once.
    """
    for heading, text in texts.items():
        pattern = re.compile(rf"(?<=^## {re.escape(heading)}\n)(.*?)(?=\n*(?:^## |\Z))", re.MULTILINE | re.DOTALL)
        if len(pattern.findall(page)) != 1:
            raise ValueError(f"page must have the heading '## {heading}' once")
        body = ("\n" if heading == CLAIMS_HEADING else "") + text.rstrip("\n")
        page = pattern.sub(lambda _, body=body: body, page)  # type: ignore[misc]
    return page.rstrip("\n") + "\n"


def run(config: Judge) -> list[Verdict]:
    """The whole job: the record's verdicts, and the page's sections.

    Raises:
        ValueError, OSError: the record or the page is not what it must be.
    """
    record: Any = parse_json(config.record.read_bytes())
    if not isinstance(record, dict):
        raise ValueError(f"record must be an object, got {shown(record)}")
    if record.get("experiment") == "reproduce" and (times := times_of(record)) is not None:
        record["results"]["tables"]["table4"] = times.to_dict()
    verdicts = judge_record(record, read_findings(config.theory))
    record["results"]["verdicts"] = [asdict(verdict) for verdict in verdicts]
    record["judged"] = {"commit": commit(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    page = None
    if config.page is not None:
        page = with_sections(config.page.read_text(encoding="utf-8"), sections(record, verdicts))
    write_text(config.record, json.dumps(record, indent=1) + "\n")
    if config.page is not None and page is not None:
        write_text(config.page, page)
    return verdicts


def main() -> int:
    """Command line."""
    config = tyro.cli(Judge, description=__doc__)
    try:
        verdicts = run(config)
    except (ValueError, LookupError, OSError) as error:
        print(f"judge: error: {error}", file=sys.stderr)
        return 2
    print(verdicts_markdown(verdicts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
