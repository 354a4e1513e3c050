"""The robot's process under every fault of the contract: what is kept, what is sent, what is said."""

import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from envs import point_mass, rehearsal
from hybrid_jax.real import segments
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.record import Fault, Flag, Transition
from hybrid_jax.real.settings import Deadlines, RobotStopped, Settings, State
from hybrid_jax.real.supervisor import Supervisor

QUICK = Deadlines(step=1.0, reset=1.0, close=1.0)


def robot(folder: Path, *faults, rate: float = 0.0, **settings) -> Supervisor:
    """A point mass that does these faults."""
    options = {
        "base": "envs.point_mass:make_real",
        "faults": [list(f) for f in faults],
        "memory": str(folder / "memory"),
    }
    defaults = {"deadlines": QUICK, "retry_wait": 0.01, "frozen_after": 3}
    made = Settings("envs.rehearsal:make", 100, rate, options, **defaults | settings)
    said: list[str] = []
    supervisor = Supervisor(made, folder / "robot", said.append)
    supervisor.said = said
    return supervisor


def kept(folder: Path) -> tuple[list[Transition], list[Fault]]:
    found = list(segments.read(folder / "robot" / "journal"))
    assert [record.sequence for record in found] == list(range(len(found)))
    return [r for r in found if isinstance(r, Transition)], [r for r in found if isinstance(r, Fault)]


def obeys_the_point_mass(rows: list[Transition]) -> None:
    """Each row is one true step, and rows of one episode follow each other."""
    real = point_mass.make_real().constants
    for row in rows:
        x, v, reward, _ = point_mass.dynamics(real, row.obs.astype(float), row.sent.astype(float))
        np.testing.assert_allclose(row.next_obs, [x, v], atol=1e-5)
        assert row.reward == pytest.approx(reward, abs=1e-4)
    for before, after in itertools.pairwise(rows):
        if before.episode == after.episode:
            assert after.step == before.step + 1 and not before.flags & (Flag.TERMINATED | Flag.TRUNCATED)
            np.testing.assert_array_equal(after.obs, before.next_obs)
        else:
            assert after.episode > before.episode and after.step == 0


def test_steps_are_true_in_order_and_on_disk(tmp_path):
    with robot(tmp_path) as real:
        watermark = real.collect(250)
        rows = Follower(real.journal, real.schema).take(watermark)
    assert watermark == len(rows) == 250 and all(isinstance(row, Transition) for row in rows)
    obeys_the_point_mass(rows)
    assert {row.episode for row in rows} >= {0, 1, 2}
    ended = [row for row in rows if row.flags & Flag.TRUNCATED]
    assert all(row.step == 99 for row in ended) and ended
    sent = rehearsal.commands(tmp_path / "memory", 1)
    np.testing.assert_array_equal(np.float32(sent[:250, 1:]), [row.sent for row in rows])
    np.testing.assert_array_equal(sent[250:, 1], 0.0)  # the safe action at the end
    status = json.loads((tmp_path / "robot" / "status.json").read_text())
    assert status["state"] == "hold" and status["records"] == 250


def test_a_second_process_goes_on_where_the_first_one_ended(tmp_path):
    for until in (30, 70):
        with robot(tmp_path) as real:
            assert real.collect(until - len(kept(tmp_path)[0])) == until
    rows, faults = kept(tmp_path)
    obeys_the_point_mass(rows)
    assert len(rows) == 70 and not faults and rows[30].step == 0 and rows[30].episode == rows[29].episode + 1


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (("raise", "motor gone"), "error", "RuntimeError: motor gone"),
        (("nan", 1), "bad answer", r"observation 1 is nan"),
        (("reward", "inf"), "bad answer", "the reward inf is not within"),
        (("reward", 1e30), "bad answer", "the reward 1e+30 is not within"),
        (("hang", None), "hang", "no answer for 1 s in step"),
        (("hang_hard", None), "hang", "no answer for 1 s in step"),
        (("die", "SIGKILL"), "death", "its process was ended by SIGKILL"),
        (("die", "SIGSEGV"), "death", "its process was ended by SIGSEGV"),
        (("reset_raise", "no link"), "error", "OSError: no link"),
        (("reset_nan", 0), "bad answer", "observation 0 is nan"),
    ],
    ids=str,
)
def test_after_a_fault_the_robot_goes_on_and_no_row_is_made_up(tmp_path, fault, kind, said):
    at = 1 if fault[0].startswith("reset_") else 20
    with robot(tmp_path, (at, *fault)) as real:
        real.collect(150)
        assert real.faults == {kind: 1} and real.state == State.HOLD
        assert any(said in line for line in real.said)
    rows, faults = kept(tmp_path)
    obeys_the_point_mass(rows)
    (record,) = faults
    assert len(rows) == 150 and said in record.text
    if not fault[0].startswith("reset_"):
        assert rows[19].episode < rows[20].episode  # nothing joins over the gap


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (("shape", 3), r"an array of shape (3,) and type float64, agreed were 2 floats"),
        (("dtype", "int64"), "type int64, agreed were 2 floats"),
        (("reward", "much"), "the reward is a str"),
        (("estop", "red button"), "emergency stop: red button"),
    ],
    ids=str,
)
def test_what_would_come_again_or_is_an_emergency_stops_the_robot(tmp_path, fault, said):
    with robot(tmp_path, (20, *fault)) as real:
        with pytest.raises(RobotStopped) as stopped:
            real.collect(50)
        assert said in str(stopped.value) and real.state == State.STOPPED
        with pytest.raises(RobotStopped):
            real.run(1)
    rows, _ = kept(tmp_path)
    assert len(rows) == 20
    obeys_the_point_mass(rows)
    if fault[0] == "estop":
        assert len(rehearsal.commands(tmp_path / "memory", 1)) == 21  # nothing was sent after it


