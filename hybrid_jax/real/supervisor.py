"""The learner's side of a robot: starts its process, sees that it answers in time, restarts it, knows why it stands.

    HOLD (safe action sent, waiting for orders) -> RUN -> HOLD ... -> STOPPED (a person is needed)

A thread listens; training never waits for it. Every fault is counted by its kind and written to `status.json`.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_jax.export import flatten
from hybrid_jax.metrics import write_atomically
from hybrid_jax.real.record import Flag
from hybrid_jax.real.schema import Schema, from_json
from hybrid_jax.real.settings import RobotStopped, Settings, State
from hybrid_jax.real.wire import Channel, WireError

_GRACE = 0.05  # [s] between asking a process to end and ending it
_LOOK = 0.02  # [s] between two looks at the clock
_ORDER = ("factory", "options", "rate", "seed", "reward_range", "frozen_after", "episode_length")


class Supervisor:
    """Keeps one robot process running; a context manager that returns when the robot is connected or STOPPED."""

    def __init__(self, settings: Settings, folder: Path, say: Callable[[str], None] = lambda text: None):
        """folder: for the journal and status.json; say: told in words what was not ordered.

        Raises ValueError for options that are not JSON.
        """
        try:
            json.dumps(settings.options, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the options {settings.options} of {settings.factory} are not JSON: {error}") from error
        self.settings, self.folder, self._say = settings, Path(folder), say
        self.journal = self.folder / "journal"
        self.schema: Schema | None = None
        self.state, self.reason = State.STARTING, "not started"
        self.watermark = 0  # records on disk: all numbers below it
        self.faults: Counter[str] = Counter()
        self.rows = self.late = 0
        self._left = 0  # steps that are still ordered; -1: no end
        self._policy: tuple[dict[str, np.ndarray], int] | None = None  # the newest
        self._told = self._taken = -1  # versions of the policy sent, and received over there
        self._bad, self._rows_then = 0, -1  # faults in a row without a good row between
        self._changed = threading.Condition()
        self._process: subprocess.Popen | None = None
        self._channel: Channel | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._watch, name="robot", daemon=True)

    def __enter__(self) -> "Supervisor":
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self.schema is not None or self.state == State.STOPPED)
        if self.state == State.STOPPED:
            self.__exit__()
            raise RobotStopped(self.reason)
        return self

    def __exit__(self, *error: object) -> None:
        """The robot gets the safe action and its process ends, by itself or by force."""
        with self._changed:
            self._closing = True
            self._tell({"op": "close"})
        self._thread.join()

    def set_policy(self, params: Any, version: int) -> None:
        """Gives the robot a copy of an actor's parameters; `version` is stamped on every row it leads to.

        Never waits: while the robot has not taken one policy, only the newest of the later ones is kept.
        """
        with self._changed:
            self._policy = flatten(params), version
            self._hand_over()

    def run(self, steps: int = -1) -> None:
        """Orders so many steps more (-1: until told otherwise). Raises RobotStopped."""
        with self._changed:
            if self.state == State.STOPPED:
                raise RobotStopped(self.reason)
            self._left = steps
            self._change(State.RUN, "ordered", quiet=True)
            self._tell({"op": "run", "steps": steps})

    def hold(self) -> None:
        """Ends the open episode; the robot gets the safe action."""
        with self._changed:
            self._left = 0
            self._tell({"op": "hold"})

    def collect(self, steps: int) -> int:
        """Lets the robot do `steps` steps and waits for them; returns the new watermark. Raises RobotStopped."""
        self.run(steps)
        with self._changed:
            self._changed.wait_for(lambda: (self._left == 0 and self.state != State.RUN) or self.state == State.STOPPED)
            if self.state == State.STOPPED:
                raise RobotStopped(self.reason)
            return self.watermark

    def wait(self, watermark: int, timeout: float) -> int:
        """Waits until the journal holds so many records, at most `timeout` seconds; returns how many it holds.

        Raises RobotStopped where no more will come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.watermark >= watermark or self.state == State.STOPPED, timeout)
            if self.watermark < watermark and self.state == State.STOPPED:
                raise RobotStopped(self.reason)
            return self.watermark

    def _watch(self) -> None:
        """The listening thread."""
        try:
            self._live_on()
        except BaseException as error:
            self._set(State.STOPPED, f"the supervisor failed: {error!r}")
            raise
        finally:
            self._end_process()

    def _live_on(self) -> None:
        """One life of the robot's process after the other."""
        attempt, fault, before = 0, None, 0
        while not self._closing:
            fault = self._life(fault)
            if self._closing or self.state == State.STOPPED:
                break
            attempt, before = 1 if self.rows > before else attempt + 1, self.rows
            if attempt > self.settings.retries:
                self._set(State.STOPPED, f"{fault}; given up after {self.settings.retries} attempts")
                break
            wait = min(60.0, self.settings.retry_wait * 2 ** (attempt - 1))
            self._set(State.HOLD, f"{fault}; attempt {attempt} of {self.settings.retries} in {wait:g} s")
            deadline = time.monotonic() + wait
            while time.monotonic() < deadline and not self._closing:
                time.sleep(_LOOK)

    def _life(self, fault: str | None) -> str:
        """Starts a process and listens to it until it ends; returns why it ended."""
        self._start(fault)
        phase, heard = "connect", time.monotonic()
        while True:
            try:
                message = self._channel.receive(_LOOK)
            except WireError:
                reason = self._end_process(patience=0.5)  # it is about to end by itself
                return reason if self._closing else self._count("death", reason)
            if message is None:
                limit = self._limit(phase)
                if time.monotonic() - heard > limit:
                    self._end_process()
                    return self._count("hang", f"no answer for {limit:g} s in {phase}")
                continue
            heard = time.monotonic()
            phase = message[0].get("phase", phase)
            ended = self._heard(message[0])
            if ended is not None:
                return ended

    def _limit(self, phase: str) -> float:
        """Seconds of silence that count as a hang."""
        deadlines = self.settings.deadlines
        if self._closing:
            return deadlines.close
        if phase == "step":
            return deadlines.step or (10 / self.settings.rate if self.settings.rate else 5.0)
        return {"connect": deadlines.connect, "reset": deadlines.reset}.get(phase, deadlines.idle)

    def _heard(self, message: dict[str, Any]) -> str | None:
        """Takes note of a report; returns a reason where the process has ended."""
        with self._changed:
            event, reason = message["event"], message.get("reason", "")
            self.watermark = message.get("next", self.watermark)
            if event == "ready":
                self._begin(message)
            elif event == "refused":
                self._count("refused", reason)
                if message["hopeless"]:
                    self._change(State.STOPPED, reason)
                    self._changed.notify_all()
                self._end_process()
                return reason
            elif event == "policy":
                self._taken = message["version"]
                self._hand_over()
            elif event == "row":
                self.rows += 1
                self.late += bool(message["flags"] & Flag.LATE)
                self._left -= self._left > 0
            elif event == "held":
                self._change(State.HOLD, reason, quiet=True)
            elif event == "fault":
                self._count(message["kind"], reason)
                self._go_on(reason)
            elif event == "stopped":
                self._count(message["kind"], reason)
                self._change(State.STOPPED, reason)
            self._changed.notify_all()
        return None

    def _go_on(self, reason: str) -> None:
        """After a fault the robot holds; the steps that are still ordered go on in a new episode."""
        self._bad = self._bad + 1 if self.rows == self._rows_then else 1
        self._rows_then = self.rows
        if self._bad > self.settings.retries:
            self._change(State.STOPPED, f"{reason}; {self._bad} times in a row")
        elif self._left != 0:
            self._tell({"op": "run", "steps": self._left})

    def _begin(self, message: dict[str, Any]) -> None:
        self.schema = from_json(message["schema"])
        if message["torn_bytes"]:
            self._say(f"{message['kept']} records recovered, {message['torn_bytes']} torn bytes set aside")
        self._told = self._taken = -1
        self._hand_over()
        if self._left != 0:
            self._tell({"op": "run", "steps": self._left})
        self._change(State.RUN if self._left else State.HOLD, "connected")

    def _hand_over(self) -> None:
        """Sends the newest policy, unless one is still on its way."""
        if self._policy is not None and self._told == self._taken and self._policy[1] != self._told:
            self._told = self._policy[1]
            self._tell({"op": "policy", "version": self._told}, self._policy[0])

    def _start(self, fault: str | None) -> None:
        ours, theirs = socket.socketpair()
        with theirs, self._changed:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hybrid_jax.real.robot", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
            )
            self._channel = Channel(ours)
            order = {name: getattr(self.settings, name) for name in _ORDER}
            self._tell(order | {"journal": str(self.journal.resolve()), "fault": fault})

    def _end_process(self, patience: float = 0.0) -> str:
        """Ends the process where it has not ended within `patience` seconds, by force if need be; says how."""
        with self._changed:
            channel, process, self._channel = self._channel, self._process, None
        if process is None:
            return "no process"
        if channel is not None:
            channel.close()
        with process:
            for seconds, end in ((patience, process.terminate), (_GRACE, process.kill)):
                try:
                    process.wait(seconds)
                    break
                except subprocess.TimeoutExpired:
                    end()
            code = process.wait()
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with code {code}"

    def _tell(self, message: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
        """Sends an order; a process that is gone is the listening thread's business."""
        if self._channel is None:
            return
        try:
            self._channel.send(message, arrays)
        except WireError as error:
            self._say(f"order {message.get('op', 'open')!r} was not taken: {error}")

    def _count(self, kind: str, reason: str) -> str:
        self.faults[kind] += 1
        self._say(f"{kind}: {reason}")
        return reason

    def _set(self, state: State, reason: str) -> None:
        with self._changed:
            self._change(state, reason)
            self._changed.notify_all()

    def _change(self, state: State, reason: str, quiet: bool = False) -> None:
        """Takes note of a new state; quiet: one that was ordered need not be said."""
        if (state, reason) == (self.state, self.reason):
            return
        self.state, self.reason = state, reason
        if not quiet:
            self._say(f"{state.value}: {reason}")
        status = {
            "state": state.value,
            "reason": reason,
            "since": time.time(),
            "rows": self.rows,
            "late": self.late,
            "records": self.watermark,
            "faults": dict(self.faults),
        }
        write_atomically(self.folder / "status.json", json.dumps(status, indent=2) + "\n")
