"""Worker processes of the trained engine end with the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """
import os, time
from rcnas_env.evaluation.store import MemoryStore
from rcnas_env.evaluation.trained import TrainedEvaluator

if __name__ == "__main__":
    evaluator = TrainedEvaluator(MemoryStore(), workers=1)
    print(evaluator._submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def alive(process: int) -> bool:
    """Whether the process is there and not a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see other processes")
def test_a_killed_process_leaves_no_workers(tmp_path: Path) -> None:
    script = tmp_path / "search.py"  # a file: spawned workers import it
    script.write_text(SCRIPT)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=_environment()) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        assert alive(worker)
        run.send_signal(signal.SIGKILL)
        run.wait()
        deadline = time.monotonic() + 20
        while alive(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(worker)


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
