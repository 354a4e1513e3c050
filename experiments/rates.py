"""Where a run collects and whose rows it uses, from its config: the environments behind the rates q and beta.

Rates stand in the order reality, simulator, further simulators. With q alone beta is q, as in one shared store; with
beta alone the simulators share q evenly. A method that learns from one world alone knows no rates. A robot that waits
for the learner takes its share of an iteration's steps; one that goes by its own clock has no q.
"""

from dataclasses import replace
from typing import NamedTuple

from experiments.experiment import Experiment, Refused
from hybrid_jax import mixing
from hybrid_jax.mixing import Mixing, Rates, Schedule
from hybrid_jax.types import SimEnv


class Places(NamedTuple):
    """The environments in a run's program."""

    sims: tuple[SimEnv, ...]
    pretended: SimEnv | None


def asked(experiment: Experiment) -> bool:
    """Whether a run goes by rates."""
    return bool(experiment.q or experiment.beta)


def applied(experiment: Experiment) -> Experiment:
    """The same run with a learner that draws at the rates, where there are any and it learns from both worlds.

    A robot that waits for the learner does q's share of the control steps. Raises Refused where that is none.
    """
    config = experiment.algorithm
    if not asked(experiment) or not (config.batch_real and config.batch_sim):
        return experiment
    if config.mixing == "counts":
        experiment = replace(experiment, algorithm=replace(config, mixing="quotas"))
    if experiment.live.feed != "synchronous" or not experiment.q or not experiment.q[0] > 0:
        return experiment
    all_steps = experiment.rates.sims * experiment.rates.unroll
    steps = round(experiment.q[0] * all_steps)
    if steps < 1:
        raise Refused(
            f"--q {experiment.q[0]:g} of {all_steps} control steps an iteration is none for the robot; raise it, or"
            " --rates.unroll"
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
    q = experiment.q or (0.0, *(1.0 / (stores - 1),) * (stores - 1))
    rates = Rates(*(_distribution(name, p, stores) for name, p in (("q", q), ("beta", experiment.beta or q))))
    _check_reality(experiment, places)
    schedule = mixing.strategy(experiment.strategy, *rates, experiment.strategy_threshold)
    if experiment.later_beta:
        schedule = _moving(experiment, schedule, _distribution("later_beta", experiment.later_beta, stores))
    if experiment.reuse_cap is not None:
        batch = experiment.algorithm.batch_real + experiment.algorithm.batch_sim
        schedule = mixing.capped(schedule, experiment.reuse_cap, batch * experiment.rates.updates)
    return Mixing(schedule, experiment.visits)


def _check_reality(experiment: Experiment, places: Places) -> None:
    """Whether somebody visits reality at its rate, and when the strategy says. Raises Refused."""
    feed = experiment.live.feed
    if experiment.q and experiment.q[0] > 0 and places.pretended is None and feed != "synchronous":
        raise Refused(
            f"--q {experiment.q[0]:g} of reality is collected by nobody; give --pretended a simulator that plays it, or"
            " --live.feed synchronous and a robot, or 0 for a log, and for a robot that goes by its own clock"
        )
    if experiment.strategy == "mixed":
        return
    if feed != "none":
        raise Refused(f"--strategy {experiment.strategy} would keep the robot waiting; give --strategy mixed")
    if all(env.success is None for env in places.sims):
        raise Refused(
            f"--strategy {experiment.strategy} waits for successes in the simulator, and {experiment.sim} tells none;"
            " give it a `success`, or --strategy mixed"
        )


def _distribution(name: str, p: tuple[float, ...], stores: int):
    if len(p) != stores:
        raise Refused(f"--{name} has {len(p)} rates; give {stores}, for reality and {stores - 1} simulators")
    return mixing.simplex(p, f"--{name}")


def _moving(experiment: Experiment, schedule: Schedule, last) -> Schedule:
    """The schedule with its beta on the way to another one, in so many iterations."""
    steps = -(-experiment.later_after // experiment.rates.updates)
    if steps < 1:
        raise Refused(f"--later_after {experiment.later_after} must be the updates, 1 or more, that --later_beta takes")

    def at(progress: mixing.Progress) -> Rates:
        first = schedule(progress)
        moved = mixing.linear(first, Rates(first.q, last), steps)(progress)
        return Rates(first.q, moved.beta)

    return at
