"""The chart of what remains of each stage: width and depth, the teacher beside what each search delivered."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from experiments.reporting.chart_parts import ACROSS, HEIGHT, Series, chart_svg, figure, legend
from experiments.reporting.data_tables import Value, data_table
from experiments.reporting.elements import Element, element
from experiments.reporting.front_chart import layout
from experiments.reporting.scales import Scale, plain_number
from experiments.reporting.searches import Search, by_label
from rcnas_env.architecture import NetworkSpec, StageSpec

GAP = 56.0
TOP, FLOOR = 34.0, 34.0
_QUANTITIES = (("width", "width in planes", "planes"), ("depth", "depth in blocks", "depth"))

Networks = Sequence[tuple[Series | None, list[NetworkSpec]]]
"""The teacher (None) and each label, with a network for each seed."""


def stage_chart(searches: Sequence[Search], name: str) -> Element:
    """The figure of the teacher and the students that `searches`, all on one task, delivered.

    A label's bar is the mean over its seeds. It is hatched where most of them have robust blocks in that stage.

    Args:
        searches: one or more.
        name: unique in the page, for the hatching's reference.
    """
    teacher = searches[0].task.teacher
    groups = by_label(searches)
    series = [Series(place, label) for place, label in enumerate(groups)]
    students = [[search.student for search in mine] for mine in groups.values()]
    networks: Networks = [(None, [teacher]), *zip(series, students, strict=True)]
    stages = max(len(network.stages) for _, each in networks for network in each)
    left, right = ACROSS
    middle = (left + right) / 2
    panels = ((left, middle - GAP / 2), (middle + GAP / 2, right))
    parts = [_hatching(name)]
    for (quantity, heading, field), ends in zip(_QUANTITIES, panels, strict=True):
        parts.append(_panel(networks, stages, quantity, heading, field, ends, name))
    title = "Architecture, stage by stage"
    note = "Grey: the teacher. Hatched: robust blocks."
    if any(len(each) > 1 for each in students):
        note += " Bars are means over seeds."
    rows = [[who, seed, *_row(network)] for who, seed, network in _named(teacher, searches)]
    description = "; ".join(f"{who}: {layout(network)}" for who, _, network in _named(teacher, searches)[:8])
    headings = ["network", "seed", *(f"stage {place + 1}" for place in range(stages))]
    numbers = data_table(headings, rows, "Stages: depth × planes")
    return figure("stages", title, note, chart_svg(title, f"{description}.", parts), legend(series, False), numbers)


def _hatching(name: str) -> Element:
    line = element("path", d="M0 6 L6 0 M-1 1 L1 -1 M5 7 L7 5", class_="hatch")
    pattern = element("pattern", line, id=f"{name}-hatch", width=6, height=6, patternUnits="userSpaceOnUse")
    return element("defs", pattern)


def _panel(
    networks: Networks,
    stages: int,
    quantity: str,
    heading: str,
    field: str,
    ends: tuple[float, float],
    name: str,
) -> Element:
    most = max(getattr(stage, field) for _, each in networks for network in each for stage in network.stages)
    y = Scale(0.0, most * 1.05, HEIGHT - FLOOR, TOP)
    start, end = ends
    parts = [element("text", heading, x=(start + end) / 2, y=18, text_anchor="middle", class_="heading")]
    for tick in y.ticks():
        if quantity == "width" or tick == int(tick):  # there are no half blocks
            parts.append(element("line", x1=start, x2=end, y1=y(tick), y2=y(tick), class_="grid"))
            parts.append(element("text", plain_number(tick), x=start - 8, y=y(tick) + 4, text_anchor="end"))
    room = (end - start) / stages
    bar = min(34.0, 0.82 * room / len(networks))
    for place in range(stages):
        middle = start + (place + 0.5) * room
        parts.append(element("text", f"stage {place + 1}", x=middle, y=HEIGHT - FLOOR + 20, text_anchor="middle"))
        for position, (series, each) in enumerate(networks):
            there = [network.stages[place] for network in each if place < len(network.stages)]
            if there:
                left = middle + (position - len(networks) / 2) * bar
                parts.append(_bar(series, there, place, field, left, bar, y, name))
    parts.append(element("line", x1=start, x2=end, y1=y.start, y2=y.start, class_="axis"))
    return element("g", *parts, class_="axes")


def _bar(
    series: Series | None,
    stages: list[StageSpec],
    place: int,
    field: str,
    left: float,
    width: float,
    y: Scale,
    name: str,
) -> Element:
    value = fmean(getattr(stage, field) for stage in stages)
    tip = f"{series.label if series else 'teacher'}, stage {place + 1}\n{_in_words(stages)}"
    box = {"x": left + 0.5, "y": y(value), "width": width - 1.0, "height": y.start - y(value)}
    bar = element("rect", **box, class_="bar", data_mark="stage", data_tip=tip)
    robust = sum(stage.robust for stage in stages) * 2 > len(stages)
    hatched = element("rect", **box, fill=f"url(#{name}-hatch)", class_="hatched") if robust else None
    looks = series.colour if series else "teacher"
    return element("g", bar, hatched, class_=looks, data_series=series.index if series else None)


def _in_words(stages: list[StageSpec]) -> str:
    if len(stages) == 1:
        stage = stages[0]
        kind = f"robust blocks ({stage.out_channels} channels out)" if stage.robust else "basic blocks"
        return f"{stage.planes} planes, depth {stage.depth}, {kind}{', down-samples' if stage.downsample else ''}"
    robust, strided = sum(stage.robust for stage in stages), sum(stage.downsample for stage in stages)
    planes, depth = fmean(stage.planes for stage in stages), fmean(stage.depth for stage in stages)
    return (
        f"mean of {len(stages)} seeds: {planes:.4g} planes, depth {depth:.3g}\n"
        f"robust blocks in {robust}, down-sampling in {strided}"
    )


def _named(teacher: NetworkSpec, searches: Sequence[Search]) -> list[tuple[str, int | None, NetworkSpec]]:
    return [("teacher", None, teacher), *((search.label, search.seed, search.student) for search in searches)]


def _row(network: NetworkSpec) -> list[Value]:
    return list(layout(network).split(", "))
