"""The learners by name: what each takes from an experiment, and that the command line reaches them."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import experiment as experiments
from experiments import methods, run, wheel_legged_h2o
from hybrid_jax.algorithms import cql, darc
from hybrid_jax.config import ConfigError
from hybrid_jax.scaling import Moments
from hybrid_jax.types import Spec

BASE = wheel_legged_h2o.config()


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_keeps_the_task_and_the_size_of_the_batch(name):
    ours, theirs = BASE.algorithm, methods.chosen(BASE, name).algorithm
    assert theirs.batch_real + theirs.batch_sim == ours.batch_real + ours.batch_sim
    for field in set(methods.TASK) - methods.OWN.get(name, set()):
        if hasattr(theirs, field):
            assert getattr(theirs, field) == getattr(ours, field), field


@pytest.mark.parametrize(
    ("name", "batch", "worlds"),
    [
        ("sim_only", (0, 256), {1}), ("real_only", (256, 0), {0}), ("cql", (256, 0), {0}), ("rebrac", (256, 0), {0}),
        ("rlpd", (128, 128), {0, 1}), ("darc", (0, 256), {0, 1}), ("darc_plus", (128, 128), {0, 1}),
    ],
)  # fmt: skip
def test_a_method_draws_from_its_worlds(name, batch, worlds):
    config = methods.chosen(BASE, name).algorithm
    assert (config.batch_real, config.batch_sim) == batch
    moments = Moments(*np.ones((4, 4)))
    algorithm = methods.make(config, Spec(4, 1, 1000, 0.005), moments)
    drawn = np.asarray(algorithm.mix(jax.random.key(0)))
    assert set(drawn.tolist()) == worlds
    assert methods.simulates(config) == (1 in worlds)


def test_the_mix_is_h2o_without_its_two_changes():
    theirs = methods.chosen(BASE, "mix").algorithm
    assert theirs == dataclasses.replace(BASE.algorithm, importance_weight=False, beta=0.0)


def test_a_recipe_keeps_its_own_numbers():
    assert methods.chosen(BASE, "cql_tuned").algorithm.actor_lr == cql.tuned().actor_lr
    assert methods.chosen(BASE, "cql").algorithm.actor_lr == BASE.algorithm.actor_lr
    assert methods.chosen(BASE, "darc_online").algorithm.discriminator_noise == darc.online().discriminator_noise


@pytest.mark.parametrize(
    ("updates", "more", "sims", "unroll"),
    [(200, (), 10, 1), (2_000, (), 50, 2), (140, (), 7, 1), (20, (), 1, 1), (200, ("a:b",), 5, 1)],
)
def test_rlpd_learns_twenty_times_a_simulated_step(updates, more, sims, unroll):
    """On as many of at most 50 simulations as come out even, as leader and as rival; the others go by the run."""
    rates = dataclasses.replace(BASE.rates, sims=50, unroll=40, updates=updates)
    base = dataclasses.replace(BASE, rates=rates, more_sims=more, rivals=("rlpd", "rlpd_utd1", "mix"))
    slow = dataclasses.replace(rates, sims=sims, unroll=unroll)
    for leading in (base, methods.chosen(base, "rlpd")):
        found = methods.rivals(leading)
        assert {name: each.rates for name, each in found.items()} == dict.fromkeys(found, rates) | {"rlpd": slow}


@pytest.mark.parametrize(("updates", "more"), [(10, ()), (130, ()), (60, ("a:b",))])
def test_updates_that_rlpds_ratio_does_not_divide_are_refused(updates, more):
    base = dataclasses.replace(BASE, rates=dataclasses.replace(BASE.rates, updates=updates), more_sims=more)
    with pytest.raises(
        ConfigError, match=f"--rates.updates {updates} is no multiple of {20 * (1 + len(more))}, and rlpd"
    ):
        methods.rivals(methods.chosen(base, "rlpd"))


def test_a_run_and_its_rivals_have_names_of_their_own():
    """The mix is H2O's class, and is not called H2O."""
    assert list(methods.rivals(BASE)) == ["h2o", "sim_only", "mix"]
    mix = dataclasses.replace(methods.chosen(BASE, "mix"), rivals=("h2o", "cql_tuned"))
    named = methods.rivals(mix)
    assert list(named) == ["mix", "h2o", "cql_tuned"]
    assert named["h2o"].algorithm.importance_weight and not named["mix"].algorithm.importance_weight
    assert methods.chosen(BASE, "mix").rivals == ("sim_only",)  # not beside itself
    for rivals in (("h2o",), ("cql", "cql")):
        with pytest.raises(ConfigError, match=f"--rivals '{rivals[-1]}' is in the run already"):
            methods.rivals(dataclasses.replace(BASE, rivals=rivals))


def test_an_unknown_method_is_refused_with_the_known_ones(capsys):
    with pytest.raises(ConfigError, match="no method 'ppo'; the known ones: h2o, sim_only"):
        methods.chosen(BASE, "ppo")
    assert run.main(["wheel_legged_h2o", "--method", "ppo"]) == 2
    assert "no method 'ppo'" in capsys.readouterr().err
    assert run.main(["wheel_legged_h2o", "--method"]) == 2
    assert "--method needs a name" in capsys.readouterr().err


def test_every_experiment_takes_every_method():
    for name in experiments.names():
        chosen = experiments.load(name)
        for method in methods.METHODS:
            assert methods.chosen(chosen, method).updates == chosen.updates
