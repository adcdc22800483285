"""wandb gets a run's numbers by the real wandb: who decides on its mode, where its files go, what it reaches for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from report_samples import quickstart, sample_table

from experiments.quickstart import Quickstart
from experiments.reproduce import Reproduce
from experiments.run_record import RunRecord
from experiments.search_settings import read_arguments
from experiments.wandb_settings import history

ROOT = Path(__file__).resolve().parent.parent
LOG = """
import json, os, sys
from pathlib import Path
from experiments.run_record import RunRecord
given = json.loads(Path(sys.argv[2]).read_text())
record = RunRecord("quickstart", Path(sys.argv[1]), given["config"], given["seconds"], given["results"])
before = dict(os.environ)
record.log_to_wandb(sys.argv[3])
assert {**before, "WANDB_SERVICE": ""} == {**os.environ, "WANDB_SERVICE": ""}, "the environment is as it was"
"""


@contextmanager
def recorder() -> Iterator[tuple[int, threading.Event]]:
    """A server that answers nobody: its port, and an event that is set once somebody has called."""
    called = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        done = threading.Event()

        def accept() -> None:
            while not done.is_set():
                try:
                    server.accept()[0].close()
                    called.set()
                except TimeoutError:
                    pass

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], called
        finally:
            done.set()
            thread.join()


def surroundings(home: Path, port: int, **wandb: str) -> dict[str, str]:
    """An environment of no wandb settings but `wandb`, where every way into the network leads to `port`."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WANDB_") and "proxy" not in name.lower()
    }
    address = f"http://127.0.0.1:{port}"
    ways = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "WANDB_BASE_URL"), address)
    return {**own, **ways, "HOME": str(home), "XDG_CACHE_HOME": str(home), "WANDB_SILENT": "true", **wandb}


