"""Claims: one holder at a time, none for ever, and no clock is trusted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rcnas_env.evaluation import claims
from rcnas_env.evaluation.claims import Claim, Claims, this_process
from rcnas_env.evaluation.store import FolderStore, MemoryStore, StoreWarning

ROOT = Path(__file__).resolve().parent.parent
KEY, OTHER_KEY = "ab" * 32, "cd" * 32
NEVER_BEATS = 1e6
"""Seconds: holders in these tests touch their claims only where a test is about that."""

knows_processes = pytest.mark.skipif(not this_process()["machine"], reason="needs /proc to tell machines apart")


class Clock:
    """This process's monotonic clock, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(claims.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "claims"


def claimed(folder: Path, **changed: Any) -> Path:
    """A claim on KEY as another process left it: of another machine unless `changed` says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{KEY}.json"
    path.write_text(json.dumps({**this_process(), "machine": "another", "token": "0", **changed}))
    return path


def ended_process() -> int:
    """The id of a process that has run and ended."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        return process.pid


def others(folder: Path, stale_after: float = 2 * NEVER_BEATS) -> Claims:
    return Claims(folder, stale_after, NEVER_BEATS)


def test_a_claim_has_one_holder_until_it_is_released(folder: Path) -> None:
    ours, theirs = others(folder), others(folder)
    claim = ours.take(KEY)
    assert claim is not None
    assert theirs.take(KEY) is None and ours.take(KEY) is None
    with theirs.take(OTHER_KEY) or pytest.fail("another key is free"):
        assert ours.take(OTHER_KEY) is None
    assert ours.take(OTHER_KEY) is not None
    claim.release()
    assert [path.name for path in folder.iterdir()] == [f"{OTHER_KEY}.json"]
    assert theirs.take(KEY) is not None
    claim.release()  # again: the new holder's stays
    assert ours.take(KEY) is None


