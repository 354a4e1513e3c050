"""SAC trained directly in a real environment: the collector of data sets, and the yardstick of hybrid runs.

A host loop of the synchronous kind: C real steps with the current policy, then C updates in one compiled
step, and so on. Every real row is kept in order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hybrid_jax import evaluate, trainer
from hybrid_jax.algorithms import sac
from hybrid_jax.datasets.hdf5 import Dataset, transitions
from hybrid_jax.export import NumpyPolicy
from hybrid_jax.types import RealEnv, Spec


@dataclass(frozen=True)
class Config:
    """How long SAC learns in the real environment."""

    algorithm: sac.Config = sac.Config(batch_real=256, batch_sim=0)
    steps: int = 200_000  # real steps at most
    chunk: int = 100  # real steps, then as many updates
    warmup: int = 5_000  # first steps with uniformly random actions
    evaluate_every: int = 5_000  # real steps
    episodes: int = 3  # per evaluation
    stop_return: float | None = None  # ends training when an evaluation reaches it


class Result(NamedTuple):
    """A policy learned in the real environment and everything seen on the way."""

    actor: dict  # numpy parameters of the acting policy
    data: Dataset
    curve: list[tuple[int, float]]  # (real steps, mean evaluation return)


class Recorder:
    """Drives a real environment across episode ends and keeps every row in D4RL's fields."""

    def __init__(self, env: RealEnv, spec: Spec, seed: int):
        self.env, self.spec = env, spec
        self.rows: list[tuple] = []
        self.obs = np.asarray(env.reset(seed=seed)[0], np.float32)
        self.time = 0

    def step(self, action: np.ndarray) -> None:
        reached, reward, terminated, truncated, _ = self.env.step(action)
        reached = np.asarray(reached, np.float32)
        self.time += 1
        timeout = not terminated and (truncated or self.time >= self.spec.episode_length)
        self.rows.append((self.obs, action, np.float32(reward), reached, bool(terminated), bool(timeout)))
        self.obs = reached
        if terminated or timeout:
            self.obs, self.time = np.asarray(self.env.reset()[0], np.float32), 0

    def dataset(self, start: int = 0) -> Dataset:
        """The rows from `start` on."""
        obs, actions, rewards, successors, terminals, timeouts = zip(*self.rows[start:], strict=True)
        return Dataset(
            np.stack(obs),
            np.stack(actions).astype(np.float32),
            np.asarray(rewards, np.float32),
            np.stack(successors),
            np.asarray(terminals),
            np.asarray(timeouts),
        )


def record(env: RealEnv, spec: Spec, act: Callable, rows: int, seed: int) -> Dataset:
    """`rows` steps of `act(obs) -> action`; the last episode may stay open."""
    recorder = Recorder(env, spec, seed)
    for _ in range(rows):
        recorder.step(np.asarray(act(recorder.obs), np.float32))
    return recorder.dataset()


def learn(
    env: RealEnv, judge: RealEnv, spec: Spec, config: Config, seed: int, say: Callable, keep: Callable | None = None
) -> Result:
    """SAC in `env`; evaluated in `judge`, another instance of the same environment.

    say: called with a line of text at every evaluation.
    keep: called there with (real steps, mean return, actor parameters), where given.
    """
    for name in ("chunk", "evaluate_every", "episodes"):
        if getattr(config, name) < 1:
            raise ValueError(f"training.{name} {getattr(config, name)} must be at least 1")
    for name in ("steps", "evaluate_every"):
        if getattr(config, name) % config.chunk:
            raise ValueError(f"training.{name} {getattr(config, name)} is no multiple of training.chunk {config.chunk}")
    if config.steps < config.chunk:
        raise ValueError(f"training.steps {config.steps} is less than one chunk of {config.chunk}; give more steps")
    algorithm = sac.make(config.algorithm, spec)
    rates = trainer.Rates(sims=1, unroll=1, updates=config.chunk, sim_capacity=1)
    train = trainer.jitted(trainer.make(spec, (), algorithm, rates, config.steps))
    state = train.init(jax.random.key(seed), None)
    recorder = Recorder(env, spec, seed)
    rng = np.random.default_rng(seed)
    policy, curve = None, []
    for done in range(config.chunk, config.steps + 1, config.chunk):
        for _ in range(config.chunk):
            random = policy is None or done <= config.warmup
            action = rng.uniform(-1, 1, spec.action_size) if random else policy.explore(recorder.obs, rng)
            recorder.step(np.asarray(action, np.float32))
        rows = transitions(recorder.dataset(done - config.chunk))
        state, _ = train.step(state, rows, jnp.int32(config.chunk))
        policy = NumpyPolicy.from_params(jax.device_get(algorithm.policy(state.algorithm)))
        if done % config.evaluate_every == 0:
            actor = jax.device_get(algorithm.deployed(state.algorithm))
            kept = NumpyPolicy.from_params(actor)
            episodes = evaluate.real_episodes(judge, kept, config.episodes, 10_000 + done, spec.episode_length)
            score = float(np.mean([episode.total for episode in episodes]))
            curve.append((done, score))
            say(f"{done:,} real steps: return {score:,.0f}")
            if keep is not None:
                keep(done, score, actor)
            if config.stop_return is not None and score >= config.stop_return:
                break
    actor = jax.device_get(algorithm.deployed(state.algorithm))
    return Result(actor, recorder.dataset(), curve)
