"""The true successor of each row, as far as a file holds it, and what is dropped where it does not.

A file with neither next_observations nor final_observations has no successor for the last row of an episode. Such
rows are dropped, terminal ones too, because the dynamics-gap discriminators look at every successor: the learner then
sees no death in the data. The row before a dropped end becomes a timeout, so that episodes stay apart.
"""

from collections.abc import Mapping

import numpy as np

from hybrid_jax.datasets import checks
from hybrid_jax.datasets.faults import Fault

COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")


def completed(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[Fault]]:
    """The six columns of checked arrays, each [D', ...], and what was dropped; no row may be left."""
    obs, (terminals, timeouts) = arrays["observations"], _flags(arrays)
    following = arrays.get("next_observations")
    keep: slice | np.ndarray = slice(None)
    if following is None:
        following, ends = np.concatenate([obs[1:], obs[-1:]]), terminals | timeouts
        last = last_rows(ends)
        if "final_observations" in arrays:
            following[last] = arrays["final_observations"]
        else:
            keep = np.ones(len(ends), bool)
            keep[last] = False
            # The row before an end that is dropped ends the episode now, but not the task.
            terminals, timeouts = np.zeros_like(ends), np.append(ends[1:], False)
    columns = (obs, arrays["actions"], arrays["rewards"], following, terminals, timeouts)
    dropped = _dropped(arrays)
    told = [_told(dropped, len(obs))] if dropped else []
    return {key: column[keep] for key, column in zip(COLUMNS, columns, strict=True)}, told


def last_rows(ends: np.ndarray) -> np.ndarray:
    """Last row of each episode, also of an open last one."""
    return np.append(checks.episode_starts(ends)[1:] - 1, len(ends) - 1)


def _flags(arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Terminals and timeouts as bool; timeouts that the file lacks are where a given successor differs."""
    terminals = arrays["terminals"] == 1
    if "timeouts" in arrays:
        return terminals, arrays["timeouts"] == 1
    if "next_observations" in arrays:
        return terminals, checks.broken(arrays["observations"], arrays["next_observations"]) & ~terminals
    return terminals, np.zeros_like(terminals)


def _dropped(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many rows go for want of a successor, by how their episode ends; {} if the file has the successors."""
    if "next_observations" in arrays or "final_observations" in arrays:
        return {}
    terminals, timeouts = _flags(arrays)
    open_end = not (terminals[-1] or timeouts[-1])
    return {"terminals": int(terminals.sum()), "timeouts": int(timeouts.sum()), "the end of the file": int(open_end)}


def _told(dropped: Mapping[str, int], rows: int) -> Fault:
    parts = ", ".join(f"{count:,} at {reason}" for reason, count in dropped.items() if count)
    sentence = f"is missing, so rows without a known successor are dropped: {parts}"
    if dropped["terminals"]:
        sentence += "; no terminal row is left, the learner sees no death in these data"
    if sum(dropped.values()) == rows:
        sentence = "is missing and no row is followed by another of its episode: nothing is left"
    return Fault("next_observations", None, sum(dropped.values()), sentence)
