"""Planar push: a tip slides over a table and pushes a flat box, the puck, to a goal. FetchPush from primitives.

State 17 = (tip [2], puck [2], puck - tip [2], sin and cos of the puck's yaw, velocities of tip [2] and puck [2], its
yaw rate; achieved goal = puck [2]; desired goal [2]) in m, m/s, rad/s. Action: (dx, dy) / 0.05 m, where the tip's
servos are to bring it from its place; 25 Hz, 50 steps, no terminal. reward = -(|puck - goal| > 0.05 m) in s'.
Source: the protocol of FetchPush (gymnasium-robotics; Plappert et al. 2018, arXiv 1802.09464), without its arm.
"""

from pathlib import Path
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from hybrid_jax import physics
from hybrid_jax.types import Array, Goal, PyTree, SimEnv, Spec, Step

SPEC = Spec(obs_size=17, action_size=2, episode_length=50, dt=0.04)
FRAME_SKIP = 8
REACH = 0.05  # [m] the tip's target lies so far from it at full action
WORKSPACE = 0.25  # [m] |x|, |y| of the tip's target
FIELD = 0.15  # [m] |x|, |y| of the puck's first place and of the goal
APART = 0.1  # [m] from the tip to the puck and from the puck to the goal, at least
THRESHOLD = 0.05  # [m] a puck so near its goal has reached it
HEIGHT = 0.00989  # [m] of the resting puck's centre; the table gives way by 0.1 mm
_CANDIDATES = 16  # places drawn for one that is far enough: all fail once in 1e7 draws
_UNEVEN = 5.0  # friction across the grain over that along it; at 33 the elliptic cone's solver fails, in float64, too


class Domain(NamedTuple):
    """Constants of one table, puck and tip."""

    friction_x: float = 0.4  # of the puck on the table, Coulomb
    friction_y: float = 0.4
    tip_friction: float = 0.3  # of the tip along the puck's side
    puck_mass: float = 0.25  # [kg], its inertia in proportion
    stiffness: float = 800.0  # [N/m] of the tip's servos
    damping: float = 50.0  # [N s/m] of the tip's slides


SIMULATED = Domain()
"""An even table: from 0.6 m/s, the tip's full speed, the puck slides on for 4.6 cm, less than the goal's radius."""

REAL = Domain(friction_x=0.4, friction_y=0.12, puck_mass=0.4)
"""A heavier puck on a table with a grain along y, where it slides on for 15 cm. A pusher that lets go at the goal
succeeds in 100 of 100 episodes (seeds 0 to 99 of `RealPush`) on the simulator's table and in 47 here; one that slows
down, in 100 and 98 (`envs/push_scripted.py`)."""


def mj_model() -> mujoco.MjModel:
    """The XML's scene, whose constants are `SIMULATED`'s."""
    return mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("assets") / "push.xml"))


def build(domain: Domain) -> mujoco.MjModel:
    """The scene with these constants. Raises ValueError where one is not positive or the friction too uneven."""
    for name, value in domain._asdict().items():
        if not 0.0 < value < np.inf:
            raise ValueError(f"{name} {value} must be positive")
    along, across = sorted((domain.friction_x, domain.friction_y))
    if across > _UNEVEN * along:
        raise ValueError(f"friction {across} and {along} differ by more than {_UNEVEN:g}; the contacts are unstable")
    model = mj_model()
    # A contact's first tangent lies along the world's y, its second along -x.
    model.pair("puck_table").friction[:2] = (domain.friction_y, domain.friction_x)
    model.pair("puck_tip").friction[:2] = domain.tip_friction
    puck = model.body("puck").id
    model.body_inertia[puck] *= domain.puck_mass / model.body_mass[puck]
    model.body_mass[puck] = domain.puck_mass
    # A servo of gear g pulls with k g (ctrl - g x): to g x* it has stiffness k g^2.
    model.actuator_gear[:, 0] = np.sqrt(domain.stiffness / model.actuator_gainprm[:, 0])
    model.dof_damping[:2] = domain.damping
    mujoco.mj_setConst(model, mujoco.MjData(model))
    return model


def near(achieved, desired, xp=jnp):
    """|achieved - desired| <= 0.05 m over places [..., 2] -> bool [...]; xp is jax.numpy or numpy."""
    return xp.linalg.norm(achieved - desired, axis=-1) <= THRESHOLD


def reward(achieved, desired, xp=jnp):
    """0 where the goal is reached, -1 elsewhere."""
    return xp.asarray(near(achieved, desired, xp), xp.float32) - 1


GOAL = Goal(size=2, reward=reward, achieved=slice(13, 15), desired=slice(15, 17))


def success(obs, xp=jnp):
    """Whether the puck is at its goal; of an episode's last state: whether the episode succeeded."""
    return near(obs[..., GOAL.achieved], obs[..., GOAL.desired], xp)


