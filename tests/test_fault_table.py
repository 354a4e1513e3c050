"""What can happen to a robot, row by row: what is said, what is kept, what is sent.

`tests/mutations.py` names the 24 rows, and takes the handling of each out of the code to see its test fail.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from envs import point_mass, rehearsal
from hybrid_jax.real import record as records
from hybrid_jax.real import segments
from hybrid_jax.real.body import Body, Ended
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.gate import GateError, declared, is_robot
from hybrid_jax.real.journal import Journal
from hybrid_jax.real.record import Flag
from hybrid_jax.real.segments import JournalError
from hybrid_jax.real.settings import Deadlines, Halted, RobotStopped, State
from hybrid_jax.real.supervisor import Supervisor
from tests.test_journal import SCHEMA, step
from tests.test_robot import QUICK, kept, obeys_the_point_mass, robot

ROOT = Path(__file__).resolve().parent.parent


def test_row_1_a_raising_step_at_the_first_a_middle_and_the_last_step_of_an_episode(tmp_path):
    with robot(tmp_path, *[(n, "raise", f"motor {n}") for n in (0, 42, 143)]) as real:  # the safe action counts, too
        real.collect(150)
        assert real.faults == {"error": 3}
    rows, faults = kept(tmp_path)
    obeys_the_point_mass(rows)
    assert [(fault.episode, fault.step) for fault in faults] == [(0, 0), (1, 40), (2, 99)]
    assert all("RuntimeError: motor" in fault.text and "in step" in fault.text for fault in faults)  # the traceback
    np.testing.assert_array_equal(sent(tmp_path)[[1, 43, 144], 1], 0.0)  # it is held after each


@pytest.mark.parametrize("times", [1, 4])
def test_row_2_resets_that_fail_are_tried_again_after_a_wait(tmp_path, times):
    with robot(tmp_path, *[(n, "reset_raise", "no link") for n in range(1, 1 + times)], retry_wait=0.05) as real:
        begun = time.monotonic()
        real.collect(110)
        taken = time.monotonic() - begun
        assert real.faults == {"error": times} and real.state == State.HOLD
        waits = sum(0.05 * 2**n for n in range(times - 1))  # the first attempt comes at once
        assert taken >= waits
        assert sum("attempt" in line for line in real.said) == times - 1
    obeys_the_point_mass(kept(tmp_path)[0])


def test_row_4_late_answers_by_their_lateness(tmp_path):
    faults = [(5, "late", 0.075), (10, "late", 0.15), (15, "late", 0.5)]  # 1.5, 3 and 10 periods
    with robot(tmp_path, *faults, rate=20.0) as real:
        real.collect(20)
    rows, _ = kept(tmp_path)
    assert all(row.flags & Flag.LATE for row in (rows[5], rows[10], rows[15]))
    assert not rows[5].flags & Flag.GAP and rows[15].flags & Flag.GAP
    assert len(rows) == 20


def test_row_4_a_pause_before_a_step_is_a_gap_and_is_told(tmp_path):
    with robot(tmp_path, rate=50.0) as real:
        real.collect(10)
        time.sleep(0.3)
        real.collect(10)
    rows, _ = kept(tmp_path)
    assert rows[10].flags & Flag.GAP and rows[10].episode == rows[9].episode


def test_row_4_a_large_share_of_late_steps_is_told_once(tmp_path):
    with robot(tmp_path, *[(n, "late", 0.012) for n in range(20)], rate=100.0) as real:
        real.collect(220)
        assert sum("steps were late" in line for line in real.said) == 1
        assert real.counts["late"] >= 20


def test_row_6_a_line_that_is_cut_for_a_while_comes_back(tmp_path):
    with robot(tmp_path, (30, "gone", 0.7), retry_wait=0.1, retries=4) as real:
        real.collect(60)
        assert real.faults["error"] >= 3
        back = [line for line in real.said if line.startswith("back after")]
        assert len(back) == 1 and 0.7 <= float(back[0].split()[2]) < 3.0
    rows, faults = kept(tmp_path)
    obeys_the_point_mass(rows)
    assert len(rows) == 60 and "the line to the robot is cut" in faults[0].text


def test_row_7_no_element_of_an_observation_may_be_bad_and_the_answer_is_kept(tmp_path):
    with robot(tmp_path, (10, "nan", 0), (20, "nan", -1), (30, "reset_nan", 0)) as real:
        real.collect(50)
        assert real.faults == {"bad answer": 2}
    rows, faults = kept(tmp_path)
    obeys_the_point_mass(rows)
    assert all(np.all(np.isfinite(np.concatenate([row.obs, row.next_obs]))) for row in rows)
    for fault, index in zip(faults, (0, 1), strict=True):
        first, answer = fault.text.split("\n", 1)
        assert f"observation {index} is nan (1 of 2 are not finite)" in first
        assert answer.startswith("the answer was (array([") and "nan" in answer


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [("shape", [1, 2], "shape (1, 2)"), ("shape", [], "shape ()"), ("shape", 0, "shape (0,)"), ("keys", 1, "is dict")],
)
def test_row_9_another_form_stops_the_robot(tmp_path, kind, value, said):
    with robot(tmp_path, (5, kind, value)) as real, pytest.raises(RobotStopped) as stopped:
        real.collect(10)
    assert said in str(stopped.value)
    assert len(kept(tmp_path)[0]) == 5
    assert rehearsal.commands(tmp_path / "memory", 1)[-1, 1] == 0.0  # a person is needed; until then it is held


def test_row_15_an_emergency_stop_among_nonsense_is_still_one(tmp_path):
    """A robot without power has no sensors either."""
    with robot(tmp_path, (20, "estop", "button"), (20, "nan", 0), (20, "reward", "inf")) as real:
        with pytest.raises(RobotStopped, match="emergency stop: button"):
            real.collect(50)
        assert real.faults == {"emergency stop": 1}
        with pytest.raises(RobotStopped):
            real.run(1)
        real.hold()
        time.sleep(0.1)
        assert real.state == State.STOPPED and "button" in real.status.reason  # nothing covers it up
    assert len(rehearsal.commands(tmp_path / "memory", 1)) == 21  # nothing was sent after it


def test_row_12_a_wall_clock_that_jumps_changes_no_rate(tmp_path):
    with robot(tmp_path, (10, "clock", -3600.0), (20, "clock", 7200.0), rate=50.0) as real:
        real.collect(30)
    rows, faults = kept(tmp_path)
    assert not faults and not any(row.flags & Flag.GAP for row in rows)
    assert rows[15].wall < rows[5].wall - 3000 and rows[25].wall > rows[15].wall + 6000
    assert np.median(np.diff([row.monotonic for row in rows])) == pytest.approx(0.02, rel=0.1)


def test_row_16_after_an_operator_the_gate_starts_from_what_was_executed(tmp_path):
    still = {"Dense_0": {"kernel": np.zeros((2, 2), np.float32), "bias": np.float32([-3.0, 0.0])}}
    still |= {"log_std_multiplier": np.float32(0), "log_std_offset": np.float32(-20)}
    real = robot(tmp_path, *[(n, "intervene", [1.0]) for n in range(20, 26)])
    real.settings.options["max_action_step"] = 0.25
    with real:
        real.set_policy(still, 1)
        real.collect(40)
    sent = [float(row.sent[0]) for row in kept(tmp_path)[0]]
    np.testing.assert_allclose(sent[25:30], [1.0, 0.75, 0.5, 0.25, 0.0], atol=1e-6)


def test_row_16_an_operator_who_takes_over_for_a_while(tmp_path):
    taken = range(20, 26)
    with robot(tmp_path, *[(n, "intervene", [0.1 * (n - 19)]) for n in taken]) as real:
        real.collect(40)
    rows, _ = kept(tmp_path)
    obeys_the_point_mass(rows)
    assert [n for n, row in enumerate(rows) if row.flags & Flag.INTERVENED] == list(taken)
    np.testing.assert_allclose([rows[n].sent[0] for n in taken], [0.1 * (n - 19) for n in taken], rtol=1e-6)


def test_row_20_a_full_disk_stops_the_robot_and_nothing_unkept_is_acknowledged(tmp_path):
    with robot(tmp_path, (20, "disk", 1500)) as real:
        with pytest.raises(RobotStopped, match=r"the real step \d+ cannot be kept \(File too large\); .* GiB are free"):
            real.collect(60)
        assert real.faults == {"disk": 1} and real.state == State.STOPPED
        acknowledged = real.watermark
    rows, _ = kept(tmp_path)
    obeys_the_point_mass(rows)
    assert len(rows) == acknowledged <= 21
    sent = rehearsal.commands(tmp_path / "memory", 1)
    assert np.all(sent[: acknowledged + 1, 1] != 0.0) and np.all(sent[acknowledged + 1 :, 1] == 0.0)  # one not kept


LEARNER = """
import sys, time
from pathlib import Path
from hybrid_jax.real.settings import Deadlines
from tests.test_robot import robot

