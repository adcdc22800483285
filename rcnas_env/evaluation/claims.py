"""Claims: of several processes and machines that need the same training, one trains and the others wait.

A claim is a small file that only one process can create (O_CREAT | O_EXCL). Its holder touches it every
`HEARTBEAT_SECONDS`. A holder that was killed leaves it behind; it is stale, and broken, when

- an observer has seen neither its content nor its time of change move for `STALE_AFTER_SECONDS` of the observer's own
  monotonic clock: no two clocks are ever compared, and a clock that jumps changes nothing; or
- it names a process of the observer's own machine that is gone.

Claims save work. No result rests on them: where one is broken wrongly, of a machine that was suspended for instance,
two processes train the same network, each writes a whole entry, and the later stays.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnas_env.strict_json import parse_json
from rcnas_env.validation import require_number

STALE_AFTER_SECONDS = 60.0
"""How long a claim must not have moved before its holder counts as gone."""

HEARTBEAT_SECONDS = 10.0
"""How often a holder touches its claim: six beats are missed before it counts as gone."""


class Claim:
    """The right to do one piece of work; given back by `release`, or at the end of a `with`.

    path: the file, already written with `content`, that is touched every `every_seconds` until the release; None for a
        claim that nobody else can see.
    """

    def __init__(
        self, path: Path | None = None, content: bytes = b"", every_seconds: float = HEARTBEAT_SECONDS
    ) -> None:
        self.path = path
        self._content = content
        self._released = threading.Event()
        if path is not None:
            # a daemon: a process that ends without a release lets go of its claims, as one that is killed does
            threading.Thread(target=self._beat, args=(every_seconds,), name="rcnas-claim", daemon=True).start()

    def release(self) -> None:
        """Let others have the work; may be called again. One that was broken meanwhile is its new holder's."""
        if self._released.is_set():
            return
        self._released.set()
        if self.path is not None and self._is_ours():
            with contextlib.suppress(OSError):
                self.path.unlink()

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def _beat(self, every_seconds: float) -> None:
        assert self.path is not None
        while not self._released.wait(every_seconds):
            with contextlib.suppress(OSError):  # a file system may be away for a while; the next beat tries again
                if self._is_ours():
                    os.utime(self.path)

    def _is_ours(self) -> bool:
        assert self.path is not None
        try:
            return self.path.read_bytes() == self._content
        except OSError:
            return False


@dataclass(frozen=True)
class _Sighting:
    """What a claim looked like, and since when: seconds of this process's monotonic clock."""

    content: bytes
    changed_ns: int
    since: float


class Claims:
    """A folder of claims, one file for each key that is being worked on.

    Args:
        folder: made when needed.
        stale_after: seconds, above 0.
        heartbeat: seconds between two touches, above 0 and below `stale_after`.

    Raises:
        ValueError: the seconds are out of range.
    """

    def __init__(
        self, folder: Path, stale_after: float = STALE_AFTER_SECONDS, heartbeat: float = HEARTBEAT_SECONDS
    ) -> None:
        self.folder = folder
        self.stale_after = require_number("stale_after", stale_after, minimum=0.0, exclusive_minimum=True)
        self.heartbeat = require_number("heartbeat", heartbeat, minimum=0.0, exclusive_minimum=True)
        if heartbeat >= stale_after:
            raise ValueError(f"heartbeat must be below stale_after ({stale_after:g} s), got {heartbeat:g}")
        self._seen: dict[str, _Sighting] = {}

    def take(self, key: str) -> Claim | None:
        """The claim on `key`; None while another holds it. Does not wait: ask again, and staleness is found out.

        Raises:
            OSError: no claim can be written here: the folder is read-only, the disk is full.
        """
        for _ in range(2):  # a second time after a stale claim was broken, or one was released between two looks
            claim = self._create(key)
            if claim is not None:
                self._seen.pop(key, None)
                return claim
            sighting = self._look(key)
            if sighting is not None and not (self._is_stale(sighting) and self._break(key, sighting)):
                return None
        return None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _create(self, key: str) -> Claim | None:
        """A new claim; None if there is one already."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None
        content = json.dumps({**this_process(), "token": uuid.uuid4().hex}).encode()
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Claim(path, content, self.heartbeat)

    def _look(self, key: str) -> _Sighting | None:
        """The claim as it is now, with the time since which it has been so; None if it is gone."""
        now = time.monotonic()
        try:
            # opened rather than asked for its status: a network file system answers that from a cache of a minute
            with self._path(key).open("rb") as file:
                content, changed = file.read(), os.fstat(file.fileno()).st_mtime_ns
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
            self._seen.pop(key, None)
            return None
        known = self._seen.get(key)
        if known is None or (known.content, known.changed_ns) != (content, changed):
            known = self._seen[key] = _Sighting(content, changed, now)
        return known

    def _is_stale(self, sighting: _Sighting) -> bool:
        unmoved = time.monotonic() - sighting.since
        return unmoved >= self.stale_after or _holder_is_gone(sighting.content)

    def _break(self, key: str, stale: _Sighting) -> bool:
        """Remove a stale claim; False if it is not what is there any more.

        The claim is renamed to a name of our own, which one of several breakers can do. The content tells whether it
        was the stale one: another breaker may have been through already, and its new claim is put back.
        """
        path = self._path(key)
        ours = path.with_name(f".broken-{uuid.uuid4().hex}")
        try:
            if path.read_bytes() != stale.content:
                return False
            os.rename(path, ours)
        except FileNotFoundError:
            return False
        broken = ours.read_bytes() == stale.content
        if not broken:
            with contextlib.suppress(OSError):
                os.link(ours, path)  # unlike a rename, never over a claim that is there
        ours.unlink(missing_ok=True)
        self._seen.pop(key, None)
        return broken


def this_process() -> dict[str, Any]:
    """This process as a claim names it: `host`, `machine` (its boot and process namespace) and `pid`.

    A host's name alone may be shared, as containers' often are, and process ids mean nothing across machines, boots
    and containers. `machine` is "" where the system does not say: only time then tells that a holder is gone.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        machine = ""
    return {"host": socket.gethostname(), "machine": machine, "pid": os.getpid()}


def _holder_is_gone(content: bytes) -> bool:
    """Whether a claim names a process of this machine that does not run any more; False where that is unknown."""
    try:
        holder = parse_json(content)
        named = (holder["host"], holder["machine"])
        process = holder["pid"]
    except (ValueError, KeyError, TypeError):
        return False  # of a writer that was killed as it created the file: only time tells
    here = this_process()
    if not here["machine"] or named != (here["host"], here["machine"]):
        return False
    if isinstance(process, bool) or not isinstance(process, int) or process <= 0:
        return False
    try:
        os.kill(process, 0)  # signal 0 asks whether the process is there; `machine` is known on Linux only
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False
