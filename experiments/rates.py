"""Where a run collects and whose rows it uses, from its config: the environments behind the rates q and beta.

Rates stand in the order reality, simulator, further simulators. With q alone beta is q, as in one shared store; with
beta alone the simulators share q evenly. A method that learns in simulators alone takes their rates among each other,
one that learns from reality alone knows none. A robot that waits for the learner takes its share of an iteration's
steps; one that goes by its own clock has no q.
"""

from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp

from experiments.experiment import Experiment, Refused
from hybrid_jax import mixing, schedules
from hybrid_jax.mixing import Mixing, Progress, Rates, Schedule
from hybrid_jax.types import SimEnv

OF_RATES = (
    "more_sims", "pretended", "strategy", "strategy_threshold", "later_beta", "later_after", "reuse_cap", "fallback",
    "visits",
)  # fmt: skip


class Places(NamedTuple):
    """The environments in a run's program."""

    sims: tuple[SimEnv, ...]
    pretended: SimEnv | None


def asked(experiment: Experiment) -> bool:
    """Whether a run goes by rates."""
    return bool(experiment.q or experiment.beta)


def real_rows_drawn(experiment: Experiment) -> int | None:
    """Real rows in an update at the highest rate that a run's beta takes, rounded up; None where counts fix them."""
    config = experiment.algorithm
    if config.mixing == "counts":
        return None
    most = max(beta[0] for beta in (experiment.beta or experiment.q, experiment.later_beta) if beta)
    own = -int(-(config.batch_real + config.batch_sim) * most // 1)
    return own + getattr(config, "discriminator_batch_real", 0)


def applied(experiment: Experiment) -> Experiment:
    """The same run with a learner that draws at the rates, where there are any and it learns in a simulator.

    A robot that waits for the learner does q's share of the control steps. Raises Refused where that makes no sense.
    """
    if not asked(experiment):
        plain = Experiment()
        for name in OF_RATES:
            value = getattr(experiment, name)
            if value != getattr(plain, name):
                raise Refused(f"--{name} {value} is about the rates, and there are none; give --q or --beta")
        return experiment
    config = experiment.algorithm
    if not config.batch_sim:
        return experiment
    sees_reality = config.batch_real or hasattr(config, "discriminator_batch_real")
    if not sees_reality:
        experiment = replace(experiment, pretended="", strategy="mixed", later_beta=(), later_after=0, reuse_cap=None)
        experiment = replace(experiment, q=_among_simulators(experiment.q), beta=_among_simulators(experiment.beta))
        if not asked(experiment):
            return experiment
    if config.mixing == "counts":
        experiment = replace(experiment, algorithm=replace(config, mixing="quotas"))
    return _with_robot(experiment) if sees_reality else experiment


def _among_simulators(p: tuple[float, ...]) -> tuple[float, ...]:
    """Rates without reality; () where they leave nothing."""
    total = sum(p[1:])
    return (0.0, *(x / total for x in p[1:])) if total > 0 else ()


def _with_robot(experiment: Experiment) -> Experiment:
    if experiment.live.feed == "none":
        return experiment
    if experiment.pretended:
        raise Refused(f"--pretended {experiment.pretended} and a robot would both be reality; give one of them")
    if experiment.live.feed != "synchronous" or not experiment.q or not experiment.q[0] > 0:
        return experiment
    all_steps = experiment.rates.sims * experiment.rates.unroll
    steps = round(experiment.q[0] * all_steps)
    if not 1 <= steps <= experiment.live.capacity:
        raise Refused(
            f"--q {experiment.q[0]:g} of {all_steps} control steps an iteration are {steps} for the robot; it needs at"
            f" least 1 and at most --live.capacity {experiment.live.capacity}"
        )
    return replace(experiment, live=replace(experiment.live, steps=steps))


def mixed(experiment: Experiment, places: Places) -> Mixing | None:
    """The schedule of a run's rates; None where it knows none. Raises Refused, ValueError."""
    if experiment.algorithm.mixing == "counts":
        return None
    if not asked(experiment):
        raise Refused(
            f"--algorithm.mixing {experiment.algorithm.mixing} draws at the rates beta; give --beta, or --q alone"
        )
    stores = 1 + len(places.sims)
    if stores == 1:
        raise Refused(
            "rates are between reality and simulators, and the method learns in none; leave --q and --beta out"
        )
    q = experiment.q or (0.0, *(1.0 / (stores - 1),) * (stores - 1))
    rates = Rates(*(_distribution(name, p, stores) for name, p in (("q", q), ("beta", experiment.beta or q))))
    _check_reality(experiment, places, q)
    if not 0 < experiment.strategy_threshold <= 1:
        raise Refused(f"--strategy_threshold {experiment.strategy_threshold:g} must be more than 0 and at most 1")
    schedule = schedules.strategy(experiment.strategy, *rates, experiment.strategy_threshold)
    if experiment.later_beta:
        schedule = _moving(experiment, schedule, _distribution("later_beta", experiment.later_beta, stores), stores)
    if experiment.reuse_cap is not None:
        config = experiment.algorithm
        if hasattr(config, "discriminator_batch_real"):
            raise Refused(
                f"--reuse_cap {experiment.reuse_cap:g} cannot hold: the discriminators draw real rows whatever beta is"
            )
        drawn = (config.batch_real + config.batch_sim) * experiment.rates.updates
        schedule = schedules.capped(schedule, experiment.reuse_cap, drawn)
    return Mixing(schedule, experiment.visits, experiment.fallback == "newest")


def _check_reality(experiment: Experiment, places: Places, q: tuple[float, ...]) -> None:
    """Whether somebody visits reality at its rate, and when the strategy says. Raises Refused."""
    feed, pretends = experiment.live.feed, places.pretended is not None
    if q[0] > 0 and not pretends and feed != "synchronous":
        raise Refused(
            f"--q {q[0]:g} of reality is collected by nobody; give --pretended a simulator that plays it, or"
            " --live.feed synchronous and a robot, or 0 for a log, and for a robot that goes by its own clock"
        )
    if pretends and not q[0] > 0 and experiment.strategy != "sim_first" and experiment.beta and experiment.beta[0] > 0:
        raise Refused(f"--pretended {experiment.pretended} is never visited at its rate of 0; give --q, reality first")
    if not experiment.beta and q[0] == 0 and (experiment.dataset is not None or feed != "none"):
        raise Refused(f"--q {experiment.q} alone would leave the real rows unused, for beta is q then; give --beta")
    if experiment.strategy == "mixed" and experiment.later_after != "success":
        return
    if feed != "none" and experiment.strategy != "mixed":
        raise Refused(f"--strategy {experiment.strategy} would keep the robot waiting; give --strategy mixed")
    if all(env.success is None for env in places.sims):
        raise Refused(
            f"--strategy {experiment.strategy} and --later_after {experiment.later_after}: one of them waits for"
            f" successes in the simulator, and {experiment.sim} tells none; give it a `success`"
        )


def _distribution(name: str, p: tuple[float, ...], stores: int):
    if len(p) != stores:
        raise Refused(f"--{name} has {len(p)} rates; give {stores}, for reality and {stores - 1} simulators")
    return mixing.simplex(p, f"--{name}")


def _moving(experiment: Experiment, schedule: Schedule, last, stores: int) -> Schedule:
    """The schedule with its beta on the way to another one: in so many updates, or at once with a success."""
    if experiment.later_after == "success":

        def later(progress: Progress) -> Rates:
            return Rates(schedule(progress).q, last)

        return schedules.after_success(schedule, later, jnp.arange(stores) > 0, experiment.strategy_threshold)
    steps = -(-experiment.later_after // experiment.rates.updates)
    if steps < 1:
        raise Refused(
            f"--later_after {experiment.later_after} must be 1 update or more, or success: when --later_beta is there"
        )

    def at(progress: Progress) -> Rates:
        first = schedule(progress)
        moved = schedules.linear(first, Rates(first.q, last), steps)(progress)
        return Rates(first.q, moved.beta)

    return at