def test_of_many_threads_one_gets_the_claim(folder: Path) -> None:
    takers, start = [others(folder) for _ in range(8)], threading.Barrier(8)
    won: list[Claim | None] = []

    def take(mine: Claims) -> None:
        start.wait()
        won.append(mine.take(KEY))

    threads = [threading.Thread(target=take, args=(mine,)) for mine in takers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 8 and sum(claim is not None for claim in won) == 1


def test_memory_is_claimed_by_everyone() -> None:
    store = MemoryStore()
    with store.claim(KEY), store.claim(KEY):
        pass


# --- staleness --------------------------------------------------------------------------------------------------------


@knows_processes
def test_the_claim_of_a_killed_process_is_broken_at_once(folder: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from rcnas_env.evaluation.claims import Claims; "
        "claim = Claims(Path(sys.argv[1])).take(sys.argv[2]); print(claim is not None, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(folder), KEY]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "True\n"
        observer = others(folder)
        assert observer.take(KEY) is None  # it lives
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (folder / f"{KEY}.json").exists()
        assert observer.take(KEY) is not None
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.json"]


@pytest.mark.parametrize("changed", [{"host": "elsewhere"}, {"machine": "another boot"}, {"machine": ""}])
def test_process_ids_of_other_machines_say_nothing(changed: dict[str, str], folder: Path, clock: Clock) -> None:
    claimed(folder, **{"machine": this_process()["machine"], "pid": ended_process(), **changed})
    observer = others(folder, stale_after=2 * NEVER_BEATS)
    assert observer.take(KEY) is None
    clock.now += NEVER_BEATS
    assert observer.take(KEY) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff"])
def test_a_claim_that_cannot_be_read_is_stale_by_time_alone(content: bytes, folder: Path, clock: Clock) -> None:
    claimed(folder).write_bytes(content)
    observer = Claims(folder, 60.0, 10.0)
    assert observer.take(KEY) is None
    clock.now += 59.9
    assert observer.take(KEY) is None
    clock.now += 0.1
    assert observer.take(KEY) is not None


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_clocks_that_jump_neither_break_nor_prolong_a_claim(jump: float, folder: Path, clock: Clock) -> None:
    path, observer = claimed(folder), Claims(folder, 60.0, 10.0)
    os.utime(path, (time.time() + jump, time.time() + jump))  # so far off is the holder's clock
    for beat in range(20):
        assert observer.take(KEY) is None
        clock.now += 59.0
        os.utime(path, (time.time() + jump - beat, time.time() + jump - beat))  # and set back at each beat
    assert observer.take(KEY) is None
    clock.now += 59.9
    assert observer.take(KEY) is None
    clock.now += 0.1  # a minute without a sign, whatever time the file bears
    assert observer.take(KEY) is not None


def test_an_observer_counts_from_its_own_first_look(folder: Path, clock: Clock) -> None:
    os.utime(claimed(folder), (0.0, 0.0))  # untouched since 1970, for all that this clock says
    first = Claims(folder, 60.0, 10.0)
    assert first.take(KEY) is None
    clock.now += 60.0
    assert Claims(folder, 60.0, 10.0).take(KEY) is None
    assert first.take(KEY) is not None


def test_a_holder_keeps_its_claim_fresh(folder: Path) -> None:
    claim = Claims(folder, 60.0, 0.02).take(KEY)
    path = folder / f"{KEY}.json"
    seen = {path.stat().st_mtime_ns}
    deadline = time.monotonic() + 20
    while len(seen) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
        seen.add(path.stat().st_mtime_ns)
    assert len(seen) >= 4 and claim is not None
    claim.release()
    assert not path.exists()


# --- breaking ---------------------------------------------------------------------------------------------------------


@knows_processes
def test_of_two_breakers_one_wins(tmp_path: Path) -> None:
    gone = ended_process()
    for round_ in range(60):
        folder, start, won = tmp_path / str(round_), threading.Barrier(2), list[Claim | None]()
        claimed(folder, machine=this_process()["machine"], pid=gone)

        def take(mine: Claims, start: threading.Barrier = start, won: list[Claim | None] = won) -> None:
            start.wait()
            won.append(mine.take(KEY))

        threads = [threading.Thread(target=take, args=(others(folder),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(claim is None for claim in won) == [False, True]
        assert [path.name for path in folder.iterdir()] == [f"{KEY}.json"]


def test_a_breaker_that_comes_too_late_puts_the_new_claim_back(
    folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed(folder)
    late, early = Claims(folder, 60.0, 10.0), Claims(folder, 60.0, 10.0)
    assert late.take(KEY) is None and early.take(KEY) is None
    clock.now += 60.0
    rename, taken = os.rename, list[Claim | None]()

    def early_goes_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        taken.append(early.take(KEY))  # between the late one's last look and its rename
        rename(source, target)

    monkeypatch.setattr(os, "rename", early_goes_first)
    assert late.take(KEY) is None
    (claim,) = taken
    assert claim is not None
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.json"]
    claim.release()
    assert list(folder.iterdir()) == []  # it was the early one's claim that lay there


def test_a_holder_whose_claim_was_broken_leaves_the_new_one_alone(folder: Path, clock: Clock) -> None:
    asleep, observer = Claims(folder, 60.0, 59.0).take(KEY), Claims(folder, 60.0, 59.0)
    assert asleep is not None and observer.take(KEY) is None
    clock.now += 60.0
    claim = observer.take(KEY)
    assert claim is not None
    asleep.release()
    assert others(folder).take(KEY) is None
    claim.release()
    assert list(folder.iterdir()) == []


# --- bad input and bad folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "message"),
    [((0.0, 1.0), "stale_after"), ((1.0, -1.0), "heartbeat"), ((1.0, 1.0), "heartbeat must be below stale_after")],
)
def test_seconds_must_make_sense(seconds: tuple[float, float], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Claims(folder, *seconds)


def test_where_nothing_can_be_claimed_work_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the folder's place")
    with pytest.raises(OSError):
        Claims(tmp_path / "store" / "claims").take(KEY)
    store = FolderStore(tmp_path / "store")
    with pytest.warns(StoreWarning, match="store cannot be used in full"):
        claim = store.claim(KEY)
    assert claim is not None and claim.path is None
    claim.release()
