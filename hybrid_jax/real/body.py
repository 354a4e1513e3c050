"""The environment in the robot's process: every call of it can be broken off, and it can be held at any time."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from hybrid_jax.real.gate import beneath, declared


class Ended(BaseException):
    """SIGTERM came: no fault of the environment, so nothing that handles those may catch it."""


class EmergencyStop(Exception):
    """Raised by an environment, or for it: its emergency stop was pressed."""


class Body:
    """A user's environment."""

    def __init__(self, factory: str, options: dict[str, Any], moved: bool = False):
        """factory: module:function; moved: by a process before this one, which could not hold it.

        Raises GateError where it does not declare what may be sent to it.
        """
        module, _, function = factory.partition(":")
        self.env = getattr(importlib.import_module(module), function)(**options)
        self.limits = declared(self.env)
        self.obs_size = int(np.prod(self.env.observation_space.shape))
        self.workspace = getattr(self.env, "workspace", None)
        self.simulated = bool(beneath(self.env, "simulated", False))  # its time stands still between two steps
        self.ending = False  # told to end
        self.untouchable = False  # after an emergency stop nothing is sent any more
        self._moved = moved  # since it was held
        self._driving = False  # inside a call of the environment
        self.holding = False  # inside the one that holds it

    def reset(self, seed: int) -> tuple[Any, dict]:
        """(obs, info) of a new episode. Raises Ended after SIGTERM, and whatever the environment raises."""
        self._moved = True
        with self._breakable():
            return self.env.reset(seed=seed)

    def step(self, action: np.ndarray) -> Any:
        """The environment's answer to an action that passed the gate. Raises as `reset`."""
        self._moved = True
        with self._breakable():
            return self.env.step(action)

    def hold(self) -> str:
        """Holds the robot: by its own `hold()` where it has one, else by the safe action; says where that failed.

        Raises EmergencyStop where the robot answers so; then it is `untouchable`, as after `stopped_by`.
        """
        if self.untouchable or not self._moved:
            return ""
        hold: Callable | None = beneath(self.env, "hold", None)
        self.holding = True
        try:
            with self._breakable():
                answer = self.env.step(self.limits.safe.astype(np.float32)) if hold is None else hold()
            self.stopped_by(answer)
        except EmergencyStop:
            self.untouchable = True
            raise
        except Exception as error:  # the robot is told to hold in vain; a person must know
            return f"; the safe action failed too ({type(error).__name__}: {error})"
        finally:
            self.holding = False
        self._moved = False
        return ""

    @staticmethod
    def stopped_by(answer: Any) -> None:
        """Raises EmergencyStop where a step's or a reset's answer tells of one, whatever else it holds."""
        info = answer[-1] if isinstance(answer, tuple) and answer else None
        if isinstance(info, dict) and info.get("estop"):
            raise EmergencyStop(str(info["estop"]))

    def close(self) -> None:
        self.env.close()

    def end(self, *_: Any) -> None:
        """The handler of SIGTERM: breaks off a call of the environment; elsewhere `ending` is looked at in time."""
        before, self.ending = self.ending, True
        if self._driving and not before:  # the safe action at the end is not broken off
            raise Ended

    @contextmanager
    def _breakable(self) -> Iterator[None]:
        self._driving = True
        try:
            if self.ending and not self.holding:
                raise Ended
            yield
        finally:
            self._driving = False
