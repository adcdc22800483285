"""Commands killed by SIGKILL and given again come to the same bits; SIGINT and SIGTERM stop them cleanly. All for real.

Three kills here; twenty more in the slow tests, by `benchmarks.kills`.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import experiments.quickstart
from benchmarks.kill_commands import ANALYTIC, arena, quickstart, recording, table
from benchmarks.killed_run import Command, Run, run_to_end, start_server
from benchmarks.kills import Kills, Outcome, campaign, kill_and_resume, reference, summary
from benchmarks.run_digest import differences, digest, digest_files
from experiments.quickstart import Quickstart
from experiments.stopping import SAME_STOP_SECONDS, Stop, stoppable

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see other processes")

MATRIX = Command(
    "matrix",
    lambda folder: [
        "--datasets", "digits", "--networks", "robust", "--epochs", "1", "--workers", "1",
        "--store", str(folder / "store"), "--out", str(folder),
    ],
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    start_server()


@pytest.fixture(autouse=True)
def interrupts_are_taken() -> Iterator[None]:
    """Whoever started pytest in the background of a shell had it ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# -- SIGKILL -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "seed"),
    [
        pytest.param(quickstart("--engine", "analytic"), 0, id="meta-training and fine-tuning"),
        pytest.param(arena(*ANALYTIC, "--agents", "rc-nas+", "evolution", "--seeds", "1"), 1, id="comparison"),
        pytest.param(recording(3, "--workers", "0"), 2, id="table-building"),
    ],
)
def test_a_killed_command_given_again_comes_to_the_same_bits(command: Command, seed: int, tmp_path: Path) -> None:
    whole = reference(command, tmp_path / "whole")
    found = kill_and_resume("it", command, whole, tmp_path / "killed", np.random.default_rng(seed))
    assert found.differing == (), f"killed at {found.share:.0%}, workers too: {found.to_all}"
    assert found.digest == digest(tmp_path / "whole")
    assert len(digest_files(tmp_path / "killed")) >= 5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_of_twenty_kills(tmp_path: Path) -> None:
    outcomes = list(campaign(Kills(kills=20, seed=1), tmp_path))
    assert summary(outcomes)["all"] == {"kills": 20, "equal": 20}, [each for each in outcomes if each.differing]


# -- SIGINT and SIGTERM --------------------------------------------------------------------------------


def training(run: Run) -> bool:
    """Whether a worker process is there beside the main one."""
    return len(run.members()) >= 2


def at_once(run: Run) -> bool:
    return True


def checkpointed(run: Run) -> bool:
    return (run.log.with_suffix("") / "agent").exists()


@pytest.mark.parametrize(
    ("command", "number", "to_all", "moment"),
    [
        pytest.param(quickstart("--engine", "analytic"), signal.SIGTERM, False, checkpointed, id="quickstart"),
        pytest.param(arena(*ANALYTIC, "--workers", "2"), signal.SIGINT, True, training, id="compare_agents"),
        pytest.param(arena(*ANALYTIC), signal.SIGTERM, False, at_once, id="compare_agents, no workers"),
        pytest.param(recording(9, "--workers", "1"), signal.SIGINT, True, training, id="record_table, Ctrl-C"),
        pytest.param(recording(9, "--workers", "1"), signal.SIGTERM, False, training, id="record_table, kill"),
        pytest.param(table(9).then, signal.SIGTERM, False, at_once, id="fit_table"),
        pytest.param(MATRIX, signal.SIGTERM, False, training, id="matrix"),
    ],
)
def test_a_signal_stops_cleanly_and_says_how_to_go_on(
    command: Command, number: signal.Signals, to_all: bool, moment: Callable[[Run], bool], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run = Run(command, folder)
    run.wait_until_stoppable()
    while not moment(run):
        assert run.wait(0.01) is None
    run.send(number, to_all)
    assert run.wait(30) == 128 + number
    run.require_gone()
    said = run.log.read_text(encoding="utf-8")
    assert said.count(f"{command.experiment}: stopped by {number.name}.") == 1
    assert f"python -m experiments.{command.experiment} {' '.join(command.arguments(folder))[:40]}" in said
    for trace in ("Traceback", "Warning", "Exception", "Error"):
        assert trace not in said
    left = [path.name for path in folder.rglob("*") if path.is_file()]
    assert [name for name in left if "writing" in name or "replaced" in name] == []
    assert list(folder.rglob("claims/*")) == []


def test_a_command_without_a_folder_is_told_the_one_that_it_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Path | None] = []

    def interrupted(config: Quickstart) -> Path:
        made.append(config.out)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiments.quickstart, "run", interrupted)
    monkeypatch.setattr(sys, "argv", ["quickstart", "--seed", "3"])
    assert experiments.quickstart.main() == 130
    assert f"    python -m experiments.quickstart --seed 3 --out {made[0]}\n" in capsys.readouterr().err
    assert str(made[0]).startswith("runs/quickstart-")


