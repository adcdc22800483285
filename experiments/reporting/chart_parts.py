"""What all charts share: the frame with its axes, series that can be told apart without colour, legend, figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.reporting.elements import Element, element
from experiments.reporting.scales import Scale, in_units, plain_number

WIDTH, HEIGHT = 720.0, 340.0
ACROSS, UP = (64.0, WIDTH - 16.0), (HEIGHT - 46.0, 14.0)
"""From where to where a frame's axes go: x from the left, y from the bottom."""
COLOURS = 6
"""Colours of page.css, .s0 … .s5."""

_DASHES = ("", "7 4", "2 3", "9 3 2 3")
_SIDES = (0, 4, 3, 5, 6)
"""Corners of a series' marker: a circle, a square, a triangle, …"""


@dataclass(frozen=True)
class Series:
    """The looks of one label in a chart: colour by index, marker and dashes that go on where colours repeat."""

    index: int
    label: str

    @property
    def colour(self) -> str:
        """Class of page.css that sets --series."""
        return f"s{self.index % COLOURS}"

    @property
    def dashes(self) -> str | None:
        """stroke-dasharray of its lines; None for a whole line."""
        return _DASHES[(self.index + self.index // COLOURS) % len(_DASHES)] or None

    def marker(self, x: float, y: float, radius: float = 4.5, **attributes: object) -> Element:
        """Its marker at (x, y)."""
        sides = _SIDES[(self.index + self.index // COLOURS) % len(_SIDES)]
        if sides == 0:
            return element("circle", cx=x, cy=y, r=radius, **attributes)
        turn = math.pi / 4 if sides == 4 else -math.pi / 2
        corners = ((turn + 2 * math.pi * k / sides, radius * 1.25) for k in range(sides))
        points = " ".join(f"{x + r * math.cos(a):.2f},{y + r * math.sin(a):.2f}" for a, r in corners)
        return element("polygon", points=points, **attributes)


def axes(x: Scale, y: Scale, x_heading: str, y_heading: str, *, x_units: bool = False) -> Element:
    """Grid, ticks and headings of a chart; with `x_units`, ticks of x are written "200 k", "1 M"."""
    parts = []
    for tick in y.ticks():
        parts.append(element("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(element("text", plain_number(tick), x=x.start - 8, y=y(tick) + 4, text_anchor="end"))
    for tick in x.ticks(6):
        parts.append(element("line", x1=x(tick), x2=x(tick), y1=y.start, y2=y.start + 5, class_="tick"))
        label = in_units(tick) if x_units else plain_number(tick)
        parts.append(element("text", label, x=x(tick), y=y.start + 19, text_anchor="middle"))
    parts.append(element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    middle = (x.start + x.end) / 2
    parts.append(element("text", x_heading, x=middle, y=y.start + 39, text_anchor="middle", class_="heading"))
    turned = f"translate(15 {(y.start + y.end) / 2:.1f}) rotate(-90)"
    parts.append(element("text", y_heading, transform=turned, text_anchor="middle", class_="heading"))
    return element("g", *parts, class_="axes", aria_hidden="true")


def legend(series: Sequence[Series], marks: bool = True) -> Element:
    """A button for each series, which page.js lets show and hide it."""
    buttons = []
    for each in series:
        swatch = element("svg", viewBox="0 0 30 14", width=30, height=14, aria_hidden="true")
        swatch.append(element("line", x1=1, x2=29, y1=7, y2=7, stroke_dasharray=each.dashes, class_="line"))
        if marks:
            swatch.append(each.marker(15, 7, 4.0, class_="dot"))
        buttons.append(
            element(
                "button",
                swatch,
                element("span", each.label),
                type="button",
                class_=each.colour,
                aria_pressed="true",
                data_series=each.index,
            )
        )
    return element("div", *buttons, class_="legend", role="group", aria_label="Show or hide")


def chart_svg(title: str, description: str, parts: Sequence[Element], height: float = HEIGHT) -> Element:
    """An `<svg>` with text alternatives; arrow keys move over its marks (page.js)."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *parts,
        viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
        role="img",
        aria_label=f"{title}. {description}",
        tabindex=0,
    )


def figure(kind: str, title: str, note: str, chart: Element, legend: Element, numbers: Element) -> Element:
    """A chart with its title, a note on how to read it, its legend, and its numbers as a table to unfold."""
    caption = element("figcaption", element("strong", title), element("span", f" {note}"))
    table = element("details", element("summary", "The numbers"), numbers, class_="numbers")
    return element("figure", caption, legend, chart, table, class_="chart", data_chart=kind)
