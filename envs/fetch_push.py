"""gymnasium-robotics' FetchPush as a real side: an arm of seven joints pushes a cube, in MuJoCo C on the host.

obs 31 = (state [25], achieved goal [3], desired goal [3]); action 4 = (dx, dy, dz, the gripper, which stays shut);
reward -1 or 0 within 0.05 m, 25 Hz, 50 steps, no terminal. Needs the extra `fetch`.
Source: gymnasium_robotics/envs/fetch/push.py; Plappert et al. 2018, arXiv 1802.09464.
"""

import importlib.util

import gymnasium

from envs import goals
from envs.push import reward
from hybrid_jax.types import Goal

GOAL = Goal(size=3, reward=reward, achieved=slice(25, 28), desired=slice(28, 31))


def make_real(**kwargs) -> gymnasium.Env:
    """FetchPush-v4 with flat observations. Raises ValueError where gymnasium-robotics is not installed."""
    if importlib.util.find_spec("gymnasium_robotics") is None:
        raise ValueError("FetchPush needs the package gymnasium-robotics; pip install -e '.[fetch]', or take envs.push")
    import gymnasium_robotics
    from gymnasium_robotics.utils import mujoco_utils

    # Release 1.4 asks `type in (HINGE, SLIDE)` of a numpy integer, which MuJoCo 3.17's names always deny.
    mujoco_utils.set_joint_qpos = _set_joint_qpos
    mujoco_utils.get_joint_qpos = lambda model, data, name: data.joint(name).qpos.copy()
    mujoco_utils.get_joint_qvel = lambda model, data, name: data.joint(name).qvel.copy()
    gymnasium.register_envs(gymnasium_robotics)
    return goals.Flat(gymnasium.make("FetchPush-v4", **kwargs))


def _set_joint_qpos(model, data, name, value):
    data.joint(name).qpos[:] = value
