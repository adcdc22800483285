"""Verdicts on Lemma 3.1 and Theorem 3.2, from what `experiments.theory_check` measured (docs/theory.md).

An inequality is *confirmed* if on every compressed network the exact 95 % interval of its chance to hold over seeds
lies above a half: it holds more often than not, however the network was compressed. Else *not confirmed*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.claim_list import LEMMA, THEOREM, Claim
from experiments.claim_verdict import Outcome, Verdict

Findings = Sequence[Mapping[str, Any]]
"""`results.findings` of a record of `experiments.theory_check`: in how many seeds an inequality held on a network."""

INEQUALITIES = {LEMMA: "Lemma 3.1: max ΔL ≤ full's, every t", THEOREM: "Theorem 3.2: max ‖v‖ ≤ full's"}
"""Id of a claim → `experiments.theory.verdict`'s name of its inequality."""


def judge_theory(claim: Claim, findings: Findings | None) -> Verdict:
    """A verdict on one of the claims in `INEQUALITIES`; None for none measured.

    Raises:
        ValueError: there are findings, but none of this inequality.
    """
    if findings is None:
        where = "no part of this run: `python -m experiments.theory_check` measures both sides (docs/theory.md)."
        return Verdict(claim, "untested", where)
    found = [each for each in findings if each["claim"] == INEQUALITIES[claim.id] and each["network"] != "full"]
    if not found:
        raise ValueError(f"findings must have {INEQUALITIES[claim.id]!r}, got none of it")
    outcome: Outcome = "confirmed" if all(each["low"] > 0.5 for each in found) else "not confirmed"
    held = ", ".join(f"{each['network']} {each['held']}" for each in found)
    seeds = " or ".join(map(str, sorted({each["seeds"] for each in found})))
    text = f"of {seeds} seeds it held in, by what is kept of the full network: {held}. In full: docs/theory.md."
    return Verdict(claim, outcome, text)