def observe(qpos, qvel, goal, xp=jnp):
    """MuJoCo's (tip; puck's x, y, z, quaternion), its velocities and a goal [2] -> observation [17]."""
    tip, puck = qpos[:2], qpos[2:4]
    w, x, y, z = qpos[5:9]
    yaw = xp.stack([2 * (x * y + w * z), 1 - 2 * (y * y + z * z)])  # of the puck's own x axis, seen from above
    return xp.concatenate([tip, puck, puck - tip, yaw, qvel[:4], qvel[7:8], puck, goal])


def places(draws, xp=jnp):
    """Uniform draws [2, C, 2] in (-1, 1) -> first places of puck [2] and goal [2].

    Each is the first candidate in the field that is far enough from the tip, or from the puck; should there be none,
    the corner that is farthest.
    """

    def first(candidates, other):
        corner = xp.where(other > 0, -FIELD, FIELD)[None]
        ordered = xp.concatenate([FIELD * candidates, corner])
        return ordered[xp.argmax(xp.linalg.norm(ordered - other[None], axis=-1) >= APART)]

    puck = first(draws[0], xp.zeros(2))
    return puck, first(draws[1], puck)


def rest(puck, xp=jnp):
    """qpos [9] of the tip in the middle and the puck [2] at rest, square to the table."""
    return xp.concatenate([xp.zeros(2), puck, xp.asarray([HEIGHT, 1.0, 0.0, 0.0, 0.0])])


def command(model, tip, action, xp=jnp):
    """Servo input [2] that sends the tip [2] by 0.05 m times the action, within the workspace."""
    target = tip + REACH * xp.clip(action, -1.0, 1.0)
    return model.actuator_gear[:, 0] * xp.clip(target, -WORKSPACE, WORKSPACE)


class Pushing(NamedTuple):
    """A simulation and what is seen of it."""

    inner: PyTree
    obs: Array  # [17]


def make(engine: physics.Engine = "auto", threads: int | None = None, domain: Domain = SIMULATED) -> SimEnv:
    """The simulator of a domain. Of another: `env._replace(model=physics.constants(build(another)))`."""
    bundle = physics.make(mj_model(), frame_skip=FRAME_SKIP, engine=engine, threads=threads)

    def reset(model, key):
        puck, goal = places(jax.random.uniform(key, (2, _CANDIDATES, 2), minval=-1.0, maxval=1.0))
        qpos, qvel = rest(puck), jnp.zeros(bundle.mj_model.nv)
        obs = observe(qpos, qvel, goal)
        return Pushing(bundle.init(model, qpos, qvel), obs), obs

    def step(model, state, action):
        inner, motion = bundle.step(model, state.inner, command(model, state.obs[:2], action))
        obs = observe(motion.qpos, motion.qvel, state.obs[GOAL.desired])
        never = jnp.zeros((), bool)
        return Pushing(inner, obs), Step(obs, reward(obs[GOAL.achieved], obs[GOAL.desired]), never, never)

    return SimEnv(SPEC, physics.constants(build(domain)), reset, step, bundle, GOAL, success)


class RealPush(gymnasium.Env):
    """The real side: another table and puck than the simulator's, in MuJoCo C and float64, on the host.

    Late actions and noisy observations are put around it by `envs.rehearsal`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    simulated = True  # its time stands still between two steps
    max_action_step = 2.0  # any jump: the target lies near the tip anyway
    safe_action = 0.0

    def __init__(self, domain: Domain = REAL, render_mode: str | None = None):
        self.domain = domain
        self.render_mode = render_mode
        self.model = build(domain)
        self.data = mujoco.MjData(self.model)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (SPEC.obs_size,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (SPEC.action_size,), np.float32)
        self._goal = np.zeros(2)
        self._time = 0
        self._renderer = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        puck, self._goal = places(self.np_random.uniform(-1.0, 1.0, (2, _CANDIDATES, 2)), np)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = rest(puck, np)
        self.model.site("goal").pos[:2] = self._goal
        mujoco.mj_forward(self.model, self.data)
        self._time = 0
        return observe(self.data.qpos, self.data.qvel, self._goal, np), {}

    def step(self, action):
        self.data.ctrl[:] = command(self.model, self.data.qpos[:2], np.asarray(action, np.float64), np)
        mujoco.mj_step(self.model, self.data, FRAME_SKIP)
        obs = observe(self.data.qpos, self.data.qvel, self._goal, np)
        self._time += 1
        earned = float(reward(obs[GOAL.achieved], obs[GOAL.desired], np))
        return obs, earned, False, self._time >= SPEC.episode_length, {"is_success": bool(success(obs, np))}

    def render(self):
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, 720, 960)
        self._renderer.update_scene(self.data, camera="above")
        return self._renderer.render()

    def close(self):
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def make_real(**kwargs) -> RealPush:
    """The real side with its default differences; observations by name: `goals.ByName(make_real(), GOAL)`."""
    return RealPush(**kwargs)


def make_pretended(engine: physics.Engine = "auto", threads: int | None = None) -> SimEnv:
    """Reality's constants in a program: what plays it while a policy learns."""
    return make(engine, threads, REAL)
