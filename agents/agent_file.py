"""Agents whose state is a few JSON values: the file that they are saved to, and its head."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnas_env.strict_json import parse_json
from rcnas_env.validation import require_fields
from rcnas_env.whole_files import write_json

FORMAT = 1


def write_agent(path: str | os.PathLike[str], name: str, state: Mapping[str, Any]) -> None:
    """Write an agent's `state`, JSON values, to a file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    write_json(path, {"format": FORMAT, "agent": name, **state})


def read_agent(path: str | os.PathLike[str], name: str, fields: tuple[str, ...]) -> dict[str, Any]:
    """The `fields`, all of them and no other, of what `write_agent` wrote for the agent called `name`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, of another agent or format, or has other fields.
    """
    try:
        found = parse_json(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"agent file must be JSON, but {error}") from None
    content = require_fields("agent file", found, ("format", "agent", *fields))
    if (content["format"], content["agent"]) != (FORMAT, name):
        given = f"{content['agent']!r} in format {content['format']!r}"
        raise ValueError(f"agent file must hold {name!r} in format {FORMAT}, got {given}")
    return {field: content[field] for field in fields}
