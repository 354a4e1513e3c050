"""The rehearsal robot: any real side of ours behind the ills of hardware, driven through the same code path.

Ills that last are options: actions and observations that arrive steps late, noise, dropped frames, answers that take
their time. A script is a list of [step, kind, value]: at that step (counted over the robot's whole life, restarts
included, from 0; for `reset_*` that reset) the named fault happens once. Kinds:

    raise TEXT          step raises                     hang             step does not come back
    reset_raise TEXT    reset raises                    hang_hard        the same, deaf to SIGTERM
    late SECONDS        step takes so much longer       die SIGNAL       the process is killed
    nan INDEX           an observation is NaN           reward VALUE     the reward is VALUE
    shape N             zeros of that shape come        dtype NAME       observations of that type
    freeze N            the next N observations repeat  estop TEXT       the emergency stop is pressed
    intervene ACTION    an operator's action is executed                 abort            an operator ends the episode
    gone SECONDS        the line is cut for so long     disk BYTES       no file grows beyond so many any more
    clock SECONDS       the wall clock jumps            keys             the observation comes as a dict
"""

import importlib
import math
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np


class Rehearsal(gymnasium.Wrapper):
    """A real side with declared limits, scripted faults and a memory that outlives its process."""

    simulated = True  # its time stands still between two steps

    def __init__(
        self,
        base: str = "envs.wheel_legged:make_real",
        faults: Sequence[Sequence[Any]] = (),
        memory: str | None = None,
        max_action_step: float = math.inf,
        safe_action: float = 0.0,
        action_delay: int = 0,
        obs_delay: int = 0,
        noise: float = 0.0,
        dropped: float = 0.0,
        jitter: float = 0.0,
        seed: int = 0,
    ):
        """base: module:factory of the robot inside; memory: a folder where steps, resets and commands are kept.

        action_delay, obs_delay: [control steps]; noise: std on every observation; dropped: share of observations
        in whose place the last one comes again; jitter: [s] mean of the exponential time that an answer takes more.
        """
        module, _, function = base.partition(":")
        super().__init__(getattr(importlib.import_module(module), function)())
        self.max_action_step, self.safe_action = max_action_step, safe_action
        self._faults = [(int(step), str(kind), value) for step, kind, value in faults]
        self._memory = None if memory is None else Path(memory)
        if self._memory is not None:
            self._memory.mkdir(parents=True, exist_ok=True)
        self._counts = {name: self._remembered(name) for name in ("steps", "resets")}
        self._frozen, self._last = 0, None
        self._action_delay, self._obs_delay = action_delay, obs_delay
        self._noise, self._dropped, self._jitter = noise, dropped, jitter
        self._rng = np.random.default_rng(seed)
        self._coming: deque = deque()  # actions on their way to the robot
        self._seen: deque = deque()  # observations on their way back
        self._away = -math.inf  # until when the line is cut

    def reset(self, *, seed=None, options=None):
        """As the robot inside, unless the script says otherwise."""
        due = self._due("resets")
        self._connected()
        if "reset_raise" in due:
            raise OSError(due["reset_raise"])
        obs, info = self.env.reset(seed=seed, options=options)
        self._coming = deque([np.full(self.action_space.shape, self.safe_action)] * self._action_delay)
        self._seen = deque([obs] * self._obs_delay)
        self._last = obs
        if "reset_nan" in due:
            obs = _with_nan(obs, due["reset_nan"])
        return obs, info

    def step(self, action):
        """As the robot inside, unless the script says otherwise."""
        due, info = self._due("steps"), {}
        self._command(action)
        if "gone" in due:
            self._away = time.monotonic() + due["gone"]
        self._connected()
        if "raise" in due:
            raise RuntimeError(due["raise"])
        if "hang" in due or "hang_hard" in due:
            if "hang_hard" in due:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1e6)
        if "die" in due:
            os.kill(os.getpid(), signal.Signals[due["die"]])
        if "disk" in due:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(due["disk"]), resource.RLIM_INFINITY))
        if "clock" in due:
            _shift_wall_clock(due["clock"])
        time.sleep(due.get("late", 0.0) + (self._rng.exponential(self._jitter) if self._jitter else 0.0))
        if "intervene" in due:
            action = np.asarray(due["intervene"], np.float32)
            info["intervene_action"] = action
        self._coming.append(action)
        obs, reward, terminated, truncated, inner = self.env.step(self._coming.popleft())
        self._seen.append(obs + self._noise * self._rng.standard_normal(np.shape(obs)))
        obs = self._seen.popleft()
        self._frozen = max(self._frozen - 1, int(due.get("freeze", 0)))
        obs = self._last if self._frozen or self._rng.random() < self._dropped else obs
        self._last = obs
        if "nan" in due:
            obs = _with_nan(obs, due["nan"])
        if "shape" in due:
            obs = np.zeros(due["shape"])  # a number or a list of them
        if "dtype" in due:
            obs = obs.astype(due["dtype"])
        if "keys" in due:
            obs = {"state": obs}
        info |= {name: due[name] for name in ("estop", "abort") if name in due}
        return obs, _number(due.get("reward", reward)), terminated, truncated, inner | info

    def _connected(self) -> None:
        if time.monotonic() < self._away:
            raise ConnectionError("the line to the robot is cut")

    def _due(self, count: str) -> dict[str, Any]:
        """The faults of this step or reset; counts it, here and in the memory."""
        now = self._counts[count]
        self._counts[count] += 1
        if self._memory is not None:
            with (self._memory / count).open("ab") as file:
                file.write(b".")
        resets = count == "resets"
        return {
            kind: value for step, kind, value in self._faults if step == now and kind.startswith("reset_") == resets
        }

    def _remembered(self, count: str) -> int:
        path = None if self._memory is None else self._memory / count
        return path.stat().st_size if path is not None and path.exists() else 0

    def _command(self, action: np.ndarray) -> None:
        if self._memory is not None:
            with (self._memory / "commands").open("ab") as file:
                file.write(np.concatenate([[time.monotonic()], np.ravel(action)]).astype("<f8").tobytes())


def _shift_wall_clock(seconds: float) -> None:
    """As when the time is set anew: this process's wall clock jumps, its monotonic one does not."""
    before = time.time
    time.time = lambda: before() + seconds


def _number(value: Any) -> Any:
    """A float for a number or its name (JSON has no "inf"), else the value."""
    try:
        return float(value)
    except ValueError:
        return value


def _with_nan(obs: np.ndarray, index: int) -> np.ndarray:
    sick = np.array(obs)
    sick[index] = np.nan
    return sick


def make(**options: Any) -> Rehearsal:
    """The rehearsal robot; see `Rehearsal` for the options."""
    return Rehearsal(**options)


def commands(memory: Path, action_size: int) -> np.ndarray:
    """Everything that the robot was told [N, 1 + A]: monotonic time [s], then the action."""
    return np.fromfile(memory / "commands", "<f8").reshape(-1, 1 + action_size)
