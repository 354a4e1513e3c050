"""What a real environment answers is checked, number by number, before it is written down."""

from typing import Any

import numpy as np

from hybrid_jax.real.gate import Limits
from hybrid_jax.real.record import Flag

_SHOWN = 100_000  # characters of a bad answer that are kept


class BadAnswer(Exception):
    """An answer that must not become a row; `hopeless` where it would come again: another form than agreed.

    `answer` is what came, in words, for the record.
    """

    def __init__(self, sentence: str, hopeless: bool = False):
        super().__init__(sentence)
        self.hopeless, self.answer = hopeless, ""


class Checker:
    """Checks the answers of one environment and notices frozen sensors."""

    def __init__(self, obs_size: int, reward_range: tuple[float, float], frozen_after: int):
        """frozen_after: equal observations in a row that count as a frozen sensor; 0 looks for none."""
        self._shape, self._range, self._frozen_after = (obs_size,), reward_range, frozen_after
        self._last, self._equal, self._thawed = b"", 0, False

    def begin(self, obs: np.ndarray) -> None:
        """An episode begins with this observation."""
        self._last, self._equal, self._thawed = obs.tobytes(), 0, False

    @property
    def flags(self) -> Flag:
        """FROZEN where the last observation, or the one that the action came from, has stood still for too long."""
        return Flag.FROZEN if self._frozen or self._thawed else Flag(0)

    @property
    def _frozen(self) -> bool:
        return bool(self._frozen_after) and self._equal >= self._frozen_after

    def observation(self, obs: Any) -> np.ndarray:
        """The observation [O] as float32. Raises BadAnswer for another form, or a number that is not finite."""
        array = obs if isinstance(obs, np.ndarray) else None
        if array is None or array.dtype not in (np.float32, np.float64) or array.shape != self._shape:
            is_ = type(obs).__name__ if array is None else f"an array of shape {array.shape} and type {array.dtype}"
            raise BadAnswer(f"the observation is {is_}, agreed were {self._shape[0]} floats", hopeless=True)
        with np.errstate(over="ignore"):
            small = array.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(small))
        if bad.size:
            raise BadAnswer(f"observation {bad[0]} is {array[bad[0]]} ({bad.size} of {array.size} are not finite)")
        return small

    def answer(self, answer: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """(obs, reward, terminated, truncated, info) of a step. Raises BadAnswer, which holds the whole answer."""
        try:
            return self._answer(answer)
        except BadAnswer as bad:
            with np.printoptions(threshold=_SHOWN, floatmode="unique"):
                bad.answer = f"the answer was {answer!r}"[:_SHOWN]
            raise

    def _answer(self, answer: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if not isinstance(answer, tuple) or len(answer) != 5:
            raise BadAnswer("step gave no (obs, reward, terminated, truncated, info)", hopeless=True)
        obs, reward, terminated, truncated, info = answer
        seen = self.observation(obs)
        if not isinstance(reward, float | int | np.floating | np.integer) or isinstance(reward, bool):
            raise BadAnswer(f"the reward is a {type(reward).__name__}, not a number", hopeless=True)
        low, high = self._range
        if not np.isfinite(reward) or not low <= reward <= high:
            raise BadAnswer(f"the reward {reward} is not within {low} to {high}")
        for name, flag in (("terminated", terminated), ("truncated", truncated)):
            if not isinstance(flag, bool | np.bool_):
                raise BadAnswer(f"{name} is a {type(flag).__name__}, not a bool", hopeless=True)
        if not isinstance(info, dict):
            raise BadAnswer(f"info is a {type(info).__name__}, not a dict", hopeless=True)
        same = seen.tobytes() == self._last
        self._thawed = self._frozen
        self._last, self._equal = seen.tobytes(), self._equal + 1 if same else 0
        return seen, float(reward), bool(terminated), bool(truncated), info

    @staticmethod
    def intervention(action: Any, limits: Limits) -> np.ndarray:
        """The operator's action [A], as it was executed. Raises BadAnswer for one outside the robot's bounds."""
        array = np.asarray(action)
        inside = array.dtype.kind in "fiu" and array.shape == limits.low.shape
        if not inside or not np.all((array >= limits.low) & (array <= limits.high)):
            raise BadAnswer(f"the operator's action {action} is not inside {limits.low} to {limits.high}")
        return array.astype(np.float32)
