"""The report in a real browser: the page's script runs without an error, draws every mark, and answers clicks."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
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

from experiments.report import Report, report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH"),
]

OPTIONS = (
    "--headless",
    "--no-sandbox",  # containers run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--virtual-time-budget=2000",
)

# Runs after page.js is done: hides a series, hovers over a mark, filters and sorts a table; notes what it sees.
HOOK = """
document.addEventListener("DOMContentLoaded", () => {
  const seen = {};
  const chart = document.querySelector('[data-chart="curves"]');
  const line = chart.querySelector('[data-mark="curve"]');
  const button = chart.querySelector(".legend button");
  const height = () => line.getBoundingClientRect().height;
  seen.shown = height();
  button.click();
  seen.hidden = height();
  seen.pressed = button.getAttribute("aria-pressed");
  button.click();
  seen.again = height();
  const mark = chart.querySelector("[data-tip]");
  const tip = document.getElementById("tip");
  seen.tipBefore = tip.offsetHeight;
  mark.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  seen.tip = tip.offsetHeight && tip.textContent === mark.dataset.tip;
  const arrow = (key) => chart.querySelector(":scope > svg").dispatchEvent(new KeyboardEvent("keydown", { key }));
  arrow("ArrowRight");
  seen.next = tip.textContent === chart.querySelectorAll("[data-tip]")[1].dataset.tip;
  arrow("Escape");
  seen.tipAfter = tip.offsetHeight;
  const box = document.querySelector(".table:has(.filter)");
  const field = box.querySelector(".filter");
  const rows = [...box.querySelectorAll("tbody tr")];
  field.value = rows[0].textContent.toUpperCase();
  field.dispatchEvent(new Event("input"));
  seen.kept = rows.filter((row) => !row.hidden).map((row) => row.textContent);
  seen.wanted = rows[0].textContent;
  const column = [...box.querySelectorAll("thead button")].findIndex((each) => each.textContent === "MACs");
  const values = () => [...box.querySelectorAll("tbody tr")].map((row) => Number(row.cells[column].dataset.value));
  box.querySelectorAll("thead button")[column].click();
  seen.ascending = values();
  box.querySelectorAll("thead button")[column].click();
  seen.descending = values();
  document.documentElement.dataset.seen = JSON.stringify(seen);
});
"""


def opened(page: Path, folder: Path) -> dict[str, str | None]:
    """The attributes of `<html>` after a browser, its profile in a new `folder`, has run the page's script."""
    assert BROWSER is not None
    command = [BROWSER, *OPTIONS, f"--user-data-dir={folder}", "--dump-dom", page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return Parsed(done.stdout).named("html")[0]


def with_script(html: str, script: str) -> str:
    """The page with one more script that its policy allows."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = html.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    return allowed.replace("</body>", f"<script>{script}</script></body>")


def test_page_draws_every_mark_and_answers(tmp_path: Path) -> None:
    run = write_run(tmp_path / HOSTILE.replace("/", "|"))
    page = report(Report((run, EVIDENCE / "quickstart.json"), tmp_path / "page.html"))
    page.write_text(with_script(page.read_text(encoding="utf-8"), HOOK), encoding="utf-8")
    root = opened(page, tmp_path / "profile")
    assert (root.get("data-ready"), root.get("data-errors")) == ("true", "0")

    ours, theirs = sample_searches(), record_searches(quickstart())
    own = [marks([ours]), marks([theirs])]
    expected = {kind: sum(each[kind] for each in own) for kind in own[0]}
    # side by side, curves and trials come again; both labels of "random search" stay apart
    expected = {kind: count * (1 if kind == "stage" else 2) for kind, count in expected.items()}
    expected["budget"] -= 1  # one chart holds the trials of both
    expected["front"] -= 1
    rewards = quickstart()["results"]["meta_rewards"]
    means = np.cumsum(rewards) / np.arange(1, len(rewards) + 1)
    expected["curve"] += 1  # of meta-training
    expected["change"] += 1 + int(np.count_nonzero(np.diff(means)))
    assert json.loads(root["data-marks"] or "") == expected

    seen = json.loads(root["data-seen"] or "")
    assert seen["shown"] > 0
    assert (seen["hidden"], seen["pressed"]) == (0, "false")
    assert seen["again"] == seen["shown"]
    assert (seen["tipBefore"], seen["tip"], seen["next"], seen["tipAfter"]) == (0, True, True, 0)
    assert set(seen["kept"]) == {seen["wanted"]}
    assert len(set(seen["ascending"])) > 1
    assert seen["ascending"] == sorted(seen["ascending"])
    assert seen["descending"] == seen["ascending"][::-1]


def test_policy_stops_what_the_page_did_not_bring(tmp_path: Path) -> None:
    """What a hole in the escaping could let in: neither a script nor a picture from elsewhere is let through."""
    page = report(Report((EVIDENCE / "quickstart.json",), tmp_path / "page.html"))
    foreign = '<script>document.documentElement.dataset.ran = "true"</script><img src="https://report.invalid/x.png">'
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{foreign}</body>"), encoding="utf-8")
    root = opened(page, tmp_path / "profile")
    assert "data-ran" not in root
    assert root.get("data-ready") == "true"
    assert root.get("data-errors") == "2"
