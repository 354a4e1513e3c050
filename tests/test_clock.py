"""The robot's clock by hand-set times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_jax.real.clock import Clock
from hybrid_jax.real.record import Flag

ROOT = Path(__file__).resolve().parent.parent
NONE, LATE, GAP = Flag(0), Flag.LATE, Flag.LATE | Flag.GAP


@pytest.fixture
def clock(monkeypatch):
    """10 Hz, an episode begins at 100.0 s."""
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    clock = Clock(10.0)
    clock.begin()
    return clock


@pytest.mark.parametrize(
    ("sent", "answered", "flags"),
    [
        (100.0, 100.01, NONE),
        (100.049, 100.1, NONE),  # less than half a period behind, answered within it
        (100.051, 100.06, LATE),
        (100.0, 100.11, LATE),
        (100.0, 100.29, LATE),
        (100.0, 100.31, GAP),
    ],
)
def test_a_step_is_judged_by_its_start_and_its_answer(clock, sent, answered, flags):
    assert clock.judge(sent, answered) == flags


def test_an_observation_that_is_old_makes_a_gap_but_not_in_a_new_episode(clock):
    assert clock.judge(100.0, 100.01) == NONE and clock.interval is None
    clock.go_on()
    assert clock.judge(100.32, 100.33) == GAP  # its observation is 0.31 s old
    assert clock.interval == pytest.approx(0.32)
    clock.begin()
    assert clock.judge(100.0, 100.01) == NONE and clock.interval is None


def test_small_delays_are_made_up_for_and_lost_periods_are_not(clock, monkeypatch):
    assert clock.judge(100.04, 100.05) == NONE
    monkeypatch.setattr("time.monotonic", lambda: 100.05)
    assert clock.wait() == pytest.approx(0.05)  # due at 100.1, not at 100.14
    assert clock.judge(100.1, 100.35) == LATE
    assert clock.wait() == pytest.approx(0.3)  # due at once after the answer, at 100.35


def test_without_a_rate_nothing_is_late(monkeypatch):
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    clock = Clock(0.0)
    clock.begin()
    assert [clock.judge(100.0, 105.0), clock.judge(200.0, 201.0)] == [NONE, NONE]
    assert clock.wait() == 0.0


def test_all_threads_but_the_robots_give_way_and_its_process_inherits_that():
    told = (
        "import os, subprocess, sys, threading\n"
        "from hybrid_jax.real.priority import give_way\n"
        "ask = [sys.executable, '-c', 'import os; print(os.nice(0))']\n"
        "go, made = threading.Event(), []\n"
        "robots = threading.Thread(target=lambda: (go.wait(), made.append(subprocess.check_output(ask))))\n"
        "robots.start()\n"
        "assert give_way(robots) == 1\n"
        "go.set(); robots.join()\n"
        "print(os.nice(0), int(made[0]))\n"
    )
    ended = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    own = os.nice(0)
    assert ended.stdout.split() == [str(max(10, own)), str(own)]
