"""What becomes of a claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments.claim_list import Claim
from experiments.claim_statistics import Tally

Outcome = Literal["confirmed", "not confirmed", "untested"]

SHOWN_LOSSES = 3
"""Lost comparisons that the evidence names, the worst first."""


@dataclass(frozen=True)
class Verdict:
    """What became of a claim; `tally` is None where no comparisons were counted."""

    claim: Claim
    outcome: Outcome
    evidence: str
    tally: Tally | None = None
