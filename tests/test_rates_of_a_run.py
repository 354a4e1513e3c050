"""The rates q and beta from a run's command line: what they make of a run, and how mistakes are told."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest

from envs import point_mass
from experiments import online, preflight, rates, session
from experiments.experiment import Experiment, Refused
from experiments.live import Live
from hybrid_jax import trainer
from hybrid_jax.algorithms import h2o, sac
from hybrid_jax.datasets import hdf5
from hybrid_jax.metrics import read_csv
from hybrid_jax.mixing import Progress


def light():
    return point_mass.make(point_mass.Constants(gain=5.0))


def reality():
    return point_mass.make(point_mass.Constants(gain=2.0, drag=1.5))


HERE = "tests.test_rates_of_a_run"
BASE = Experiment(
    name="toy",
    sim="envs.point_mass:make",
    real="envs.point_mass:make_real",
    more_sims=(f"{HERE}:light",),
    pretended=f"{HERE}:reality",
    dataset=None,
    algorithm=sac.Config(hidden=(4,), batch_real=4, batch_sim=4),
    rates=trainer.Rates(sims=2, unroll=20, updates=10, sim_capacity=400, pool=4),
    q=(0.2, 0.4, 0.4),
    beta=(0.5, 0.25, 0.25),
    updates=40,
    evaluate_every=20,
    episodes=1,
    test_episodes=1,
    rivals=(),
    tensorboard=False,
    compile_cache=False,
)


LIVE = Live(feed="synchronous", judge="instance")
ROWS = replace(BASE.algorithm, mixing="rows")
THREADED = Live(feed="threaded", judge="instance")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of H2O with a rival that knows no rates, on a pretended reality and two simulators, without a log."""
    own = h2o.Config(
        hidden=(4,), discriminator_hidden=(4,), batch_real=4, batch_sim=4, discriminator_batch_real=4,
        discriminator_batch_sim=4,
    )  # fmt: skip
    experiment = replace(BASE, algorithm=own, rivals=("sim_only",), runs=tmp_path_factory.mktemp("runs"))
    assert session.run(experiment, preflight.prepare(experiment, None), [], None, 0.0) == 0
    (folder,) = experiment.runs.iterdir()
    return folder


def test_a_run_collects_by_q_and_draws_by_beta_and_says_so(finished):
    told = read_csv(finished / "metrics.csv")
    np.testing.assert_allclose([told[f"store{k}/collected"] for k in range(3)], [[0.2] * 2, [0.4] * 2, [0.4] * 2])
    np.testing.assert_array_equal([told[f"store{k}/size"][-1] for k in range(3)], [28, 56, 56])  # 40 an iteration
    # H2O's discriminators take half of 16 rows, real and simulated alike, so beta rules the other 8.
    np.testing.assert_allclose([told[f"store{k}/drawn"] for k in range(3)], [[0.5] * 2, [0.25] * 2, [0.25] * 2])
    # 10 updates of 16 rows an iteration, iterations 3 and 4: draws 480 and 640 for 120 and 160 rows, by both rates.
    np.testing.assert_allclose([told[f"store{k}/reuse"][-1] for k in range(3)], [10.0, 2.5, 2.5])
    assert {"real/episodes", "sim1/episodes", "sim2/episodes"} <= set(told)


def test_a_rival_of_simulators_alone_takes_their_rates_among_each_other(finished):
    told = read_csv(finished / "rivals" / "sim_only" / "metrics.csv")
    assert told["store0/size"][-1] == 0 and told["store0/drawn"][-1] == 0
    assert [told[f"store{k}/drawn"][-1] for k in (1, 2)] == [0.5, 0.5]
    assert "real/episodes" not in told and told["real_steps"][-1] == 0


def test_steps_are_counted_where_they_were_spent(finished):
    told = read_csv(finished / "metrics.csv")
    np.testing.assert_array_equal(told["real_steps"], [16, 32])  # 0.2 of 40 an iteration
    result = json.loads((finished / "result.json").read_text())
    assert (result["real_steps"], result["sim_steps"]) == (32, 128)