hang = [(int(sys.argv[2]), "hang_hard", None)] if len(sys.argv) > 2 else []
with robot(Path(sys.argv[1]), *hang, rate=100.0, deadlines=Deadlines(step=1000.0)) as real:
    real.run()
    print(real._process.pid, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def learner(tmp_path, request):
    """A learner in a process of its own whose robot goes on at 100 Hz, and the robot's process id.

    The parameter, where there is one, is a step at which the robot hangs for ever, deaf to SIGTERM.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    hangs_at = [str(request.param)] if hasattr(request, "param") else []
    command = [sys.executable, "-c", LEARNER, str(tmp_path), *hangs_at]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as child:
        pid = int(child.stdout.readline())
        wait_for(lambda: len(sent(tmp_path)) > 20)
        yield child, pid
        child.kill()


def sent(folder: Path) -> np.ndarray:
    """What the robot was told so far: monotonic time [s], action."""
    path = folder / "memory"
    return rehearsal.commands(path, 1) if (path / "commands").exists() else np.zeros((0, 2))


def wait_for(holds, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def gone(pid: int) -> bool:
    """Ended, though perhaps not yet counted among the dead."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


class SlowHold(rehearsal.Rehearsal):
    """A robot whose reset takes 3 s and whose own hold is a ramp of half a second."""

    simulated = False

    def reset(self, **kwargs):
        if self._counts["resets"] == int(os.environ.get("SLOW_RESET", "-1")):
            time.sleep(3.0)
        return super().reset(**kwargs)

    def hold(self):
        with open(self._memory / "holds", "a") as file:
            file.write(f"begin {time.monotonic()}\n")
            file.flush()
            time.sleep(0.5)
            file.write(f"end {time.monotonic()}\n")


def slow_hold(**options):
    return SlowHold(**options)


def slow(folder: Path, **changed):
    """A supervisor of that robot."""
    real = robot(folder, rate=50.0, deadlines=Deadlines(step=1.0, reset=30.0), **changed)
    object.__setattr__(real.settings, "factory", "tests.test_fault_table:slow_hold")
    return real


def holds(folder: Path) -> list[tuple[str, float]]:
    return [(word, float(at)) for word, at in map(str.split, (folder / "memory" / "holds").read_text().splitlines())]


def test_row_18_a_ramp_of_the_users_is_waited_for_and_is_no_fault(tmp_path):
    with slow(tmp_path) as real:
        real.run()
        wait_for(lambda: real.rows > 20)
        told = time.monotonic()
        real.halt()
        with pytest.raises(Halted):
            real.collect(1)
    words = holds(tmp_path)
    assert [word for word, _ in words] == ["begin", "end"] and words[0][1] - told < 0.3
    assert not real.faults and len(kept(tmp_path)[1]) == 1  # the note that it was told to hold


def test_row_18_a_halt_breaks_off_a_long_reset_and_the_robot_is_held(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOW_RESET", "1")
    with slow(tmp_path) as real:
        real.run()
        wait_for(lambda: real.rows == 100)
        time.sleep(0.3)  # the second reset has begun
        told = time.monotonic()
        real.halt()
        wait_for(lambda: (tmp_path / "memory" / "holds").exists())
        assert holds(tmp_path)[0][1] - told < 0.5
    assert [word for word, _ in holds(tmp_path)] == ["begin", "end"] and not real.faults


def test_a_policy_larger_than_the_line_waits_for_a_slow_reset_and_nobody_else_does(tmp_path, monkeypatch):
    """As the default networks of 256 x 256 are, in a reset of 3 s."""
    monkeypatch.setenv("SLOW_RESET", "0")
    large = {"Dense_0": {"kernel": np.zeros((2, 500_000), np.float32), "bias": np.zeros(500_000, np.float32)}}
    large |= {"Dense_1": {"kernel": np.zeros((500_000, 2), np.float32), "bias": np.float32([0.5, 0.0])}}
    large |= {"log_std_multiplier": np.float32(0), "log_std_offset": np.float32(-20)}
    with slow(tmp_path) as real:
        real.run(30)
        time.sleep(0.5)
        begun = time.monotonic()
        for version in range(1, 4):
            real.set_policy(large, version)
        assert time.monotonic() - begun < 1.0
        wait_for(lambda: real.state == State.HOLD and real.rows == 30)
        real.collect(5)
        assert not real.faults
    rows, _ = kept(tmp_path)
    assert [row.policy for row in rows[-5:]] == [3] * 5


def test_row_19_a_killed_learner_leaves_a_robot_that_holds_and_no_process(tmp_path, learner):
    child, pid = learner
    child.kill()
    killed = time.monotonic()
    wait_for(lambda: gone(pid))
    told = sent(tmp_path)
    assert told[-1, 1] == 0.0 and np.all(told[told[:, 0] > killed + 0.5, 1] == 0.0)  # benchmarks/robot.py: ms
    assert time.monotonic() - killed < 3.0
    obeys_the_point_mass(kept(tmp_path)[0])


@pytest.mark.parametrize("learner", [25], indirect=True)
def test_row_19_a_killed_learner_leaves_no_robot_that_hangs(learner):
    child, pid = learner
    time.sleep(0.2)  # the hang has begun
    child.kill()
    killed = time.monotonic()
    wait_for(lambda: gone(pid))
    assert time.monotonic() - killed < 3.0


def test_row_18_a_robot_process_that_is_told_to_end_holds_first(tmp_path, learner):
    _, pid = learner
    os.kill(pid, signal.SIGTERM)
    told = time.monotonic()
    wait_for(lambda: gone(pid) or sent(tmp_path)[-1, 1] == 0.0)
    assert sent(tmp_path)[-1, 1] == 0.0 and time.monotonic() - told < 0.5


def test_row_22_a_learner_that_stands_still_holds_nothing_up_and_loses_nothing(tmp_path, learner):
    child, _ = learner
    os.kill(child.pid, signal.SIGSTOP)
    begun = len(sent(tmp_path))
    time.sleep(2.0)
    during = len(sent(tmp_path)) - begun
    os.kill(child.pid, signal.SIGCONT)
    assert during > 120  # of 200
    status = tmp_path / "robot" / "status.json"
    wait_for(lambda: json.loads(status.read_text())["rows"] > begun + during)
    state = json.loads(status.read_text())
    assert state["state"] == "run" and not state["faults"] and state["records"] <= len(kept(tmp_path)[0])


def test_row_22_reports_that_nobody_reads_never_block_the_robot():
    """The robot's end of the line, with a reader that reads nothing: totals are dropped, news wait."""
    from hybrid_jax.real.wire import Channel

    ours, theirs = (Channel(end) for end in socket.socketpair())
    begun = time.monotonic()
    posted = [ours.post({"event": "row", "rows": n}, droppable=True) for n in range(20_000)]
    assert not all(posted) and ours.post({"event": "fault"})
    assert time.monotonic() - begun < 5.0
    read = []
    while (message := theirs.receive(0.05)) is not None:
        read.append(message[0])
        ours.flush()
    ours.close()
    theirs.close()
    assert read[-1]["event"] == "fault"
    assert [message["rows"] for message in read[:-1]] == [n for n, went in enumerate(posted) if went]


def test_row_3_a_hang_in_python_is_broken_off_and_the_robot_told_to_hold(tmp_path):
    with robot(tmp_path, (20, "hang", None), deadlines=Deadlines(step=0.5, close=1.0)) as real:
        real.collect(40)
    told = rehearsal.commands(tmp_path / "memory", 1)
    assert told[21, 1] == 0.0 and told[20, 1] != 0.0  # between the hang and the next life


def test_row_3_a_learner_that_keeps_the_interpreter_to_itself_is_no_hang_of_the_robot(tmp_path):
    """As XLA does for moments while it compiles."""
    with robot(tmp_path, rate=50.0, deadlines=Deadlines(step=0.4, close=1.0)) as real:
        real.run()
        wait_for(lambda: real.rows > 5)
        for _ in range(3):
            ctypes.PyDLL(None).usleep(800_000)  # with the interpreter's lock
            time.sleep(0.1)
        assert not real.faults
        real.hold()


def test_a_line_on_the_status_is_fresh_while_the_robot_runs(tmp_path):
    with robot(tmp_path, rate=100.0, deadlines=QUICK) as real:
        real.run()
        wait_for(lambda: real.rows > 120)
        wait_for(lambda: json.loads((tmp_path / "robot" / "status.json").read_text())["rows"] > 0, 3.0)
        real.hold()
        wait_for(lambda: real.state == State.HOLD)
    assert rehearsal.commands(tmp_path / "memory", 1)[-1, 1] == 0.0


@pytest.mark.parametrize("order", [[0, 1, 1, 2], [0, 2, 1], [1, 2]], ids=["doubled", "swapped", "missing"])
def test_row_11_records_that_are_doubled_or_out_of_order_are_not_taken(tmp_path, order):
    """Whole records with good checksums, in a file that someone has put together wrongly."""
    with Journal(tmp_path / "whole", SCHEMA) as journal:
        for n in range(3):
            journal.append(step(n))
    (path,) = segments.segments(tmp_path / "whole")
    data, size = path.read_bytes(), len(records.encode(step(0), SCHEMA))
    head = len(data) - 3 * size
    pieces = [data[head + n * size : head + (n + 1) * size] for n in order]
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / path.name).write_bytes(data[:head] + b"".join(pieces))
    good = next((n for n, number in enumerate(order) if number != n), len(order))
    assert [record.sequence for record in segments.read(tmp_path / "wrong")] == list(range(good))
    follower = Follower(tmp_path / "wrong", SCHEMA)
    assert len(follower.take(good)) == good
    with pytest.raises(JournalError):
        follower.take(good + 1)


def test_an_order_of_episodes_is_not_begun_anew_by_a_fault(tmp_path):
    with robot(tmp_path, (150, "raise", "motor"), (350, "die", "SIGKILL")) as real:
        real.collect(episodes=4)
        assert real.faults == {"error": 1, "death": 1}
    rows, faults = kept(tmp_path)
    whole = [row.episode for row in rows if row.flags & Flag.TRUNCATED]
    assert len(whole) == 4 and len(faults) == 2 and len(rows) < 4 * 100 + 200


class LastWord(rehearsal.Rehearsal):
    """A robot whose emergency stop shows itself in the answer to the safe action alone."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        tells = self._counts["steps"] > 21 and float(action[0]) == 0.0
        return obs, reward, terminated, truncated, info | ({"estop": "power"} if tells else {})


def last_word(**options):
    return LastWord(**options)


def test_row_15_an_emergency_stop_in_the_answer_to_the_safe_action_is_one(tmp_path):
    real = robot(tmp_path, (20, "nan", 0))
    object.__setattr__(real.settings, "factory", "tests.test_fault_table:last_word")
    with real, pytest.raises(RobotStopped, match="emergency stop: power, when held after: observation 0 is nan"):
        real.collect(50)
    sent = rehearsal.commands(tmp_path / "memory", 1)
    assert len(sent) == 22 and sent[-1, 1] == 0.0  # the bad step, the safe action, and nothing more


def test_row_5_a_robot_whose_process_died_is_held_by_the_next_one_before_anything_else(tmp_path):
    with robot(tmp_path, (20, "die", "SIGSEGV")) as real:
        real.run(30)
        wait_for(lambda: real.rows == 20 and real.faults["death"] == 1)
        real.hold()
        wait_for(lambda: len(rehearsal.commands(tmp_path / "memory", 1)) > 21)
    sent = rehearsal.commands(tmp_path / "memory", 1)
    assert sent[20, 1] != 0.0 and np.all(sent[21:, 1] == 0.0)


def test_the_first_step_of_an_order_has_the_deadline_of_a_step(tmp_path):
    """Not that of standing still, which is shorter here."""
    with robot(tmp_path, (10, "late", 0.8), deadlines=Deadlines(step=3.0, hold=0.4, close=2.0)) as real:
        real.collect(10)
        real.collect(10)
        assert not real.faults


def test_a_signal_between_two_steps_lets_no_other_begin(tmp_path):
    body = Body("envs.point_mass:make_real", {})
    body.reset(0)
    body.end()
    with pytest.raises(Ended):
        body.step(np.zeros(1, np.float32))
    assert body.hold() == ""  # the safe action may


def test_a_robot_under_a_wrapper_is_still_a_robot():
    class Real(point_mass.RealPointMass):
        simulated = False

    class Walled(Real):
        def workspace(self, obs, action):
            return True

    wrapped = gymnasium.wrappers.RescaleAction(Real(), np.float32(-1), np.float32(1))
    assert is_robot(Real()) and is_robot(wrapped) and not is_robot(point_mass.make_real())
    with pytest.raises(GateError, match="declares no max_action_step"):
        declared(wrapped)
    walled = gymnasium.wrappers.RescaleAction(Walled(), np.float32(-1), np.float32(1))
    walled.max_action_step = 1.0
    with pytest.raises(GateError, match="hides the workspace"):
        declared(walled)


def test_row_18_a_robot_knows_of_a_signal_before_a_busy_learner_does(tmp_path):
    """The learner keeps the interpreter for a second; then it halts, or the robot goes on."""
    looks, writes = socket.socketpair()
    plain = robot(tmp_path, rate=50.0, deadlines=Deadlines(step=5.0, close=5.0))
    with looks, writes, Supervisor(plain.settings, tmp_path / "robot", alarm=looks.fileno()) as real:
        real.run()
        wait_for(lambda: real.rows > 10)
        told = time.monotonic()
        writes.send(b"x")  # as the interpreter's own handler does, in C
        ctypes.PyDLL(None).usleep(1_000_000)  # with the interpreter's lock
        after = sent(tmp_path)[sent(tmp_path)[:, 0] > told]
        assert np.all(after[after[:, 0] > told + 0.1, 1] == 0.0) and after[-1, 1] == 0.0
        rows = real.rows
        looks.recv(1)
        wait_for(lambda: real.rows > rows + 5)  # no halt came: what was ordered goes on
        assert not real.faults
