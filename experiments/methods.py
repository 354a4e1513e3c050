"""The learners by name, each on the settings of an experiment: the same data, networks, rates and budget.

A method takes from an experiment what belongs to the task (networks, learning rates, discount, reward scale, ...) and
the size of its batch, and brings the rest itself. RLPD also brings its update-to-data ratio: twenty updates for each
simulated step, so it simulates less; `rlpd_utd1` simulates as much as the others.
"""

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from experiments.experiment import Experiment
from hybrid_jax import actor_critic, dynamics_gap
from hybrid_jax.algorithms import cql, darc, darc_plus, ddpg, h2o, rebrac, rlpd, sac
from hybrid_jax.config import ConfigError
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Algorithm, Goal, Spec

# What belongs to the task, not to the method; beyond it a method's own defaults hold.
TASK = (
    "hidden", "actor_lr", "critic_lr", "temperature_lr", "discount", "tau", "initial_temperature", "reward_scale",
    "policy_average", *(field.name for field in fields(dynamics_gap.Config)),
)  # fmt: skip


def _real(config: Any, rows: int) -> Any:
    return replace(config, batch_real=rows, batch_sim=0)


def _simulated(config: Any, rows: int) -> Any:
    return replace(config, batch_real=0, batch_sim=rows)


def _both(config: Any, rows: int) -> Any:
    return replace(config, batch_real=rows // 2, batch_sim=rows - rows // 2)


def _h2o(**changes: Any) -> tuple[Callable, Callable]:
    return lambda: h2o.Config(**changes), _both


# name -> (its settings, which rows its batch holds)
METHODS: dict[str, tuple[Callable[[], Any], Callable]] = {
    "h2o": _h2o(),
    "sim_only": (sac.Config, _simulated),
    "mix": (lambda: h2o.Config(importance_weight=False, beta=0.0), _both),
    "real_only": (sac.Config, _real),
    "cql": (cql.Config, _real),
    "cql_tuned": (cql.tuned, _real),
    "cql_recipe": (cql.tuned, _real),  # the same on the experiment's networks
    "rebrac": (rebrac.Config, _real),
    "rlpd": (rlpd.Config, _both),
    "rlpd_utd1": (lambda: rlpd.Config(actor_period=1), _both),  # simulates and moves its policy as often as the others
    "darc": (darc.Config, _simulated),
    "darc_online": (darc.online, _simulated),
    "darc_plus": (darc_plus.Config, _both),
    "ddpg": (lambda: ddpg.Config(mixing="counts"), _both),
    "ddpg_authors": (ddpg.authors, _both),  # at rates alone
    "h2o_no_penalty": _h2o(beta=0.0),
    "h2o_no_weight": _h2o(importance_weight=False),
    "h2o_uniform": _h2o(adaptive_penalty=False),
    "h2o_linear": _h2o(linear_penalty=True),
}
OWN = {  # fields of TASK that a method's recipe sets itself
    "cql_tuned": {"actor_lr", "critic_lr", "temperature_lr", "hidden"},
    "cql_recipe": {"actor_lr", "critic_lr", "temperature_lr"},
    "rebrac": {"temperature_lr"},
    "ddpg": {"temperature_lr"},
    "ddpg_authors": {"temperature_lr", "tau", "discount", "actor_lr", "critic_lr"},
    "darc_online": {field.name for field in fields(dynamics_gap.Config)} | {"reward_scale"},
}


def chosen(experiment: Experiment, name: str) -> Experiment:
    """The same run, all else equal, with the learner replaced. Raises ConfigError for an unknown name."""
    if name not in METHODS:
        raise ConfigError(f"no method {name!r}; the known ones: {', '.join(METHODS)}")
    settings, rows_of = METHODS[name]
    ours, config = experiment.algorithm, settings()
    taken = set(TASK) - OWN.get(name, set())
    theirs = {field.name for field in fields(config)} & {field.name for field in fields(ours)}
    shared = {field: getattr(ours, field) for field in taken & theirs}
    algorithm = rows_of(replace(config, **shared), ours.batch_real + ours.batch_sim)
    others = tuple(rival for rival in experiment.rivals if rival != name)
    return replace(experiment, algorithm=algorithm, method=name, rivals=others)


def rivals(experiment: Experiment) -> dict[str, Experiment]:
    """The run and its rivals by name, each at its own update-to-data ratio.

    Raises ConfigError for a name that stands for two of them, and for updates that RLPD's ratio does not divide.
    """
    found = {label(experiment): experiment}
    for name in experiment.rivals:
        if name in found:
            raise ConfigError(f"--rivals {name!r} is in the run already; name each method once")
        found[name] = replace(chosen(experiment, name), rivals=())
    return {name: _at_ratio(each) if name == "rlpd" else each for name, each in found.items()}


def _at_ratio(experiment: Experiment) -> Experiment:
    """With so few simulated steps that RATIO updates follow each, on as many simulations as divide them."""
    rates, each = experiment.rates, rlpd.RATIO * (1 + len(experiment.more_sims))
    if rates.updates % each:
        raise ConfigError(
            f"--rates.updates {rates.updates} is no multiple of {each}, and rlpd learns {rlpd.RATIO} times for each"
            " simulated step; give a multiple, or take rlpd_utd1, which simulates as much as the others"
        )
    steps = rates.updates // each
    sims = next(sims for sims in range(min(rates.sims, steps), 0, -1) if steps % sims == 0)
    return replace(experiment, rates=replace(rates, sims=sims, unroll=steps // sims))


def label(experiment: Experiment) -> str:
    """The name of a run's learner: as it was chosen, or that of its algorithm's module."""
    return experiment.method or type(experiment.algorithm).__module__.rpartition(".")[2]


def make(config: actor_critic.Config, spec: Spec, moments: Moments | None, goal: Goal | None = None) -> Algorithm:
    """The algorithm behind a config; its class and its `make` share a module. goal: for those that relabel it."""
    module = sys.modules[type(config).__module__]
    relabels = "goal" in inspect.signature(module.make).parameters
    return module.make(config, spec, moments, **({"goal": goal} if relabels else {}))


def simulates(config: actor_critic.Config) -> bool:
    """Whether a learner draws simulated rows; one that does not needs no simulator while it learns."""
    return config.batch_sim > 0 or hasattr(config, "discriminator_batch_sim")