def test_a_second_signal_of_the_same_stop_does_not_disturb_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    """As `timeout` sends them: to the process, and then to its group."""
    cleaned = []

    def work() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            cleaned.append(True)
        return 0

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert stoppable(work, "matrix", "All is well.") == 143
    assert cleaned == [True]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert "stopped by SIGTERM. All is well. The same command goes on" in capsys.readouterr().err


def test_a_stop_that_was_swallowed_can_be_wished_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def work() -> int:
        with pytest.raises(Stop):
            signal.raise_signal(signal.SIGINT)
        clock[0] += SAME_STOP_SECONDS
        signal.raise_signal(signal.SIGINT)
        return 0

    assert stoppable(work, "matrix", "") == 130


def test_signals_that_are_ignored_stay_so_and_threads_are_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert stoppable(lambda: signal.raise_signal(signal.SIGINT) or 7, "matrix", "") == 7
    finally:
        signal.signal(signal.SIGINT, before)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(stoppable(lambda: 3, "matrix", "")))
    thread.start()
    thread.join()
    assert codes == [3]


# -- the comparison itself -----------------------------------------------------------------------------


def written(folder: Path) -> Path:
    """A folder with a file of each kind."""
    (folder / "store").mkdir(parents=True)
    results = {"rewards": [0.1, 0.2], "seconds": 3.0, "trials": [{"reward": 0.5, "from_store": True}]}
    (folder / "record.json").write_text(json.dumps(results))
    (folder / "runs.jsonl").write_text('{"run": 1}\n{"run": 2}\n')
    save_file({"weight": np.arange(3.0), "step": np.float32([7])}, folder / "weights.safetensors")
    np.savez(folder / "table.npz", angle=np.arange(4), seconds=np.arange(2.0))
    (folder / "store" / ".writing-x").write_text("half")
    return folder


def test_a_digest_does_not_see_times_and_order(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one"), written(tmp_path / "other")
    (other / "record.json").write_text((one / "record.json").read_text().replace("3.0", "4").replace("true", "false"))
    (other / "runs.jsonl").write_text('{"run": 2}\n{"run": 1}\n')
    np.savez(other / "table.npz", angle=np.arange(4), seconds=np.ones(2))
    (other / "store" / ".writing-x").unlink()
    assert digest(one) == digest(other) and differences(one, other) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("record.json", lambda path: path.write_text(path.read_text().replace("0.2", "0.20000000000000004"))),
        ("record.json", lambda path: path.write_text(path.read_text().replace("0.5", "0.25"))),
        ("runs.jsonl", lambda path: path.write_text('{"run": 1}\n{"run": 2}\n{"run": 2}\n')),
        ("runs.jsonl", lambda path: path.write_text('{"run": 1}\n')),
        ("weights.safetensors", lambda path: save_file({**load_file(path), "step": np.float32([8])}, path)),
        ("table.npz", lambda path: np.savez(path, angle=np.arange(4.0), seconds=np.arange(2.0))),
        ("table.npz", lambda path: path.unlink()),
        (".writing-agent", lambda path: path.with_name("half").write_text("half")),
    ],
)
def test_a_digest_sees_everything_else(name: str, change: Callable[[Path], object], tmp_path: Path) -> None:
    one, other = written(tmp_path / "one"), written(tmp_path / "other")
    change(other / name)
    assert digest(one) != digest(other)
    assert differences(one, other) == ["half" if name.startswith(".") else name]


@pytest.mark.parametrize("to_all", [False, True])
def test_a_run_can_be_killed_the_moment_it_is_born(to_all: bool, tmp_path: Path) -> None:
    for number in range(5):
        run = Run(quickstart("--engine", "analytic"), tmp_path / str(number))
        assert run.kill(to_all)
        assert run.members() == []


def test_a_campaign_counts_what_differs() -> None:
    outcomes = [Outcome("a", 0.25, True, "0", ()), Outcome("a", 0.5, False, "1", ("agent/agent.json",))]
    found = summary([*outcomes, Outcome("b", 0.1, True, "2", ())])
    assert found["all"] == {"kills": 3, "equal": 2}
    assert (found["a"]["kills"], found["a"]["equal"], found["a"]["differing"]) == (2, 1, ["agent/agent.json"])


def test_a_failing_command_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code 0, got 2: .*no folder"):
        run_to_end(Command("compare_agents", lambda folder: ["--agree", "no folder", "no folder"]), tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RuntimeError, match="must be stoppable before it ends"):
        Run(Command("matrix", lambda folder: ["--help"]), tmp_path / "run").wait_until_stoppable()
