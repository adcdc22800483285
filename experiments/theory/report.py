"""The theory check as tables and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.figures import COLOURS, TEACHER_GREY
from experiments.theory.comparison import FULL, Outcome
from experiments.theory.settings import TheorySettings
from experiments.theory.verdict import CONFIDENCE, Finding

NOTES = f"""
v: dense mixture (Eq. 7); ΔL: gradient movement (Eq. 14), the estimate in which sampling noise does not count; T: end
of clean training. Claims: seeds in which each held, and by the exact {CONFIDENCE:.0%} interval of its chance whether
it held more often than not (held), less often (failed), or neither is shown (open); then the sign test's p. Robust
accuracy: no attack tried turned the answer, an upper bound.
"""

Outcomes = Sequence[Mapping[str, Outcome]]
"""By seed, then by network."""


def network_rows(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Means over seeds, a row a network; `clean` and `adversarial` tell after which training."""
    rows = []
    for name, first in outcomes[0].items():
        mine = [outcome[name] for outcome in outcomes]
        row: dict[str, Any] = {"network": name, "neurons": first.neurons, "weights": first.weights}
        for field in ("movement", "mean_movement", "free_movement"):
            row[field] = np.mean([getattr(each, field) for each in mine], axis=0).tolist()
        for field in ("full_by_chance", "constant"):
            row[field] = float(np.mean([getattr(each, field) for each in mine]))
        for phase in ("clean", "adversarial"):
            states = [vars(getattr(each, phase)) for each in mine]
            row[phase] = {field: float(np.mean([state[field] for state in states])) for field in states[0]}
        rows.append(row)
    return rows


def networks_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Means over seeds as Markdown; an arrow leads from after clean to after adversarial training."""
    heads = ["network", "N", "weights", "max ‖v‖", "κ = 1", "mean ‖v‖", "dense share", "1000 max ΔL at T",
             "1000 mean ΔL at T", "accuracy, %", "robust, %"]  # fmt: skip
    lines = []
    for row in rows:
        clean, after = row["clean"], row["adversarial"]
        figures = [(field, 1, 3) for field in ("mixture", "mixture_strict", "mean_mixture", "dense_share")]
        percent = [(field, 100, 1) for field in ("accuracy", "robust_accuracy")]
        texts = [
            f"{scale * clean[f]:.{digits}f} → {scale * after[f]:.{digits}f}" for f, scale, digits in figures + percent
        ]
        moved = [f"{1000 * row[field][0]:.2f}" for field in ("movement", "mean_movement")]
        lines.append([row["network"], str(row["neurons"]), f"{row['weights']:,}", *texts[:4], *moved, *texts[4:]])
    return _markdown(heads, lines)


def claims_table(found: Sequence[Finding]) -> str:
    """A row a claim, a column a network, as Markdown."""
    networks, claims = (list(dict.fromkeys(getattr(each, f) for each in found)) for f in ("network", "claim"))
    networks.sort(key=lambda name: name != FULL)
    cells = {
        (each.claim, each.network): f"{each.word} {each.held}/{each.seeds}, p {each.sign_test:.2g}" for each in found
    }
    lines = [[claim, *(cells.get((claim, name), "–") for name in networks)] for claim in claims]
    return _markdown(["claim", *networks], lines)


def report(settings: TheorySettings, outcomes: Outcomes, found: Sequence[Finding]) -> str:
    """The whole of table.md."""
    title = (
        f"# Section 3.4 measured: D = {settings.dimension}, k = {settings.sparsity}, N = {settings.neurons}, "
        f"τ = {settings.radius:g}, κ = {settings.threshold:g}, {len(outcomes)} seeds\n"
    )
    return "\n".join([title, networks_table(network_rows(outcomes)), claims_table(found), NOTES])


def theory_figure(settings: TheorySettings, outcomes: Outcomes, path: Path) -> None:
    """Draw mixtures, gradient movement and robust accuracy of all networks, and save them to `path`."""
    figure = Figure(figsize=(12.0, 4.0), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    mixtures, movement, accuracy = figure.subplots(1, 3)
    _draw_pairs(mixtures, outcomes, "mixture", "max ‖v‖ (Theorem 3.2)", 1)
    _draw_movement(movement, settings, outcomes)
    _draw_pairs(accuracy, outcomes, "robust_accuracy", "robust accuracy, %", 100)
    for panel in (mixtures, movement, accuracy):
        panel.spines[["top", "right"]].set_visible(False)
        panel.title.set_fontsize(10)
    figure.savefig(path)


def _style(name: str) -> dict[str, Any]:
    """Colour by the kind of compression."""
    kinds = ("width", "edges", "atoms")
    return {"color": TEACHER_GREY if name == FULL else COLOURS[kinds.index(name.split()[0])]}


def _draw_pairs(panel: Axes, outcomes: Outcomes, field: str, title: str, scale: float) -> None:
    """A dot a seed: hollow after clean training, filled after adversarial training."""
    names = list(outcomes[0])
    for place, name in enumerate(names):
        for phase, offset, face in (("clean", -0.18, "none"), ("adversarial", 0.18, _style(name)["color"])):
            values = [scale * getattr(getattr(outcome[name], phase), field) for outcome in outcomes]
            x = place + offset + np.linspace(-0.08, 0.08, len(values))
            panel.scatter(x, values, s=14, facecolors=face, edgecolors=_style(name)["color"], linewidths=0.8)
    panel.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=8)
    panel.set(title=title)
    panel.set_ylim(bottom=0)
    panel.scatter([], [], s=14, facecolors="none", edgecolors="#555555", label="after clean training")
    panel.scatter([], [], s=14, color="#555555", label="after adversarial training")
    panel.legend(fontsize=7, frameon=False)


def _draw_movement(panel: Axes, settings: TheorySettings, outcomes: Outcomes) -> None:
    """Mean over seeds at each checkpoint."""
    seen: dict[str, int] = {}
    for name in outcomes[0]:
        curve = 1000 * np.mean([outcome[name].movement for outcome in outcomes], axis=0)
        line = ("-", "--", ":", "-.")[seen.setdefault(name.split()[0], 0) % 4]
        seen[name.split()[0]] += 1
        panel.plot(settings.moments(), curve, line, marker="o", markersize=3, label=name, **_style(name))
    panel.set_xscale("symlog", linthresh=1)
    panel.set(title="gradient movement (Lemma 3.1)", xlabel="step of adversarial training", ylabel="1000 max ΔL, mean")
    panel.legend(fontsize=7, frameon=False)


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rules = ["---", *["--:"] * (len(heads) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rules, *lines))