def test_real_rows_of_an_update_are_those_at_the_highest_rate():
    mixes = rates.applied(replace(BASE, later_beta=(0.9, 0.1, 0.0), later_after=20))
    assert rates.real_rows_drawn(mixes) == 8 and rates.real_rows_drawn(rates.applied(BASE)) == 4
    own = replace(BASE, algorithm=h2o.Config(batch_real=4, batch_sim=4, discriminator_batch_real=6))
    assert (
        rates.real_rows_drawn(rates.applied(own)) == 10 and rates.real_rows_drawn(replace(BASE, q=(), beta=())) is None
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"q": (0.5, 0.5)}, "--q has 2 rates; give 3, for reality and 2 simulators"),
        ({"beta": (0.5, 0.4, 0.2)}, r"--beta is \[0.5, 0.4, 0.2\]; give numbers >= 0"),
        ({"pretended": ""}, "--q 0.2 of reality is collected by nobody; give --pretended a simulator that plays it"),
        (
            {"q": (0.01, 0.49, 0.5), "live": LIVE, "pretended": ""},
            "--q 0.01 of 40 control steps an iteration are 0 for",
        ),
        ({"live": LIVE, "pretended": "", "strategy": "sim_first"}, "--strategy sim_first would keep the robot waiting"),
        ({"live": LIVE}, "and a robot would both be reality; give one of them"),
        ({"q": ()}, "is never visited at its rate of 0; give --q, reality first"),
        ({"q": (), "beta": ()}, "is about the rates, and there are none; give --q or --beta"),
        ({"q": (0.0, 0.5, 0.5), "beta": (), "live": THREADED, "pretended": ""}, "would leave the real rows unused"),
        ({"later_beta": (1.0, 0.0, 0.0), "later_after": "success"}, "one of them waits for successes"),
        ({"strategy": "sim_first"}, "waits for successes in the simulator, and envs.point_mass:make tells none"),
        ({"later_beta": (1.0, 0.0, 0.0)}, "--later_after 0 must be 1 update or more, or success"),
        ({"reuse_cap": -1.0}, "reuse is -1.0"),
        ({"reuse_cap": 9.0, "algorithm": h2o.Config()}, "the discriminators draw real rows whatever beta is"),
        ({"strategy_threshold": 1.5}, "--strategy_threshold 1.5 must be more than 0 and at most 1"),
        ({"algorithm": h2o.Config(mixing="store")}, "mixing is 'store'; H2O's penalty needs rows of both worlds"),
        (
            {"q": (), "beta": (), "pretended": "", "more_sims": (), "algorithm": ROWS},
            "draws at the rates",
        ),
        ({"more_sims": (f"{HERE}:BASE",)}, "has no function 'BASE'"),
    ],
)
def test_rates_that_make_no_sense_are_refused_in_one_sentence(changes, sentence, tmp_path):
    with pytest.raises(Refused, match=sentence):
        try:
            preflight.prepare(replace(BASE, runs=tmp_path, **changes), None)
        except Exception as error:  # a wrong reference is another class of mistake, told in the same way
            raise Refused(str(error)) from error


def schedule_of(experiment, tmp_path):
    with contextlib.closing(preflight.prepare(replace(experiment, runs=tmp_path), None).worlds.real):
        places = rates.Places((light(), light()), reality())
        return rates.mixed(rates.applied(experiment), places).schedule


def test_q_alone_is_one_shared_store_and_beta_alone_shares_the_simulators(tmp_path):
    progress = _progress(0)
    shared = schedule_of(replace(BASE, beta=()), tmp_path)(progress)
    np.testing.assert_allclose(shared.beta, [0.2, 0.4, 0.4])
    simulators = rates.Places((light(), light()), None)
    alone = rates.mixed(rates.applied(replace(BASE, q=(), pretended="")), simulators).schedule(progress)
    np.testing.assert_allclose(alone.q, [0, 0.5, 0.5])


def test_a_robot_that_waits_does_its_share_of_the_steps():
    """0.2 of 2 x 20 control steps; the others are the simulators', which get what q leaves them."""
    robot = replace(BASE, pretended="", live=LIVE)
    assert rates.applied(robot).live.steps == 8
    assert rates.applied(replace(robot, q=(0.0, 0.5, 0.5))).live.steps == LIVE.steps
    assert rates.mixed(rates.applied(robot), rates.Places((light(), light()), None)) is not None


def test_beta_moves_to_a_later_one(tmp_path):
    schedule = schedule_of(replace(BASE, later_beta=(1.0, 0.0, 0.0), later_after=100), tmp_path)  # 10 iterations
    for step, real in ((0, 0.5), (5, 0.75), (10, 1.0), (50, 1.0)):
        told = schedule(_progress(step))
        np.testing.assert_allclose(told.beta[0], real, rtol=1e-6)
        np.testing.assert_allclose(told.q, [0.2, 0.4, 0.4])


def _progress(step):
    return Progress(np.int32(step), *(np.zeros(3, np.float32) for _ in range(4)))


def test_a_log_may_be_the_real_store_of_several_simulators(tmp_path):
    rng = np.random.default_rng(0)
    data = online.record(point_mass.make_real(), point_mass.SPEC, lambda obs: rng.uniform(-1, 1, 1), 60, 0)
    hdf5.save(tmp_path / "log.hdf5", data, {})
    log = replace(BASE, dataset=tmp_path / "log.hdf5", pretended="", q=(0.0, 0.5, 0.5), updates=20, runs=tmp_path / "r")
    assert session.run(log, preflight.prepare(log, None), [], None, 0.0) == 0
    (folder,) = log.runs.iterdir()
    told = read_csv(folder / "metrics.csv")
    assert told["store0/size"][-1] == 60 and told["store0/drawn"][-1] == 0.5
