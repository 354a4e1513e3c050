"""The learner's side of a robot: starts its process, sees that it answers in time, restarts it, knows why it stands.

    HOLD (safe action sent, waiting for orders) -> RUN -> HOLD ... -> STOPPED (a person is needed)

A thread listens; training never waits for it. Every fault is counted by its kind and written to `status.json`.
"""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_jax.export import flatten
from hybrid_jax.real.priority import give_way
from hybrid_jax.real.process import Process
from hybrid_jax.real.schema import Schema, from_json
from hybrid_jax.real.settings import Halted, RobotStopped, Settings, State
from hybrid_jax.real.status import Status
from hybrid_jax.real.wire import WireError

_LOOK = 0.01  # [s] between two looks at the clock
_AFTER_ALARM = 2.0  # [s] in which a halt follows an alarm, where it was none for nothing
_PATIENCE = 0.04  # [s] that a call of the environment may go on after the robot was told to hold for good
_SETTINGS = ("factory", "options", "rate", "seed", "reward_range", "frozen_after", "episode_length")


class Supervisor:
    """Keeps one robot process running; a context manager that returns when the robot is connected or STOPPED."""

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        say: Callable[[str], None] = lambda text: None,
        alarm: int | None = None,
    ):
        """folder: for the journal and status.json; say: told in words what was not ordered.

        alarm: a descriptor that becomes readable where the robot shall hold until it is told what to do.
        Raises ValueError for options that are not JSON.
        """
        try:
            json.dumps(settings.options, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the options {settings.options} of {settings.factory} are not JSON: {error}") from error
        self.settings, self.folder, self._say, self._alarm = settings, Path(folder), say, alarm
        self.journal = self.folder / "journal"
        self.schema: Schema | None = None
        self.status = Status(self.folder / "status.json", say)
        # the last order, with the steps still to do
        self._order = {"op": "run", "id": 0, "steps": 0, "episodes": -1, "greedy": False}
        self._policy: tuple[dict[str, np.ndarray], int] | None = None  # the newest
        self._told = self._taken = -1  # versions of the policy sent, and received over there
        self._phase, self._held = "connect", True  # what the robot is in the midst of; whether it stands still
        self._bad, self._rows_then = 0, -1  # faults in a row without a good row between
        self._again: float | None = None  # when the order is given again after a fault
        self._halted: float | None = None  # since when, by the clock
        self._changed = threading.Condition()
        self._process: Process | None = None
        self._closing: float | None = None
        self._thread = threading.Thread(target=self._watch, name="robot", daemon=True)

    def __enter__(self) -> "Supervisor":
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._thread.start()
        try:
            self._wait_until(lambda: self.schema is not None)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """The robot gets the safe action and its process ends, by itself or by force."""
        with self._changed:
            self._closing = time.monotonic()
            self._tell({"op": "close"})
        self._thread.join()
        self.status.change(State.HOLD, "closed", quiet=True)

    @property
    def state(self) -> State:
        return self.status.state

    @property
    def watermark(self) -> int:
        """Records on disk: all numbers below it."""
        return self.status.watermark

    @property
    def rows(self) -> int:
        """Steps since the supervisor began."""
        return self.status.counts["rows"]

    @property
    def counts(self) -> Counter[str]:
        """These steps by `record.COUNTED`."""
        return self.status.counts

    @property
    def faults(self) -> Counter[str]:
        """How many of each kind."""
        return self.status.faults

    def first(self) -> None:
        """From now on the robot comes first on this machine's cores: this process's other threads give way."""
        give_way(*(thread for thread in threading.enumerate() if thread.name in (self._thread.name, "signals")))

    def set_policy(self, params: Any, version: int) -> None:
        """Gives the robot a copy of an actor's parameters; `version` is stamped on every row it leads to.

        Never waits: while the robot has not taken one policy, only the newest of the later ones is kept.
        """
        with self._changed:
            self._policy = flatten(params), version
            self._hand_over()

    def run(self, steps: int = -1, episodes: int = -1, greedy: bool = False) -> None:
        """Orders so many steps or whole episodes more (-1: until told otherwise).

        greedy: by the policy's mode, from a new episode on. Raises RobotStopped, Halted.
        """
        with self._changed:
            self._check()
            self._order |= {"id": self._order["id"] + 1, "steps": steps, "episodes": episodes, "greedy": greedy}
            self._again, self._held = None, False
            self.status.change(State.RUN, "ordered", quiet=True)
            self._tell(self._order)

    def hold(self) -> None:
        """Ends the open episode; the robot gets the safe action."""
        with self._changed:
            self._order |= {"id": self._order["id"] + 1, "steps": 0}
            self._again = None
            self._tell({"op": "hold", "id": self._order["id"]})

    def halt(self) -> None:
        """The robot holds for good, and whoever waits for it is told so by Halted; for another thread to call.

        Where it is in a long call, as in a reset, that is broken off.
        """
        with self._changed:
            self._halted = self._halted or time.monotonic()
            self.hold()
            self._changed.notify_all()

    def collect(self, steps: int = -1, episodes: int = -1, greedy: bool = False) -> int:
        """Lets the robot do what `run` orders and waits for the end of it; returns the new watermark.

        Raises RobotStopped, Halted.
        """
        self.run(steps, episodes, greedy)
        self._wait_until(lambda: self._order["steps"] == 0 and self.state != State.RUN)
        return self.watermark

    def wait(self, watermark: int, timeout: float) -> int:
        """Waits until the journal holds so many records, at most `timeout` seconds; returns how many it holds.

        Raises RobotStopped where no more will come, Halted.
        """
        self._wait_until(lambda: self.watermark >= watermark, timeout)
        return self.watermark

    def _wait_until(self, holds: Callable[[], bool], timeout: float | None = None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: holds() or self._halted is not None or self.state == State.STOPPED, timeout)
            if self._halted is not None or not holds():
                self._check()

    def _check(self) -> None:
        """Raises where the robot will do nothing more."""
        if self._halted is not None:
            raise Halted("the run was told to stop")
        if self.state == State.STOPPED:
            raise RobotStopped(self.status.reason)

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
        while not self._over:
            fault = self._life(fault)
            if self._over or self.state == State.STOPPED:
                break
            attempt, before = 1 if self.rows > before else attempt + 1, self.rows
            if attempt > self.settings.retries:
                self._set(State.STOPPED, f"{fault}; given up after {self.settings.retries} attempts")
                break
            wait = self._wait_before(attempt)
            self._set(State.HOLD, f"{fault}; attempt {attempt} of {self.settings.retries} in {wait:g} s")
            deadline = time.monotonic() + wait
            while time.monotonic() < deadline and not self._over:
                time.sleep(_LOOK)

    @property
    def _over(self) -> bool:
        """Whether no process is to be started any more."""
        return self._closing is not None or self._halted is not None

    def _life(self, fault: str | None) -> str:
        """Starts a process and listens to it until it ends; returns why it ended."""
        self._start(fault)
        self._phase, heard, process = "connect", time.monotonic(), self._process
        assert process is not None
        while True:
            try:
                message = process.channel.receive(_LOOK)
                if message is None and self._overdue(heard):
                    # This thread may have stood still itself, for the interpreter's lock: what came meanwhile counts.
                    message = process.channel.receive(0.0)
            except WireError:
                reason = self._end_process(patience=0.5)  # it is about to end by itself
                return reason if self._over else self.status.count("death", reason)
            if message is not None:
                heard = time.monotonic()
                self._phase = message[0].get("phase", self._phase)
                ended = self._heard(message[0])
                if ended is not None:
                    return ended
            elif limit := self._overdue(heard):
                self._end_process()
                reason = f"no answer for {limit:g} s in {self._phase}"
                return reason if self._over else self.status.count("hang", reason)
            self._look(process)

    def _overdue(self, heard: float) -> float:
        """[s] of the deadline that has passed; 0 where none has."""
        deadlines, rate = self.settings.deadlines, self.settings.rate
        if self._closing is not None:
            heard, limit = self._closing, deadlines.close
        elif self._phase == "step":
            limit = deadlines.step or (max(10 / rate, 0.5) if rate else 5.0)
        else:
            limits = {"connect": deadlines.connect, "reset": deadlines.reset, "hold": deadlines.hold}
            limit = limits[self._phase]
        return limit if time.monotonic() - heard > limit else 0.0

    def _heard(self, message: dict[str, Any]) -> str | None:
        """Takes note of a report; returns a reason where the process has ended."""
        with self._changed:
            event, reason = message["event"], message.get("reason", "")
            new = self.status.add_up(message)
            if event in ("row", "fault", "held") and message["id"] == self._order["id"]:
                self._order |= {"steps": message["left"], "episodes": message["episodes"]}
            if new and self.state == State.HOLD and self._order["steps"]:
                self.status.change(State.RUN, "back", quiet=True)
            if event == "ready":
                self._begin(message)
            elif event == "refused":
                self.status.count("refused", reason)
                if message["hopeless"]:
                    self.status.change(State.STOPPED, reason)
                    self._changed.notify_all()
                self._end_process()
                return reason
            elif event == "policy":
                self._taken = message["version"]
                self._hand_over()
            elif event == "held" and message["id"] == self._order["id"]:
                self._held = True
                self.status.change(State.HOLD, reason, quiet=True)
            elif event == "alarmed":  # the robot holds already; if no halt follows, its order still stands
                self._again = time.monotonic() + _AFTER_ALARM
            elif event == "fault":
                self.status.count(message["kind"], reason)
                if message["id"] == self._order["id"]:
                    self._go_on(reason)
            elif event == "stopped":
                self.status.count(message["kind"], reason)
                self.status.change(State.STOPPED, reason)
            self._changed.notify_all()
        return None

    def _go_on(self, reason: str) -> None:
        """After a fault the robot holds; the steps that are still ordered go on in a new episode.

        The first time at once, then after `retry_wait`, twice that, and so on.
        """
        self._bad = self._bad + 1 if self.rows == self._rows_then else 1
        self._rows_then = self.rows
        if self._bad > self.settings.retries:
            self.status.change(State.STOPPED, f"{reason}; {self._bad} times in a row")
            return
        wait = 0.0 if self._bad == 1 else self._wait_before(self._bad - 1)
        self._again = time.monotonic() + wait
        told = f"; attempt {self._bad} of {self.settings.retries} in {wait:g} s" if wait else ""
        self.status.change(State.HOLD, reason + told)

    def _wait_before(self, attempt: int) -> float:
        return min(60.0, self.settings.retry_wait * 2 ** (attempt - 1))

    def _look(self, process: Process) -> None:
        """What is due: the rest of what was posted, an order after a fault, a fresh status."""
        now = time.monotonic()
        with self._changed:
            with contextlib.suppress(WireError):  # it is gone: what it has sent before is still to be heard
                process.channel.flush()
            if self._again is not None and now >= self._again and self._order["steps"]:
                self._again = None
                self.status.change(State.RUN, "ordered again", quiet=True)
                self._tell(self._order)
            if self._halted is not None and now - self._halted > _PATIENCE and not self._held:
                self._held = True  # or about to be: by its own hold, or by this, and once is enough
                if self._phase != "hold":
                    process.interrupt()
            self.status.freshen()

    def _begin(self, message: dict[str, Any]) -> None:
        self.schema = from_json(message["schema"])
        if message["kept"] and not self.rows:
            torn = f", {message['torn_bytes']} torn bytes set aside" if message["torn_bytes"] else ""
            self._say(f"goes on with the journal behind {message['kept']:,} records{torn}")
        self._told = self._taken = -1
        self._hand_over()
        if self._order["steps"]:
            self._tell(self._order)
        self.status.change(State.RUN if self._order["steps"] else State.HOLD, "connected")

    def _hand_over(self) -> None:
        """Sends the newest policy, unless one is still on its way."""
        if self._policy is not None and self._told == self._taken and self._policy[1] != self._told:
            self._told = self._policy[1]
            self._tell({"op": "policy", "version": self._told}, self._policy[0])

    def _start(self, fault: str | None) -> None:
        order = {name: getattr(self.settings, name) for name in _SETTINGS}
        order |= {"journal": str(self.journal.resolve()), "fault": fault, "close": self.settings.deadlines.close}
        process = Process(order, self._alarm)
        with self._changed:
            self._process, self._again = process, None
            self.status.begin_life()
            if self._closing is not None:  # told to while the process was being started
                self._tell({"op": "close"})

    def _end_process(self, patience: float = 0.0) -> str:
        """Ends the process, if there is one, as `Process.end` does."""
        with self._changed:
            process, self._process = self._process, None
        return "no process" if process is None else process.end(patience, self.settings.deadlines.hold)

    def _tell(self, message: dict[str, Any], arrays: dict[str, np.ndarray] | None = None) -> None:
        """Sends an order; a process that is gone is the listening thread's business."""
        if self._process is None:
            return
        try:
            self._process.channel.post(message, arrays)
        except WireError as error:
            self._say(f"order {message.get('op', 'open')!r} was not taken: {error}")

    def _set(self, state: State, reason: str) -> None:
        with self._changed:
            self.status.change(state, reason)
            self._changed.notify_all()
