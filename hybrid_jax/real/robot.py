"""The robot's own process: environment, acting policy, safety gate and journal, on the robot's clock.

Started by the supervisor as `python -m hybrid_jax.real.robot FD`; orders come and reports go through that socket.
A step is reported only when its record is on disk, by its sequence number. When the learner is gone, or SIGTERM
comes, the robot gets the safe action and the process ends.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_jax.export import NumpyPolicy, unflatten
from hybrid_jax.real.body import Body, EmergencyStop, Ended
from hybrid_jax.real.clock import Clock
from hybrid_jax.real.gate import Gate, GateError
from hybrid_jax.real.journal import Journal
from hybrid_jax.real.record import COUNTED, Fault, Flag, Transition
from hybrid_jax.real.schema import Schema
from hybrid_jax.real.segments import JournalError
from hybrid_jax.real.validate import BadAnswer, Checker
from hybrid_jax.real.wire import Channel, WireError

BEAT = 0.1  # [s] between signs of life while nothing is to do
LOOK = 0.02  # [s] between two looks whether it has been told to end
LAST = 0.5  # [s] from the end of the line to the end of the process, where it is not being held just then


HOPELESS = (EmergencyStop, GateError, JournalError, ImportError, AttributeError, TypeError)  # would come again


class Robot:
    """Holds the environment and drives it step by step as ordered."""

    def __init__(self, channel: Channel, order: dict[str, Any]):
        self._channel, self._order = channel, order
        self.body = Body(order["factory"], order["options"], moved=order["fault"] is not None)
        limits = self.body.limits
        self.schema = Schema(
            robot=order["factory"],
            obs_size=self.body.obs_size,
            action_size=limits.low.size,
            action_low=tuple(limits.low.tolist()),
            action_high=tuple(limits.high.tolist()),
            rate=order["rate"],
        )
        self.gate = Gate(limits, self.body.workspace)
        self.checker = Checker(self.schema.obs_size, order["reward_range"], order["frozen_after"])
        self.journal = Journal(Path(order["journal"]), self.schema)
        self._clock = Clock(order["rate"])
        self._policy: NumpyPolicy | None = None
        self._version = 0
        self._id = 0  # of the order that is carried out
        self._left = 0  # steps still ordered; -1: no end
        self._episodes = -1  # episodes still ordered; -1: no end
        self._greedy = False  # the policy's mode instead of a sample
        self._totals = dict.fromkeys(COUNTED, 0)  # of this process
        self._obs: np.ndarray | None = None  # None: no episode is open
        last = self.journal.recovery.last
        self._episode, self._step = (0 if last is None else last.episode + 1), 0
        if order["fault"] is not None:  # what ended the process before this one, which could not write it down
            self._fault(order["fault"])

    def ready(self) -> None:
        """Holds the robot where the process before this one could not, and reports what was opened."""
        failed = self.body.hold()
        if failed:
            self._fault(f"the robot was to be held{failed}")
        found = self.journal.recovery
        counts = {"kept": found.kept, "torn_bytes": found.torn_bytes, "stranded": found.stranded}
        self._report("ready", phase="hold", schema=self.schema.to_json(), **counts)

    def serve(self) -> None:
        """Obeys until it is told to close. Raises WireError when the learner is gone, Ended after SIGTERM."""
        beat = 0.0
        while True:
            if self.body.ending:
                raise Ended
            self._channel.flush()
            message = self._channel.receive(min(LOOK, self._clock.wait() if self._left else LOOK))
            try:
                if message is not None:
                    if message[0]["op"] == "close":
                        return
                    self._obey(*message)
                elif self._left and self._alarmed():
                    self._left = 0
                    failed = self._safe()
                    self._break_off(f"a signal to the learner{failed}")
                    self._report("alarmed", phase="hold")
                elif self._left and self._clock.wait() == 0.0:
                    self._tick()
                elif not self._left and time.monotonic() - beat > BEAT:
                    beat = time.monotonic()
                    self._report("beat", droppable=True)
            except EmergencyStop as stop:
                self._emergency(stop)
            except JournalError as full:  # nothing more can be written down, so nothing more is done
                self._left, self._obs = 0, None
                self._report("stopped", kind="disk", reason=str(full) + self._safe())

    def _alarmed(self) -> bool:
        """Whether the learner's process has got a signal that it has not come to act upon."""
        alarm = self._order["alarm"]
        return alarm is not None and bool(select.select([alarm], [], [], 0)[0])

    def _obey(self, order: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        if order["op"] == "policy":
            self._policy, self._version = NumpyPolicy.from_params(unflatten(arrays)), order["version"]
            self._report("policy", version=self._version)
        elif order["op"] == "run" and not self.body.untouchable:
            if order["id"] == self._id and self._left:
                return  # told twice, before and after the line stood
            self._id, self._left = order["id"], order["steps"]
            self._episodes, self._greedy = order["episodes"], order["greedy"]
            if self._greedy:  # a policy is judged by whole episodes
                self._break_off("an episode of judgement begins")
            if self._obs is not None:
                self._report("phase", phase="step")
            self._clock.go_on()
        elif order["op"] == "hold":
            self._id = order["id"]
            self._hold("told to hold")

    def shut_down(self) -> None:
        """The safe action, then the environment and the journal are closed."""
        self.body.ending = True
        try:
            with contextlib.suppress(WireError):  # nobody listens: all the more it must be held
                self._report("phase", phase="hold")
            failed = self.body.hold()
            if failed:
                print(f"robot{failed}", file=sys.stderr)
        except EmergencyStop as stop:
            print(f"robot: emergency stop: {stop}", file=sys.stderr)
        finally:
            self.journal.close()
            self.body.close()

    def _tick(self) -> None:
        try:
            if self._obs is None:
                self._reset()
            else:
                self._advance()
        except (WireError, JournalError):
            raise
        except EmergencyStop as stop:
            self._emergency(stop)
        except BadAnswer as bad:
            self._give_up("bad answer", str(bad), bad.answer, stopped=bad.hopeless)
        except Exception as error:  # whatever a user's environment raises is a fault of this step, told and recorded
            self._give_up("error", f"{type(error).__name__}: {error}", traceback.format_exc())

    def _emergency(self, stop: EmergencyStop) -> None:
        """From now on nothing is sent."""
        self.body.untouchable = True
        self._give_up("emergency stop", f"emergency stop: {stop}", stopped=True)

    def _reset(self) -> None:
        self._report("phase", phase="reset")
        answer = self.body.reset(self._order["seed"] + self._episode)
        self.body.stopped_by(answer)
        obs, _ = answer
        self._obs = self.checker.observation(obs)
        self.checker.begin(self._obs)
        self.gate.reset()
        self._step = 0
        self._clock.begin()
        self._report("phase", phase="step")

    def _advance(self) -> None:
        asking = time.monotonic()
        rng = np.random.default_rng((self._order["seed"], self.journal.next_sequence))
        asked = self._asked(rng)
        decision = self.gate(asked, self._obs)
        acted = time.monotonic() - asking
        if decision.doubt is not None:
            self._give_up("doubt", decision.doubt)
            return
        begun = time.monotonic()
        answer = self.body.step(decision.sent)
        flags = self._clock.judge(begun, time.monotonic())
        self.body.stopped_by(answer)  # before anything else: a robot without power answers nonsense
        obs, reward, terminated, truncated, info = self.checker.answer(answer)
        flags |= self.checker.flags | (Flag.LIMITED if decision.limited else Flag(0))
        flags |= Flag.GREEDY if self._greedy else Flag(0)
        sent = decision.sent
        if "intervene_action" in info:
            sent = self.checker.intervention(info["intervene_action"], self.gate.limits)
            self.gate.executed(sent)
            flags |= Flag.INTERVENED
        truncated = truncated or bool(info.get("abort")) or self._step + 1 >= self._order["episode_length"]
        flags |= Flag.TERMINATED if terminated else Flag.TRUNCATED if truncated else Flag(0)
        row = Transition(
            self.journal.next_sequence, self._episode, self._step, self._obs, np.asarray(asked, np.float32), sent,
            reward, obs, flags, self._version, begun, time.time(),
        )  # fmt: skip
        self.journal.append(row)
        self._obs, self._step = obs, self._step + 1
        self._left -= self._left > 0
        if terminated or truncated:
            self._obs, self._episode = None, self._episode + 1
            self._episodes -= self._episodes > 0
        for name, flag in COUNTED.items():
            self._totals[name] += flag is None or bool(flags & flag)
        self._report("row", droppable=True, phase="step", acted=acted, interval=self._clock.interval)
        if self._left == 0 or self._episodes == 0:
            self._done()

    def _done(self) -> None:
        """What was ordered is done. A robot is held, which ends its episode; a simulated one just waits, within it."""
        self._left, failed = 0, ""
        if not self.body.simulated:
            failed = self._safe()
            if self._obs is not None:
                self._obs, self._episode = None, self._episode + 1
        self._report("held", phase="hold", reason=f"the ordered steps are done{failed}")

    def _asked(self, rng: np.random.Generator) -> np.ndarray:
        if self._policy is None:
            return rng.uniform(self.gate.limits.low, self.gate.limits.high).astype(np.float32)
        return self._policy(self._obs) if self._greedy else self._policy.explore(self._obs, rng)

    def _give_up(self, kind: str, reason: str, details: Any = "", stopped: bool = False) -> None:
        """Holds the robot, ends the episode without a row, writes down why and tells the learner.

        details: for the record alone, behind the reason: the bad answer, or where an error came from.
        """
        try:
            reason += self._safe()
        except EmergencyStop as stop:
            kind, reason, stopped = "emergency stop", f"emergency stop: {stop}, when held after: {reason}", True
        left = {"left": self._left, "episodes": self._episodes}
        self._obs, self._left = None, 0
        self._fault(f"{reason}\n{details}" if details else reason)
        self._episode += 1
        self._report("stopped" if stopped else "fault", kind=kind, reason=reason, **left)

    def _safe(self) -> str:
        """Holds the robot and says where that failed; a slow `hold` of the user's is no hang of a step."""
        self._report("phase", phase="hold")
        return self.body.hold()

    def _report(self, event: str, droppable: bool = False, **more: Any) -> None:
        """Tells the learner, without waiting for it: totals, so that a report that was dropped is no loss."""
        told = {"event": event, "next": self.journal.next_sequence, "totals": self._totals}
        order = {"id": self._id, "left": self._left, "episodes": self._episodes}
        self._channel.post(told | order | more, droppable=droppable)

    def _fault(self, reason: str) -> None:
        now = time.monotonic(), time.time()
        self.journal.append(Fault(self.journal.next_sequence, self._episode, self._step, reason,
                                  Flag.TRUNCATED, *now))  # fmt: skip

    def _hold(self, reason: str) -> None:
        self._left = 0
        reason += self._safe()
        self._break_off(reason)
        self._report("held", reason=reason)

    def _break_off(self, reason: str) -> None:
        """The open episode, if there is one, cannot go on."""
        if self._obs is not None:
            self._obs = None
            self._fault(reason)
            self._episode += 1


def end_with(descriptor: int, body: Body, longest: float) -> None:
    """Ends this process soon after the other end of the line is closed, whatever the environment is doing.

    The main thread sees that by itself unless it hangs in a call of the environment, with nobody left to end it.
    longest: [s] that holding the robot may take then.
    """
    line, closed = select.poll(), select.POLLHUP | getattr(select, "POLLRDHUP", 0)
    line.register(descriptor, closed)
    while not any(event & closed for _, event in line.poll()):
        pass
    time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    begun = held = time.monotonic()  # held: when it was last seen being held
    while (now := time.monotonic()) - held < LAST and now - begun < longest:
        held = now if body.holding else held
        time.sleep(LOOK)
    os._exit(128 + signal.SIGKILL)


def main(descriptor: int) -> int:
    """The process: 0 when it was told to close, 1 where it could not begin, 3 when the learner went away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the learner decides at once
    channel = Channel(socket.socket(fileno=descriptor))
    order, _ = channel.receive(None)
    try:
        robot = Robot(channel, order)
    except Exception as error:  # told as text: no object of this process crosses the line
        hopeless = isinstance(error, HOPELESS)
        channel.send({"event": "refused", "reason": f"{type(error).__name__}: {error}", "hopeless": hopeless})
        return 1
    signal.signal(signal.SIGTERM, robot.body.end)
    threading.Thread(target=end_with, args=[descriptor, robot.body, order["close"]], daemon=True).start()
    code = 0
    try:
        robot.ready()
        robot.serve()
    except WireError:
        code = 3
    except Ended:
        code = 128 + signal.SIGTERM
    finally:
        robot.shut_down()
    return code


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))
