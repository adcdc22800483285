"""Markdown of a run folder as elements; raw HTML, links and pictures in it stay the plain text that they are."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from markdown_it import MarkdownIt

from experiments.reporting.elements import Element

_FORBIDDEN_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ALIGNMENT = {"text-align:right": "number", "text-align:center": "centred"}


def markdown(text: str) -> Element:
    """CommonMark with tables, as a `<div class="markdown">`.

    Headings move three levels down, below the page's own. A table's alignment becomes a class, as the page's policy
    allows no style attributes.
    """
    parser = MarkdownIt("commonmark", {"html": False, "xhtmlOut": True}).enable("table")
    parser.disable(["link", "image", "autolink", "reference", "html_block", "html_inline"])
    whole = ET.fromstring(f"<div>{parser.render(_FORBIDDEN_IN_XML.sub('', text))}</div>")
    whole.set("class", "markdown")
    for node in whole.iter():
        if re.fullmatch("h[1-6]", node.tag):
            node.tag = f"h{min(6, int(node.tag[1]) + 3)}"
        style = node.attrib.pop("style", None)
        if style in _ALIGNMENT:
            node.set("class", _ALIGNMENT[style])
    for place, node in enumerate(list(whole)):
        if node.tag == "table":  # a wide one scrolls, not the page
            box = Element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "table"})
            box.tail, node.tail = node.tail, None
            box.append(node)
            whole[place] = box
    return whole
