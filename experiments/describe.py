"""Print what networks are and what they cost.

Examples:
    python -m experiments.describe WRN-28-10 RobustResNet-A1 student.json
    python -m experiments.describe WRN-34-12 --input 3x64x64 --classes 200 --json
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from rcnas_env.architecture import read_network, require_input_shape
from rcnas_env.cost import cost


@dataclass(frozen=True)
class Describe:
    """Print the stages, parameters and multiply-accumulates (MACs) of networks."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME_OR_FILE [...]")]
    """One network or more: a name (WRN-28-10, RobustResNet-A1, WRN-34-R, any WRN-d-w) or the JSON file of a spec."""

    input: str = "3x32x32"
    """One image, channels x height x width (CIFAR's by default); a JSON file's own holds for that file."""

    classes: int = 10
    """Number of classes (CIFAR-10's by default); a JSON file's own holds for that file."""

    json: bool = False
    """Print a JSON list, one entry a network, in place of the table."""


def describe(names: Sequence[str], input: tuple[int, int, int], classes: int) -> list[dict[str, Any]]:
    """One entry a network, in order: its name as given, `spec` (the JSON form), `params`, `macs` of one image.

    Raises:
        ValueError: a name is unknown, a file holds no valid spec, or `input` or `classes` is out of range.
        OSError: the file system rejects a name, such as one that is too long.
    """
    entries = []
    for name in names:
        spec = read_network(name, input=input, classes=classes)
        total = cost(spec)
        entries.append({"name": name, "spec": spec.to_dict(), "params": total.params, "macs": total.macs})
    return entries


def parse_input(text: str) -> tuple[int, int, int]:
    """Read "CxHxW", three positive integers.

    Raises:
        ValueError: `text` is anything else.
    """
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})x([0-9]{1,9})", text)
    if match is None:
        raise ValueError(f"--input must be CxHxW, three positive integers such as 3x32x32, got {text!r}")
    return require_input_shape("--input", tuple(map(int, match.groups())))


def _in_units(count: int) -> str:
    """`count` with three digits or so and its unit: 36479194 → "36.5 M"."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.{1 if count >= 10 * unit else 2}f} {name}"
    return str(count)


def _stage_line(stage: dict[str, Any]) -> str:
    kind = "robust" if stage["robust"] else "basic"
    return f"{stage['depth']} x {stage['planes']} {kind}" + (", stride 2" if stage["downsample"] else "")


def _printable(name: str) -> str:
    """`name`, with backslashes in place of what no text has: bytes of a file's name that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _layout(spec: dict[str, Any]) -> str:
    """What the network is made of: a line a stage, or its cells."""
    if "stages" not in spec:
        return f"{spec['layers']} cells, {spec['channels']} channels"
    return "\n".join(map(_stage_line, spec["stages"]))


def print_table(entries: Sequence[dict[str, Any]]) -> None:
    """Print the entries of `describe` as a table on stdout."""
    # Imported here, as --json and errors need none of it.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("network", overflow="fold")
    table.add_column("stages: depth x planes", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    for position, entry in enumerate(entries):
        spec = entry["spec"]
        if position:
            table.add_row()
        # Text, not str: square brackets in a file's name are no markup.
        table.add_row(
            Text(f"{_printable(entry['name'])}\n{'x'.join(map(str, spec['input']))}\n{spec['classes']} classes"),
            _layout(spec),
            *(f"{entry[field]:,}\n{_in_units(entry[field])}" for field in ("params", "macs")),
        )
    Console().print(table)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line `args` (the process's own if None); return its exit code, 2 after bad input."""
    config = tyro.cli(
        Describe, prog="python -m experiments.describe", args=args, config=(tyro.conf.FlagCreatePairsOff,)
    )
    try:
        if not config.names:
            raise ValueError("names must be one network or more, got none; try WRN-28-10, or --help")
        entries = describe(config.names, parse_input(config.input), config.classes)
    except (ValueError, OSError) as error:
        print(f"describe: error: {error}", file=sys.stderr)
        return 2
    if config.json:
        print(json.dumps(entries, indent=2))
    else:
        print_table(entries)
    return 0


if __name__ == "__main__":
    sys.exit(main())
