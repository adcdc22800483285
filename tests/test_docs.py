"""README, changelog, docs/: links lead somewhere, named files and names exist, commands parse, README's code runs."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOTS = ("rcnas_env", "agents", "experiments", "benchmarks", "tests", "examples", "docs")
PLACEHOLDERS = {"NAME": "", "TARGETS": "all"}
"""What stands for something in a page's commands, and what to put there; nothing: the command is passed over."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchors(text: str) -> set[str]:
    """What `page.md#…` may name: the headings in lower case, spaces as hyphens, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(text: str) -> list[str]:
    """All code in a page: each line of a block, each span in backticks with its line breaks undone."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    lines += [line.strip() for line in rest.splitlines() if line.startswith("    ")]
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]


def commands(text: str) -> set[tuple[str, ...]]:
    """Words of every `python -m …`, the module first; with options in [brackets], without `…` and `> FILE`."""
    found = set()
    for line in code(text):
        if called := re.match(r"(?:\w+=\w+ )*python -m (.*)", line):
            words = shlex.split(re.sub(r"…|> \S+|[\[\]]", " ", called[1]), comments=True)
            if PLACEHOLDERS.get(words[0].split(".")[-1]) is None:
                found.add(tuple(PLACEHOLDERS.get(word, word) for word in words))
    return found


ALL_COMMANDS = sorted(set().union(*(commands(page.read_text(encoding="utf-8")) for page in PAGES)))
COMMANDS = [words for words in ALL_COMMANDS if len(words) > 1]
MODULES = sorted({words[0] for words in ALL_COMMANDS})


@every_page
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


@every_page
def test_the_files_and_names_of_the_project_that_a_page_names_exist(page: Path) -> None:
    missing = []
    for span in code(page.read_text(encoding="utf-8")):
        path = re.fullmatch(rf"((?:{'|'.join(ROOTS)})/[\w./-]+|test_\w+)(?:::\w+)?", span)
        if path and not (ROOT / path[1]).exists() and not (ROOT / "tests" / f"{path[1]}.py").exists():
            missing.append(span)
        name = re.match(rf"((?:{'|'.join(ROOTS[:4])})(?:\.\w+)+)(?=$|[(=])", span)
        if name and name[1].split(".")[-1] not in PLACEHOLDERS and not known(name[1]):
            missing.append(span)
    assert missing == []


def known(name: str) -> bool:
    """Whether the dotted `name` is a module, or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ImportError:
        return bool(module) and hasattr(importlib.import_module(module), attribute)
    return True


def runnable(name: str) -> Any:
    """The module that `python -m name` runs."""
    return importlib.import_module("rcnas_env.data.__main__" if name == "rcnas_env.data" else name)


class Parsed(BaseException):
    """Thrown as soon as a command line was taken, before any work; no `except Exception` holds it up."""


def then_stop(parse: Callable[..., Any]) -> Callable[..., Any]:
    """`parse`, which throws Parsed when it would return."""

    def parsed(*args: Any, **kwargs: Any) -> Any:
        parse(*args, **kwargs)
        raise Parsed

    return parsed


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_command_lines_of_the_pages_are_taken(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    name, *arguments = words
    program = runnable(name)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    if name == "rcnas_env.data":
        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", then_stop(argparse.ArgumentParser.parse_args))
    else:
        monkeypatch.setattr(tyro, "cli", then_stop(tyro.cli))
    with pytest.raises(Parsed):
        program.main()


def test_the_modules_that_the_pages_run_have_a_command_line() -> None:
    assert [name for name in MODULES if not callable(getattr(runnable(name), "main", None))] == []


def test_commands_are_found_and_wrong_ones_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Do `A=1 python -m experiments.store\nls [--store X] > out` or\n\n    python -m benchmarks.env  # no"
    assert commands(text) == {("experiments.store", "ls", "--store", "X"), ("benchmarks.env",)}
    assert len(COMMANDS) > 20 and len(MODULES) > 20
    monkeypatch.setattr(sys, "argv", ["matrix", "--no-such-option"])
    monkeypatch.setattr(tyro, "cli", then_stop(tyro.cli))
    with pytest.raises(SystemExit):
        importlib.import_module("experiments.matrix").main()


def test_the_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        found[1]
        for page in PAGES
        for span in code(page.read_text(encoding="utf-8"))
        if (found := re.match(r"make ([a-z-]+)", span))
    }
    assert {"demo", "test", "bench"} <= named <= targets


README_BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGES[0].read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_readme_s_settings_and_learner_are_taken() -> None:
    assert len(README_BLOCKS) == 3
    namespace: dict[str, Any] = {}
    imports = "\n".join(line for line in README_BLOCKS[0].splitlines() if line.startswith("import "))
    for number, block in enumerate([imports, *README_BLOCKS[1:]]):
        exec(compile(block, f"README.md, block {number}", "exec"), namespace)
    assert namespace["env"].unwrapped.action_space.contains(namespace["env"].action_space.sample())
    namespace["env"].close()


def test_the_agents_page_s_search_and_learner_on_several_tasks_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    search, learner = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(compile(search, "docs/agents.md, search", "exec"), namespace)
    assert len(namespace["trials"]) == 100 and all(trial.within_budget for trial in namespace["trials"])
    exec(compile(learner, "docs/agents.md, learner", "exec"), {})
    assert -1 <= float(capsys.readouterr().out) <= 2  # a reward


@pytest.mark.slow
def test_the_readme_s_first_step_trains_for_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RCNAS_STORE", str(tmp_path))
    exec(compile(README_BLOCKS[0], "README.md, block 0", "exec"), {})
    assert "robust_accuracy" not in capsys.readouterr().out  # values, not names
    assert list(tmp_path.rglob("*.safetensors"))
