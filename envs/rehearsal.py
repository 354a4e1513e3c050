"""The rehearsal robot: any real side of ours behind scripted faults, driven through the same code path as hardware.

A script is a list of [step, kind, value]: at that step (counted over the robot's whole life, restarts included, from
0; for `reset_*` that reset) the named fault happens once. Kinds:

    raise TEXT          step raises                     hang             step does not come back
    reset_raise TEXT    reset raises                    hang_hard        the same, deaf to SIGTERM
    late SECONDS        step takes so much longer       die SIGNAL       the process is killed
    nan INDEX           an observation is NaN           reward VALUE     the reward is VALUE
    shape N             N observations come             dtype NAME       observations of that type
    freeze N            the next N observations repeat  estop TEXT       the emergency stop is pressed
    intervene ACTION    an operator's action is executed                 abort            an operator ends the episode
"""

import importlib
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np


class Rehearsal(gymnasium.Wrapper):
    """A real side with declared limits, scripted faults and a memory that outlives its process."""

    def __init__(
        self,
        base: str = "envs.wheel_legged:make_real",
        faults: Sequence[Sequence[Any]] = (),
        memory: str | None = None,
        max_action_step: float = math.inf,
        safe_action: float = 0.0,
    ):
        """base: module:factory of the robot inside; memory: a folder where steps, resets and commands are kept."""
        module, _, function = base.partition(":")
        super().__init__(getattr(importlib.import_module(module), function)())
        self.max_action_step, self.safe_action = max_action_step, safe_action
        self._faults = [(int(step), str(kind), value) for step, kind, value in faults]
        self._memory = None if memory is None else Path(memory)
        if self._memory is not None:
            self._memory.mkdir(parents=True, exist_ok=True)
        self._counts = {name: self._remembered(name) for name in ("steps", "resets")}
        self._frozen, self._last = 0, None

    def reset(self, *, seed=None, options=None):
        """As the robot inside, unless the script says otherwise."""
        due = self._due("resets")
        if "reset_raise" in due:
            raise OSError(due["reset_raise"])
        obs, info = self.env.reset(seed=seed, options=options)
        self._last = obs
        if "reset_nan" in due:
            obs = _with_nan(obs, due["reset_nan"])
        return obs, info

    def step(self, action):
        """As the robot inside, unless the script says otherwise."""
        due, info = self._due("steps"), {}
        self._command(action)
        if "raise" in due:
            raise RuntimeError(due["raise"])
        if "hang" in due or "hang_hard" in due:
            if "hang_hard" in due:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1e6)
        if "die" in due:
            os.kill(os.getpid(), signal.Signals[due["die"]])
        time.sleep(due.get("late", 0.0))
        if "intervene" in due:
            action = np.asarray(due["intervene"], np.float32)
            info["intervene_action"] = action
        obs, reward, terminated, truncated, inner = self.env.step(action)
        self._frozen = max(self._frozen - 1, int(due.get("freeze", 0)))
        obs = self._last if self._frozen else obs
        self._last = obs
        if "nan" in due:
            obs = _with_nan(obs, due["nan"])
        if "shape" in due:
            obs = np.zeros(due["shape"])
        if "dtype" in due:
            obs = obs.astype(due["dtype"])
        info |= {name: due[name] for name in ("estop", "abort") if name in due}
        return obs, _number(due.get("reward", reward)), terminated, truncated, inner | info

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