def test_a_robot_that_fails_for_ever_is_stopped(tmp_path):
    broken = [(n, "raise", "stuck") for n in range(200)]
    with robot(tmp_path, *broken, retries=3) as real, pytest.raises(RobotStopped, match=r"stuck.*; 4 times in a row"):
        real.collect(10)
    deadly = [(n, "die", "SIGKILL") for n in range(200)]
    with robot(tmp_path / "b", *deadly, retries=2) as real, pytest.raises(RobotStopped, match="after 2 attempts"):
        real.collect(10)
    assert not kept(tmp_path / "b")[0]


def test_late_answers_are_kept_and_flagged(tmp_path):
    with robot(tmp_path, (5, "late", 0.07), (9, "late", 0.25), rate=20.0) as real:
        real.collect(15)
        assert real.counts["late"] >= 2
    rows, _ = kept(tmp_path)
    assert rows[5].flags & Flag.LATE and not rows[5].flags & Flag.GAP
    assert rows[9].flags & Flag.LATE and rows[9].flags & Flag.GAP
    times = np.diff([row.monotonic for row in rows])
    assert np.median(times) == pytest.approx(0.05, abs=0.015)


def test_frozen_sensors_interventions_and_aborts_are_told_apart(tmp_path):
    faults = [(5, "freeze", 6), (20, "intervene", [0.25]), (30, "abort", True)]
    with robot(tmp_path, *faults) as real:
        real.collect(40)
    rows, _ = kept(tmp_path)
    frozen = [bool(row.flags & Flag.FROZEN) for row in rows]
    # from the third repeat on, and the step whose action came from the last of them
    assert frozen[:5] == [False] * 5 and sum(frozen) == 5 and frozen[7:12] == [True] * 5
    assert rows[20].flags & Flag.INTERVENED and rows[20].sent == np.float32(0.25) != rows[20].asked
    assert rows[30].flags & Flag.TRUNCATED and not rows[30].flags & Flag.TERMINATED and rows[31].step == 0


def test_a_policy_that_breaks_sends_the_safe_action(tmp_path):
    sick = {"Dense_0": {"kernel": np.full((2, 2), np.nan, np.float32), "bias": np.zeros(2, np.float32)}}
    sick |= {"log_std_multiplier": np.float32(1), "log_std_offset": np.float32(-1)}
    with robot(tmp_path, retries=2) as real:
        real.collect(10)
        real.set_policy(sick, 7)
        with pytest.raises(RobotStopped, match=r"\[nan\] is not finite"):
            real.collect(10)
        assert real.faults["doubt"] >= 1
    sent = rehearsal.commands(tmp_path / "memory", 1)
    assert np.all(np.isfinite(sent)) and np.all(sent[-3:, 1] == 0)


def test_the_policy_and_its_version_reach_the_rows(tmp_path):
    still = {"Dense_0": {"kernel": np.zeros((2, 2), np.float32), "bias": np.float32([0.5, 0.0])}}
    still |= {"log_std_multiplier": np.float32(0), "log_std_offset": np.float32(-20)}
    with robot(tmp_path) as real:
        real.set_policy(still, 41)
        real.collect(20)
        for version in range(42, 60):
            real.set_policy(still, version)  # never waits; the newest one arrives
        deadline = time.monotonic() + 5
        while real._taken != 59 and time.monotonic() < deadline:
            time.sleep(0.01)
        real.collect(5)
    rows, _ = kept(tmp_path)
    assert [row.policy for row in rows] == [41] * 20 + [59] * 5
    np.testing.assert_allclose([row.sent for row in rows], np.tanh(0.5), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"base": "envs.no_such:make"}, "No module named"),
        ({"max_action_step": -1.0}, "must be positive"),
        ({"nonsense": 1}, "unexpected keyword argument"),
    ],
)
def test_a_robot_that_cannot_begin_is_refused_with_its_reason(tmp_path, options, said):
    real = robot(tmp_path)
    real.settings.options.update(options)
    with pytest.raises(RobotStopped) as stopped, real:
        pass
    assert said in str(stopped.value)


def test_options_that_cannot_be_told_are_refused():
    with pytest.raises(ValueError, match="are not JSON"):
        Supervisor(Settings("envs.rehearsal:make", 100, options={"x": float("nan")}), Path("nowhere"))


def test_no_process_is_left_and_the_end_is_quick(tmp_path):
    with robot(tmp_path, (10, "hang_hard", None), deadlines=Deadlines(step=60.0, close=0.3)) as real:
        real.run()
        time.sleep(0.5)
        pid, begun = real._process.pid, time.monotonic()
    assert time.monotonic() - begun < 2.0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_two_robots_cannot_write_one_journal(tmp_path):
    with robot(tmp_path) as real:
        real.collect(5)
        with pytest.raises(RobotStopped, match="one journal has one writer"), robot(tmp_path):
            pass
    assert len(kept(tmp_path)[0]) == 5
