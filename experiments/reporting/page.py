"""The page: one HTML file that holds all it needs and that its own policy keeps off the network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from experiments.reporting.comparison_section import comparison_section
from experiments.reporting.elements import Element, element, markup
from experiments.reporting.run_folder import Run
from experiments.reporting.run_section import run_section

_STYLE = Path(__file__).with_name("page.css")
_SCRIPT = Path(__file__).with_name("page.js")


def page(runs: Sequence[Run], title: str) -> str:
    """The HTML of a report on `runs`: a section each, before them a comparison where there are two or more.

    Its Content-Security-Policy lets run nothing but the page's own script and style, by their hashes, and lets load
    nothing but the pictures inside the page.
    """
    sections = [run_section(run, f"run-{place}") for place, run in enumerate(runs, start=1)]
    comparison = comparison_section(runs) if len(runs) > 1 else None
    links = [element("a", run.name, href=f"#run-{place}") for place, run in enumerate(runs, start=1)]
    if comparison is not None:
        links.insert(0, element("a", "Comparison", href="#comparison"))
    navigation = element("nav", *links, aria_label="Sections", class_="no-print") if len(links) > 1 else None
    body = element(
        "body",
        element("header", element("h1", title), navigation),
        element("main", comparison, *sections),
        element("div", id="tip", role="status", hidden=True),
    )
    root = element("html", _head(title), body, lang="en")
    return f"<!DOCTYPE html>\n{markup(root)}\n"


def _head(title: str) -> Element:
    style, script = (path.read_text(encoding="utf-8") for path in (_STYLE, _SCRIPT))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", style),
        element("script", script),
    )


def _hash(text: str) -> str:
    """A source expression of Content-Security-Policy: the SHA-256 of an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
