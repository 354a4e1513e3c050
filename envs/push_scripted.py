"""A pusher by hand for `envs.push`: around the puck, then straight through it towards the goal.

It proves that the task can be solved on any table of ours, and reads nothing but the observation.
"""

from typing import NamedTuple

import numpy as np

from envs.push import GOAL


class Pusher(NamedTuple):
    """How it goes about it; lengths in m, the rest in units of the action."""

    around: float = 0.08  # radius of the arc about the puck
    behind: float = 0.02  # so near the line through puck and goal it goes straight on
    slow: float = 0.15  # push at the goal itself: a little more than friction
    per_metre: float = 4.0  # of push, for each metre to go
    steer: float = 12.0  # per metre that the tip is off the line
    arrived: float = 0.015  # so near the goal it lets go


def act(obs: np.ndarray, pusher: Pusher = Pusher()) -> np.ndarray:
    """obs [17] -> action [2]."""
    tip, puck, goal = obs[:2], obs[GOAL.achieved], obs[GOAL.desired]
    to_go, distance = np.linalg.norm(goal - puck), np.linalg.norm(tip - puck)
    forward, outward = (goal - puck) / to_go, (tip - puck) / distance
    ahead, aside = (puck - tip) @ forward, (puck - tip) @ _left(forward)  # from the tip to the puck
    action = 20.0 * (pusher.around - distance) * outward  # onto the arc
    if to_go > pusher.arrived and ahead > 0 and abs(aside) < pusher.behind:
        push = pusher.slow + pusher.per_metre * to_go
        action = push * forward + pusher.steer * aside * _left(forward)
    elif to_go > pusher.arrived:
        action = action - np.sign(aside) * _left(outward)  # along the arc, the shorter way
    return action / max(1.0, np.abs(action).max())


def _left(direction: np.ndarray) -> np.ndarray:
    return np.array([-direction[1], direction[0]])
