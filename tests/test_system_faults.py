"""A full disk, a folder that is read-only and a machine without a network: really so, in a namespace of the test's own.

Tests may run as root, whom rights do not hold; a file system that is mounted for the command alone holds everybody.
Each command imports all that it needs anew, which takes longer than its work: all but two of these tests are slow ones.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import experiments.quickstart
import experiments.reproduce
from benchmarks.kill_commands import ANALYTIC, quickstart, recording
from benchmarks.killed_run import Command
from tests.full_disk import no_room

ROOT = Path(__file__).resolve().parent.parent
RECORDING = recording(1, "--workers", "0")
"""Two trainings."""
QUICKSTART = quickstart(*ANALYTIC)


@functools.cache
def refusal(*options: str) -> str:
    """Why this system lends no namespace; "" where it does."""
    try:
        tried = subprocess.run(["unshare", *options, "true"], capture_output=True, text=True)
    except FileNotFoundError:
        return "no unshare"
    return tried.stderr.strip()


def in_namespace(options: str, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run lines of shell in a namespace of their own, to the first that fails."""
    if why := refusal(options):
        pytest.skip(f"needs a namespace of its own, which this system refuses: {why}")
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = ["unshare", options, "sh", "-e", "-c", "\n".join(lines)]
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=120)


BECOME = "import sys; from benchmarks.killed_run import become; become(sys.argv[1], sys.argv[2:])"


def given(command: Command, folder: Path) -> str:
    """The line of shell that runs a command to its end."""
    return shlex.join([sys.executable, "-c", BECOME, command.experiment, *command.arguments(folder)])


def mounted(folder: Path, options: str) -> str:
    """The line that makes a folder a file system of its own."""
    folder.mkdir(exist_ok=True)
    return shlex.join(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)])


# -- disks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param("size=64k", "No space left on device", id="full"),
        pytest.param("ro", "Read-only file system", id="read-only", marks=pytest.mark.slow),
    ],
)
def test_trainings_go_on_where_the_store_takes_nothing(options: str, why: str, tmp_path: Path) -> None:
    """A student's weights are 300 KiB."""
    found = in_namespace("-Urm", mounted(tmp_path / "store", options), given(RECORDING, tmp_path))
    assert found.returncode == 0, found.stderr
    assert "StoreWarning" in found.stderr and why in found.stderr and "Traceback" not in found.stderr


@pytest.mark.slow
def test_a_run_whose_disk_is_full_says_so_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = given(QUICKSTART, folder)
    found = in_namespace(
        "-Urm",
        mounted(folder, "size=64k"),
        f"if {command}; then exit 9; else test $? = 1; fi",
        f"echo left: $(ls -A {folder})",
        f"mount -o remount,size=16m {folder}",
        command,
        f"echo then: $(ls -A {folder})",
    )
    assert found.returncode == 0, found.stderr
    left, then = (line.partition(":")[2] for line in found.stdout.splitlines() if line.startswith(("left:", "then:")))
    assert left.strip() == "" and {"agent", "record.json", "table.md", "stages.png"} <= set(then.split())
    (said,) = [line for line in found.stderr.splitlines() if line.startswith("quickstart: error")]
    assert said.startswith(f"quickstart: error: [Errno 28] No space left on device: '{folder / 'agent'}'. What was")
    assert f"python -m experiments.quickstart --out {folder}" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_a_run_whose_folder_is_read_only_says_so(tmp_path: Path) -> None:
    command = given(QUICKSTART, tmp_path / "disk" / "run")
    found = in_namespace("-Urm", mounted(tmp_path / "disk", "ro"), command)
    assert found.returncode == 1
    assert f"quickstart: error: [Errno 30] Read-only file system: '{tmp_path / 'disk' / 'run'}'" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_what_a_disk_refuses_is_told_by_both_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a namespace too: files of at most 100 bytes."""
    told = {"quickstart": QUICKSTART.arguments(tmp_path / "a"), "reproduce": ["table1", "--out", str(tmp_path / "b")]}
    for name, main in {"quickstart": experiments.quickstart.main, "reproduce": experiments.reproduce.main}.items():
        monkeypatch.setattr(sys, "argv", [name, *told[name]])
        with no_room():
            assert main() == 1
        said = capsys.readouterr().err
        file = {"quickstart": tmp_path / "a" / "agent", "reproduce": tmp_path / "b" / "settings.json"}[name]
        assert f"{name}: error: [Errno 27] File too large: '{file}'. " in said
        assert said.endswith(f"goes on from there:\n    python -m experiments.{name} {shlex.join(told[name])}\n")


# -- the network -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(QUICKSTART, id="quickstart", marks=pytest.mark.slow),
        pytest.param(recording(1, "--seeds", "1", "--workers", "1"), id="record_table"),
    ],
)
def test_a_run_needs_no_network(command: Command, tmp_path: Path) -> None:
    """In a machine of nothing but a loopback interface that is down; trainings in a process of their own among it."""
    found = in_namespace("-Urn", "test $(tail -n +3 /proc/net/dev | wc -l) = 1", given(command, tmp_path))
    assert found.returncode == 0, found.stderr
    assert "Warning" not in found.stderr and "Traceback" not in found.stderr
