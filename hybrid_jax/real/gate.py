"""The safety gate in front of a robot: whatever a policy asks for, what is sent is finite, in bounds and gradual.

Not a safety system: limits in the robot's own controller, a watchdog and an emergency stop are required beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class GateError(Exception):
    """A robot without declared limits, or limits that contradict each other: one sentence with the cure."""


@dataclass(frozen=True, eq=False)
class Limits:
    """What may be sent to a robot."""

    low: np.ndarray  # [A]
    high: np.ndarray  # [A]
    max_step: np.ndarray  # [A] largest change from one action to the next; infinite where told so
    safe: np.ndarray  # [A] sent at the start, on doubt and at the end


class Decision(NamedTuple):
    """What the gate makes of one asked action."""

    sent: np.ndarray  # [A] float32, finite, in bounds, within max_step of the last one
    limited: bool  # differs from what was asked
    doubt: str | None  # why the safe action was put in its place


def beneath(env: Any, name: str, default: Any) -> Any:
    """An attribute of an environment or of one that it wraps: gymnasium's wrappers show none of them."""
    while env is not None:
        if hasattr(env, name):
            return getattr(env, name)
        env = getattr(env, "env", None)
    return default


def is_robot(env: Any) -> bool:
    """Whether an environment, or one beneath, declares limits as robots do and does not say that it is simulated."""
    return beneath(env, "max_action_step", None) is not None and not beneath(env, "simulated", False)


def declared(env: Any) -> Limits:
    """The limits that an environment declares.

    `action_space` is a Box with finite bounds; `max_action_step` [A] or a number is the largest change between two
    actions (np.inf says that there is none); `safe_action` [A] is what holds the robot, zero where not given.
    Raises GateError where one is missing or out of place.
    """
    name, space = type(env).__name__, getattr(env, "action_space", None)
    if not hasattr(env, "workspace") and beneath(env, "workspace", None) is not None:
        raise GateError(f"{name} hides the workspace of what it wraps, which may have other units; give it one, too")
    low, high = (np.asarray(getattr(space, side, np.nan), np.float64) for side in ("low", "high"))
    if low.ndim != 1 or low.shape != high.shape or not np.all(np.isfinite([low, high])) or np.any(low >= high):
        raise GateError(f"{name} declares no finite action bounds ({space}); give it a Box with low < high")
    if not hasattr(env, "max_action_step"):
        raise GateError(
            f"{name} declares no max_action_step, the largest change between two actions; np.inf says there is none"
        )
    max_step = _per_action(env.max_action_step, low.shape)
    safe = _per_action(getattr(env, "safe_action", 0.0), low.shape)
    if max_step is None or np.any(np.isnan(max_step)) or np.any(max_step <= 0):
        raise GateError(f"{name}.max_action_step {env.max_action_step} must be positive, one number or {low.size}")
    if safe is None or not np.all((safe >= low) & (safe <= high)):
        raise GateError(f"{name}.safe_action {getattr(env, 'safe_action', 0.0)} must lie inside {low} to {high}")
    return Limits(*(_inside(low), -_inside(-high)), max_step, safe)


def _per_action(value: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    array = np.asarray(value, np.float64)
    return np.broadcast_to(array, shape).copy() if array.shape in ((), shape) else None


def _inside(low: np.ndarray) -> np.ndarray:
    """The smallest float32 numbers that are not below `low`, as float64."""
    rounded = low.astype(np.float32)
    return np.where(rounded < low, np.nextafter(rounded, np.float32(np.inf)), rounded).astype(np.float64)


class Gate:
    """Lets actions through one by one; remembers the last one that was sent."""

    def __init__(self, limits: Limits, workspace: Callable[[np.ndarray, np.ndarray], bool] | None = None):
        """workspace: (obs [O], action [A]) -> whether the robot may be sent it."""
        self.limits, self._workspace = limits, workspace
        self._last = limits.safe.copy()

    def reset(self) -> None:
        """The robot stands still again, as at the beginning."""
        self._last = self.limits.safe.copy()

    def __call__(self, asked: Any, obs: np.ndarray) -> Decision:
        """What to send for an asked action: as near to it as the limits allow, the safe action on any doubt.

        The safe action itself is sent at once, without regard to max_step.
        """
        doubt = self._doubt(asked, obs)
        if doubt is not None:
            return self.hold(doubt)
        wanted = np.asarray(asked, np.float64)
        low = np.maximum(self.limits.low, self._last - self.limits.max_step)
        high = np.minimum(self.limits.high, self._last + self.limits.max_step)
        sent = np.clip(wanted, _inside(low), -_inside(-high)).astype(np.float32)
        if self._workspace is not None and not self._workspace(obs, sent):
            return self.hold(f"the workspace forbids the action {sent}")
        self._last = sent.astype(np.float64)
        return Decision(sent, bool(np.any(sent != np.asarray(asked, np.float32))), None)

    def executed(self, action: np.ndarray) -> None:
        """Another action [A] than the gate's was executed: the next one starts from it."""
        self._last = np.asarray(action, np.float64)

    def hold(self, doubt: str) -> Decision:
        """The safe action, with the reason."""
        self._last = self.limits.safe.copy()
        return Decision(self.limits.safe.astype(np.float32), True, doubt)

    def _doubt(self, asked: Any, obs: np.ndarray) -> str | None:
        try:
            array = np.asarray(asked)
        except ValueError as error:  # rows of unequal length
            return f"the action is no array ({error})"
        if array.dtype.kind not in "fiu" or array.shape != self.limits.low.shape:
            return f"the action has shape {array.shape} and type {array.dtype}, not {self.limits.low.size} numbers"
        if not np.all(np.isfinite(array)):
            return f"the action {array} is not finite"
        if not np.all(np.isfinite(obs)):
            return "the observation behind the action is not finite"
        return None
