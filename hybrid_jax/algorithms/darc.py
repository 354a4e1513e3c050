"""DARC: SAC in the simulator, rewarded for what reality would do as well.

    y = r + clip(log P_real/P_sim(s'|s,a), -c, c) + gamma (1 - terminated) V(s')        on simulated rows

Eysenbach et al. 2021 (arXiv 2006.13916), equation 6, with the log-ratio from the discriminators of `dynamics_gap`.
Two uses, which are not the same method:

`Config()` is what H2O's table calls DARC: the real rows are a log, they train the discriminators alone, and the
discriminators are H2O's. `online()` is the original: it acts in the real environment, one step for ten simulated
ones after 10,000 random steps in each, with smaller discriminators, more noise and no bound. Its agent's target
entropy is -dim(A) / 2, to be set; it also learns from the discriminators before, not after their own step.
reward_scale multiplies the corrected reward, as in its code, so a correction weighs the same beside any of them.

To expect: 4,759 to 9,038 on HalfCheetah (the table of Niu et al. 2022), behind H2O in six cells of nine.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from hybrid_jax import actor_critic, dynamics_gap, gap_learner, losses, ranges
from hybrid_jax.gap_learner import simulated_rows
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, Array, Spec


@dataclass(frozen=True)
class Config(actor_critic.Config, dynamics_gap.Config):
    """Hyper-parameters of DARC: those of SAC and of the discriminators, and the correction's."""

    correction_clip: float | None = 10.0  # c, bound on the correction; None: no bound
    correction_after: int = 0  # updates of the discriminators before the correction sets in


def online() -> Config:
    """The original's settings, for a run whose robot takes part."""
    return Config(
        discriminator_hidden=(32,),
        discriminator_noise=1.0,
        discriminator_shared_noise=False,
        discriminator_bound=None,
        reward_scale=0.1,
        correction_clip=None,
        correction_after=100_000,
    )


def make(config: Config, spec: Spec, moments: Moments | None = None) -> Algorithm:
    """DARC; where batch_real > 0 it learns from real rows, too, whose rewards stay as they are."""
    check(config)
    base = actor_critic.parts(config, spec, moments)
    gap = dynamics_gap.make(config, spec)

    def learn(sac, gap_state, rows, real: Array, key: Array, own_key: Array):
        sim = simulated_rows(config, rows)
        nowhere = jnp.zeros((0, *sim.next_obs.shape))
        ratio, _ = gap.log_ratio(gap_state.params, sim, nowhere)
        extra = correction(config, ratio, optax.tree.get(gap_state.optimiser, "count"))
        padding = jnp.zeros(rows.reward.shape[0] - extra.shape[0])
        added = jnp.where(real, 0.0, jnp.concatenate([padding, extra]))
        corrected = rows._replace(reward=rows.reward + added)
        sac, metrics = base.step(sac, corrected, actor_critic.mean_squared_error, key)
        least = jnp.where(jnp.all(real), 0.0, jnp.min(jnp.where(real, jnp.inf, added)))
        return sac, metrics | {"correction_mean": losses.masked_mean(added, ~real), "correction_min": least}

    return gap_learner.make(config, base, gap, learn)


def correction(config: Config, log_ratio: Array, updates: Array) -> Array:
    """What is added to the rewards [S] of simulated rows, from log P_real/P_sim [S] and the updates so far []."""
    clip = jnp.inf if config.correction_clip is None else config.correction_clip
    return jnp.where(updates > config.correction_after, jnp.clip(log_ratio, -clip, clip), 0.0)


def check(config: Config) -> None:
    """Refuses hyper-parameters that cannot work. Raises ValueError."""
    gap_learner.check(config, "DARC", ("batch_sim",))
    ranges.at_least(config, 0, "correction_after")
    ranges.positive(config, "correction_clip", none="no bound")
