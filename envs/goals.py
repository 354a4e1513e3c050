"""Goals in observations: flat [..., achieved, desired] as every learner here takes them, or by name.

The names are those of gymnasium-robotics: a Dict of `observation`, `achieved_goal` and `desired_goal`, and
`compute_reward(achieved, desired, info)`, which judges arrays of goals at once.
"""

import gymnasium
import numpy as np

from hybrid_jax.types import Goal

NAMES = ("observation", "achieved_goal", "desired_goal")


class ByName(gymnasium.ObservationWrapper):
    """A flat environment's observations by name; `goal.achieved` begins where the state ends."""

    def __init__(self, env: gymnasium.Env, goal: Goal):
        super().__init__(env)
        self.goal = goal
        sizes = (goal.achieved.start, goal.size, goal.size)
        spaces = [gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64) for size in sizes]
        self.observation_space = gymnasium.spaces.Dict(dict(zip(NAMES, spaces, strict=True)))

    def observation(self, observation):
        parts = (slice(self.goal.achieved.start), self.goal.achieved, self.goal.desired)
        return {name: observation[part] for name, part in zip(NAMES, parts, strict=True)}

    def compute_reward(self, achieved_goal, desired_goal, info) -> np.ndarray:
        """The task's reward for goals [..., G]."""
        return np.asarray(self.goal.reward(np.asarray(achieved_goal), np.asarray(desired_goal)))


class Flat(gymnasium.ObservationWrapper):
    """Named observations as one vector [O]: state, achieved goal, desired goal."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        size = sum(env.observation_space[name].shape[0] for name in NAMES)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def observation(self, observation):
        return np.concatenate([observation[name] for name in NAMES])
