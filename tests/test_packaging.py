"""What gets installed where: the wheel others receive, the pinned requirements of our own environment, import cost."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import rcnas_env

ROOT = Path(__file__).resolve().parent.parent
PINNED = ROOT / "requirements" / "pinned.txt"
NO_DEPS = ROOT / "requirements" / "no-deps.txt"

# Optional parts that `make install` leaves out: none, the tests use them all.
EXTRAS_NOT_INSTALLED: set[str] = set()

# Spelled in halves, so that this file is not among those it finds.
REGISTRY_ADDRESS = re.compile(
    "|".join(
        [
            "find" + "-links",
            "(extra-)?index" + "-url",
            "py" + r"pi\.(org|python\.org)/simple",
            "python" + r"hosted\.org",
            "download\\.py" + r"torch\.org",
        ]
    )
)


def project_files() -> list[Path]:
    """Every file that a commit of the present tree would hold, or, outside git, every one not in a made folder."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
        files = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        made = {".git", ".venv", "build", "dist", "runs", "wandb", "__pycache__"}
        files = [
            path
            for path in ROOT.rglob("*")
            if not any(part in made or part.endswith((".egg-info", "_cache")) for part in path.relative_to(ROOT).parts)
        ]
    return sorted(path for path in files if path.is_file())


def requirements(path: Path) -> list[Requirement]:
    """The requirements listed in the file at `path`."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def declared() -> Iterator[tuple[str, Requirement]]:
    """(extra or "", requirement) for each requirement that setup.cfg declares."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    parts = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    for extra, text in parts.items():
        for line in text.split("\n"):
            if line.strip() and not line.startswith("#"):
                yield extra, Requirement(line)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip install .` builds, from a copy: a build leaves folders behind in its source."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in project_files():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", target]
    build = subprocess.run(command, cwd=source, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert build.returncode == 0, build.stdout
    (built,) = target.glob("*.whl")
    return zipfile.ZipFile(built)


def test_wheel_claims_no_name_but_ours(wheel: zipfile.ZipFile) -> None:
    top_level = {name.split("/")[0] for name in wheel.namelist()}
    assert top_level == {"rcnas_env", f"rcnas-{rcnas_env.__version__}.dist-info"}


def test_wheel_holds_all_of_the_package(wheel: zipfile.ZipFile) -> None:
    package = {path.relative_to(ROOT).as_posix() for path in project_files() if ROOT / "rcnas_env" in path.parents}
    assert {name for name in wheel.namelist() if name.startswith("rcnas_env/")} == package
    assert "rcnas_env/py.typed" in package


def test_wheel_says_what_it_needs_and_its_licence(wheel: zipfile.ZipFile) -> None:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    fields = importlib.metadata.PathDistribution(zipfile.Path(wheel, metadata.removesuffix("METADATA"))).metadata
    needs = {Requirement(text).name for text in fields.get_all("Requires-Dist") if "extra ==" not in text}
    assert needs == {requirement.name for extra, requirement in declared() if extra == ""}
    assert (fields["Version"], fields["Requires-Python"]) == (rcnas_env.__version__, ">=3.11")
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


@pytest.mark.parametrize("path", [PINNED, NO_DEPS], ids=lambda path: path.name)
def test_every_requirement_is_pinned_once_and_exactly(path: Path) -> None:
    listed = requirements(path)
    assert listed
    loose = [str(each) for each in listed if not re.fullmatch(r"==[0-9][^*,]*", str(each.specifier))]
    assert loose == []
    names = [canonicalize_name(each.name) for each in listed]
    assert len(names) == len(set(names))


def test_pins_meet_what_is_declared() -> None:
    pins = {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in requirements(PINNED) + requirements(NO_DEPS)
    }
    unmet = [
        f"{requirement} ({extra or 'always'}): pinned {pins.get(canonicalize_name(requirement.name))}"
        for extra, requirement in declared()
        if extra not in EXTRAS_NOT_INSTALLED
        and not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    ]
    assert unmet == []


def test_pins_leave_nothing_to_be_resolved() -> None:
    """Each installed package's own requirements, on this platform, are pinned too."""
    pins = {canonicalize_name(each.name) for each in requirements(PINNED)}
    missing = {
        f"{needed.name} (of {each.name})"
        for each in requirements(PINNED)
        if each.marker is None or each.marker.evaluate()
        for needed in map(Requirement, importlib.metadata.requires(each.name) or [])
        if needed.marker is None or needed.marker.evaluate({"extra": ""})
        if canonicalize_name(needed.name) not in pins
    }
    assert missing == set()


def test_no_file_names_a_package_registry() -> None:
    named = []
    for path in project_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        named += [f"{path.relative_to(ROOT)}: {found.group()}" for found in REGISTRY_ADDRESS.finditer(text)]
    assert named == []


def test_the_search_for_registries_finds_them() -> None:
    for line in ("--index" + "-url x", "https://py" + "pi.org/simple/torch", "https://files.python" + "hosted.org/a"):
        assert REGISTRY_ADDRESS.search(line)


def test_importing_the_package_is_cheap() -> None:
    """Registering the environments loads none of the heavy libraries, and takes < 0.5 s of CPU beyond gymnasium's."""
    program = (
        "import json, sys, time, gymnasium\n"
        "start = time.process_time()\n"
        "import rcnas_env\n"
        "print(json.dumps([time.process_time() - start, sorted(sys.modules)]))\n"
    )
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", program], cwd=ROOT)) for _ in range(3)]
    loaded = set(runs[0][1])
    assert "rcnas_env" in loaded
    assert loaded & {"torch", "torchvision", "torchattacks", "sklearn", "matplotlib", "agents", "experiments"} == set()
    assert min(seconds for seconds, _ in runs) < 0.5
