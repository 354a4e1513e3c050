"""The robot's own process: environment, acting policy, safety gate and journal, on the robot's clock.

Started by the supervisor as `python -m hybrid_jax.real.robot FD`; orders come and reports go through that socket.
A step is reported only when its record is on disk, by its sequence number. When the learner is gone, the robot
gets the safe action and the process ends.
"""

import importlib
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_jax.export import NumpyPolicy, unflatten
from hybrid_jax.real.gate import Gate, GateError, declared
from hybrid_jax.real.journal import Journal
from hybrid_jax.real.record import Fault, Flag, Transition
from hybrid_jax.real.schema import Schema
from hybrid_jax.real.segments import JournalError
from hybrid_jax.real.validate import BadAnswer, Checker
from hybrid_jax.real.wire import Channel, WireError

BEAT = 0.1  # [s] between signs of life while nothing is to do
LATE_GAP = 3  # periods after which an answer no longer belongs to its action


class EmergencyStop(Exception):
    """The environment reports that its emergency stop was pressed."""


class Robot:
    """Holds the environment and drives it step by step as ordered."""

    def __init__(self, channel: Channel, order: dict[str, Any]):
        self._channel, self._order = channel, order
        module, _, function = order["factory"].partition(":")
        self.env = getattr(importlib.import_module(module), function)(**order["options"])
        limits = declared(self.env)
        self.schema = Schema(
            robot=order["factory"],
            obs_size=int(np.prod(self.env.observation_space.shape)),
            action_size=limits.low.size,
            action_low=tuple(limits.low.tolist()),
            action_high=tuple(limits.high.tolist()),
            rate=order["rate"],
        )
        self.gate = Gate(limits, getattr(self.env, "workspace", None))
        self.checker = Checker(self.schema.obs_size, order["reward_range"], order["frozen_after"])
        self.journal = Journal(Path(order["journal"]), self.schema)
        self._period = 1.0 / order["rate"] if order["rate"] else 0.0
        self._policy: NumpyPolicy | None = None
        self._version = 0
        self._untouchable = False  # after an emergency stop nothing is sent any more
        self._left = 0  # steps still ordered; -1: no end
        self._obs: np.ndarray | None = None  # None: no episode is open
        last = self.journal.recovery.last
        self._episode, self._step, self._due = (0 if last is None else last.episode + 1), 0, 0.0
        if order["fault"] is not None:  # what ended the process before this one, which could not write it down
            self._fault(order["fault"])

    def ready(self) -> None:
        """Reports what was opened."""
        found = self.journal.recovery
        counts = {"kept": found.kept, "torn_bytes": found.torn_bytes, "stranded": found.stranded}
        self._report("ready", phase="hold", schema=self.schema.to_json(), **counts)

    def serve(self) -> None:
        """Obeys until it is told to close. Raises WireError when the learner is gone."""
        while True:
            wait = BEAT if self._left == 0 else max(0.0, self._due - time.monotonic())
            message = self._channel.receive(wait)
            if message is None:
                if self._left == 0:
                    self._report("beat")
                else:
                    self._tick()
                continue
            order, arrays = message
            if order["op"] == "policy":
                self._policy, self._version = NumpyPolicy.from_params(unflatten(arrays)), order["version"]
                self._report("policy", version=self._version)
            elif order["op"] == "run" and not self._untouchable:
                self._left, self._due = order["steps"], time.monotonic()
            elif order["op"] == "hold":
                self._hold("told to hold")
            elif order["op"] == "close":
                return

    def shut_down(self) -> None:
        """The safe action, then the environment and the journal are closed."""
        try:
            self._send_safe()
        finally:
            self.journal.close()
            self.env.close()

    def _tick(self) -> None:
        try:
            if self._obs is None:
                self._reset()
            self._advance()
        except WireError:
            raise
        except EmergencyStop as stop:
            self._untouchable = True
            self._give_up("emergency stop", f"emergency stop: {stop}", stopped=True)
        except JournalError as full:  # nothing more can be written down, so nothing more is done
            self._left, self._obs = 0, None
            self._send_safe()
            self._report("stopped", phase="hold", kind="disk", reason=str(full))
        except BadAnswer as bad:
            self._give_up("bad answer", str(bad), stopped=bad.hopeless)
        except Exception as error:  # whatever a user's environment raises is a fault of this step, told and recorded
            self._give_up("error", f"{type(error).__name__}: {error}")

    def _reset(self) -> None:
        self._report("phase", phase="reset")
        obs, info = self.env.reset(seed=self._order["seed"] + self._episode)
        self._stopped(info)
        self._obs = self.checker.observation(obs)
        self.checker.begin(self._obs)
        self.gate.reset()
        self._step, self._due = 0, time.monotonic()
        self._report("phase", phase="step")

    def _advance(self) -> None:
        rng = np.random.default_rng((self._order["seed"], self.journal.next_sequence))
        asked = self._asked(rng)
        decision = self.gate(asked, self._obs)
        if decision.doubt is not None:
            self._give_up("doubt", decision.doubt)
            return
        begun = time.monotonic()
        answer = self.env.step(decision.sent)
        taken = time.monotonic() - begun
        obs, reward, terminated, truncated, info = self.checker.answer(answer)
        self._stopped(info)
        flags = self.checker.flags | (Flag.LIMITED if decision.limited else Flag(0))
        sent = decision.sent
        if "intervene_action" in info:
            sent = self.checker.intervention(info["intervene_action"], self.gate.limits)
            flags |= Flag.INTERVENED
        if self._period and taken > self._period:
            flags |= Flag.LATE | (Flag.GAP if taken > LATE_GAP * self._period else Flag(0))
        truncated = truncated or bool(info.get("abort")) or self._step + 1 >= self._order["episode_length"]
        flags |= Flag.TERMINATED if terminated else Flag.TRUNCATED if truncated else Flag(0)
        row = Transition(
            self.journal.next_sequence, self._episode, self._step, self._obs, np.asarray(asked, np.float32), sent,
            reward, obs, flags, self._version, begun, time.time(),
        )  # fmt: skip
        self.journal.append(row)
        self._report("row", phase="step", flags=int(flags))
        self._left -= self._left > 0
        self._obs, self._step = obs, self._step + 1
        if terminated or truncated:
            self._obs, self._episode = None, self._episode + 1
        self._keep_time(begun)
        if self._left == 0:
            self._report("held", phase="hold", reason="the ordered steps are done")

    def _keep_time(self, begun: float) -> None:
        """The next step is due one period after this one was; lost periods are not made up for."""
        self._due = max(self._due + self._period, begun)
        if self._period and time.monotonic() - self._due > self._period:
            self._due = time.monotonic()

    def _asked(self, rng: np.random.Generator) -> np.ndarray:
        if self._policy is None:
            return rng.uniform(self.gate.limits.low, self.gate.limits.high).astype(np.float32)
        return self._policy.explore(self._obs, rng)

    def _stopped(self, info: dict) -> None:
        if info.get("estop"):
            raise EmergencyStop(str(info["estop"]))

    def _give_up(self, kind: str, reason: str, stopped: bool = False) -> None:
        """Ends the episode without a row, writes down why, holds the robot and tells the learner."""
        self._fault(reason)
        self._episode, self._obs, self._left = self._episode + 1, None, 0
        if not stopped:
            try:
                self._send_safe()
            except Exception as error:  # the robot is told to hold in vain; a person must know
                reason += f"; the safe action failed too ({type(error).__name__}: {error})"
        self._report("stopped" if stopped else "fault", phase="hold", kind=kind, reason=reason)

    def _report(self, event: str, **more: Any) -> None:
        self._channel.send({"event": event, "next": self.journal.next_sequence} | more)

    def _fault(self, reason: str) -> None:
        now = time.monotonic(), time.time()
        self.journal.append(Fault(self.journal.next_sequence, self._episode, self._step, reason,
                                  Flag.TRUNCATED, *now))  # fmt: skip

    def _hold(self, reason: str) -> None:
        if self._obs is not None:  # the open episode cannot go on after a pause
            self._fault(reason)
            self._episode, self._obs = self._episode + 1, None
        self._left = 0
        self._send_safe()
        self._report("held", phase="hold", reason=reason)

    def _send_safe(self) -> None:
        """Holds the robot: by its own `hold()` where it has one, else by the safe action."""
        if self._untouchable:
            return
        hold: Callable | None = getattr(self.env, "hold", None)
        if hold is not None:
            hold()
        else:
            self.env.step(self.gate.hold("hold").sent)


def main(descriptor: int) -> int:
    """The process: 0 when it was told to close, 1 where it could not begin, 3 when the learner went away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the learner decides
    channel = Channel(socket.socket(fileno=descriptor))
    order, _ = channel.receive(None)
    try:
        robot = Robot(channel, order)
    except Exception as error:  # told as text: no object of this process crosses the line
        hopeless = isinstance(error, GateError | JournalError | ImportError | AttributeError | TypeError)
        channel.send({"event": "refused", "reason": f"{type(error).__name__}: {error}", "hopeless": hopeless})
        return 1
    try:
        robot.ready()
        robot.serve()
    except WireError:
        return 3
    finally:
        robot.shut_down()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))
