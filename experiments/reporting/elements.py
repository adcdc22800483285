"""HTML and SVG elements. Text and attributes are escaped when the page is written: no caller can forget it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable

Element = ET.Element
"""A node of the page; only `markup` turns it into text."""

Child = Element | str | None
"""What an element holds; None is left out."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """`<tag attributes>children</tag>`.

    Args:
        tag: its name, a literal of the program, never a word of a record.
        children: elements and texts in their order.
        attributes: names with "_" for "-" ("class_" for "class"); True stands for an attribute without a value, None
            and False leave it out, floats are rounded to hundredths.
    """
    node = ET.Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            node.set(name.rstrip("_").replace("_", "-"), _attribute(value))
    return extend(node, children)


def extend(node: Element, children: Iterable[Child]) -> Element:
    """Append elements and texts to `node`; returns it."""
    for child in children:
        if isinstance(child, str):
            if len(node):
                node[-1].tail = (node[-1].tail or "") + child
            else:
                node.text = (node.text or "") + child
        elif child is not None:
            node.append(child)
    return node


def markup(node: Element) -> str:
    """The element as HTML. Control characters and lone surrogates, which no page may hold, become U+FFFD."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", ET.tostring(node, encoding="unicode", method="html"))


def _attribute(value: object) -> str:
    if value is True:
        return ""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