def started(folder: Path, mode: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A process that logs quickstart's evidence as the run in `folder`."""
    path = folder.parent / "given.json"
    path.write_text(json.dumps(quickstart()))
    command = [sys.executable, "-c", LOG, str(folder), str(path), mode]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def records(path: Path) -> Iterator[Any]:
    """The records of wandb's own file: a LevelDB log, 32 KiB a block, after 7 bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    content, place, joined = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = -place % 32768
        if left < 7 and left:
            place += left  # a block's tail too short for a header
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        joined += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(joined)
            yield record
            joined = b""


def logged(folder: Path) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Summary and configuration of the one offline run below `folder`, and its exit code."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    codes = []
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "exit":
            codes.append(record.exit.exit_code)
        for item in record.summary.update if kind == "summary" else ():
            target = summary
            *outer, last = item.nested_key or [item.key]
            for name in outer:
                target = target.setdefault(name, {})
            target[last] = json.loads(item.value_json)
        for item in record.run.config.update if kind == "run" else ():
            config[item.key] = json.loads(item.value_json)
    (code,) = codes
    return summary, config, code


def logged_history(folder: Path) -> list[dict[str, Any]]:
    """What the one offline run below `folder` logged at each step, without what wandb adds."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    steps = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            steps.append({name: value for name, value in items.items() if not name.startswith("_")})
    return steps


def test_offline_keeps_every_number_below_the_run_folder(tmp_path: Path) -> None:
    """WANDB_MODE=offline wins over "online"; nothing reaches for the network; nothing is left in the home."""
    run, home = tmp_path / "run", tmp_path / "home"
    home.mkdir()
    (run / "tables").mkdir(parents=True)
    table = sample_table()
    (run / "tables" / "table1.json").write_text(json.dumps(table.to_dict()))
    with recorder() as (port, called):
        process = started(run, "online", surroundings(home, port, WANDB_MODE="offline"))
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert not called.is_set()
    summary, config, code = logged(run)
    given = quickstart()
    assert code == 0
    assert summary["seconds"] == given["seconds"]
    assert summary["results"] == given["results"]
    assert summary["tables"]["table1"]["5G/teacher"]["cifar10/clean"] == table.rows[0].cells["cifar10/clean"].to_dict()
    assert {name: config[name] for name in given["config"]} == given["config"]
    assert list(home.rglob("*")) == []
    assert logged_history(run) == history(given["results"]) != []


def test_history_has_a_step_an_evaluation() -> None:
    def trial(reward: float, accuracy: float | None, within: bool = True) -> dict[str, Any]:
        return {"reward": reward, "robust_accuracy": accuracy, "within_budget": within}

    tried = [trial(-1.0, None, False), trial(0.5, 0.4), trial(0.2, 0.6)]
    assert history({"trials": tried}) == [
        {"search/best reward": -1.0, "search/best robust accuracy": 0.0},
        {"search/best reward": 0.5, "search/best robust accuracy": 0.4},
        {"search/best reward": 0.5, "search/best robust accuracy": 0.6},
    ]
    found = history({"curves": {"rc-nas": [[0.1, 0.2], [0.3]]}, "meta_rewards": [0.5], "trials": {"a": tried[1:2]}})
    assert found == [
        {
            "a/best reward": 0.5,
            "a/best robust accuracy": 0.4,
            "rc-nas/best robust accuracy, seed 0": 0.1,
            "rc-nas/best robust accuracy, seed 1": 0.3,
            "meta-training/reward": 0.5,
        },
        {"rc-nas/best robust accuracy, seed 0": 0.2},
    ]
    assert history({}) == []


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        (None, "off"),
        ("", "off"),
        ("disabled", "off"),
        ("online", "online"),
        ("offline", "offline"),
        ("dryrun", "offline"),
    ],
)
def test_the_environment_decides_where_the_command_line_does_not(
    value: str | None, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if value is not None:
        monkeypatch.setenv("WANDB_MODE", value)
    required = ["--teacher", "WRN-16-1", "--dataset", "digits", "--attack", "fgsm", "--budget", "40%"]
    chosen = read_arguments(required, None)
    assert Quickstart().wandb == Reproduce(("table1",)).wandb == chosen.wandb == mode
    refused = read_arguments([*required, "--wandb", "off"], None)
    assert refused.wandb == "off" and refused.folder == chosen.folder


def test_online_by_the_environment_uploads(tmp_path: Path) -> None:
    """The other side of the test above: its server is called as soon as WANDB_MODE says online."""
    run = tmp_path / "run"
    with recorder() as (port, called):
        environment = surroundings(tmp_path, port, WANDB_MODE="online", WANDB_API_KEY="0" * 40)
        process = started(run, "offline", environment)
        try:
            assert called.wait(30)
        finally:
            process.kill()
            process.communicate()


def test_off_stays_off_whatever_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    RunRecord("quickstart", tmp_path, {}).log_to_wandb("off")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_table_is_refused_before_wandb_starts(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "table1.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tables/table1.json: table must be an object"):
        RunRecord("quickstart", tmp_path, {}).log_to_wandb("offline")
    assert not (tmp_path / "wandb").exists()


def refused_port() -> int:
    """A port of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "1"}, "connection refused"),
        ({}, "No API key configured"),
        ({"WANDB_MODE": "nonsense"}, "Input should be 'online', 'offline'"),
    ],
    ids=["unreachable", "no key", "settings that make no sense"],
)
def test_a_run_does_not_fail_because_wandb_does(own: dict[str, str], why: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = started(run, "online", surroundings(tmp_path, refused_port(), **own))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    (said,) = [line for line in output.splitlines() if line.startswith("quickstart:")]
    assert said.startswith("quickstart: wandb did not take the results (") and why in said
    assert said.endswith(f"; the run's record stands: {run / 'record.json'}")
    assert "Traceback" not in output


def test_a_run_does_not_fail_where_wandb_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    RunRecord("reproduce", tmp_path, {}).log_to_wandb("online")
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("reproduce: wandb did not take the results (import of wandb halted")


def test_an_error_that_is_not_wandbs_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**settings: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("wandb.init", fails)
    with pytest.raises(MemoryError):
        RunRecord("reproduce", tmp_path, {}).log_to_wandb("offline")
