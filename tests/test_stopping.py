"""Signals and full disks, through the run command in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import stop
from experiments.stopping import Stop, StopNow
from tests.test_run import user_folder

ROOT = Path(__file__).resolve().parent.parent


def test_a_run_that_is_told_to_stop_holds_its_robot_at_once_and_saves_itself(tmp_path):
    """Two of the fifty moments of `benchmarks/stop.py`; its bound of 100 ms is met on a machine of its own."""
    figures = stop.stop(2, 0, tmp_path)
    assert figures["stops"] == 2 and figures["moving"] == 2
    assert not figures["wrong_codes"] and not figures["incomplete"]
    assert figures["slowest_ms"] < 500


def test_urgent_acts_do_not_wait_for_a_busy_main_thread():
    done = []
    with Stop() as stop_, stop_.polled(), stop_.at_once(lambda: done.append(time.monotonic())):
        begun = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        sum(i for i in range(10**7))  # the main thread's own handlers run between its steps; the act does, meanwhile
        assert stop_.wanted == signal.SIGTERM and len(done) == 1 and done[0] - begun < 0.2
        with stop_.at_once(lambda: done.append("late")):
            assert done[1] == "late"  # who comes after the signal hears of it, too


@pytest.mark.parametrize("polled", [True, False])
def test_a_signal_that_nobody_looks_for_is_raised_and_so_is_a_second_one(polled):
    with Stop() as stop_:
        if polled:
            with pytest.raises(StopNow) as second, stop_.polled():
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            assert second.value.number == signal.SIGINT
        else:
            with pytest.raises(StopNow, match="SIGTERM"):
                os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_ends_a_program_that_does_not_listen():
    """The main thread sits in one long call, as in a compilation."""
    busy = (
        "import hashlib, os, threading, time\n"
        "from experiments.stopping import Stop\n"
        "kill = lambda: [time.sleep(0.2), os.kill(os.getpid(), 15), time.sleep(0.2), os.kill(os.getpid(), 15)]\n"
        "with Stop() as stop, stop.polled():\n"
        "    threading.Thread(target=kill, daemon=True).start()\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**8)\n"
    )
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", busy], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 128 + signal.SIGTERM and "stopped at once by SIGTERM" in ended.stderr
    assert time.monotonic() - begun < 10


def test_a_disk_that_is_full_for_checkpoints_does_not_end_the_run(tmp_path):
    """No file may grow beyond 2 kB while the run saves itself; what it is asked for at its end still fits."""
    home = user_folder(tmp_path)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, str(home / "mine.py"), "--rivals", "", "--updates", "60"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "warning: checkpoint 3 could not be saved" in ended.stdout and "File too large" in ended.stdout
    (run,) = (home / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["updates"] == 60
    assert [path.name for path in (run / "checkpoints").glob("*/manifest.json")] == ["manifest.json"]
    assert (run / "checkpoints" / "6").exists()  # the next one was saved


LIMITED = """
import resource, sys
from experiments import run
from hybrid_jax.checkpoint import Checkpointer

save = Checkpointer.save


def limited(self, step, state, meta):
    bytes_ = 2000 if step == 3 else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, resource.RLIM_INFINITY))
    try:
        save(self, step, state, meta)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


Checkpointer.save = limited
raise SystemExit(run.main(sys.argv[1:]))
"""
