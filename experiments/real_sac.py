"""The yardstick that a robot cannot afford: SAC trained directly in the real environment.

    python experiments/real_sac.py wheel_legged_h2o --seed 0

Networks, learning rates and budget are those of the named experiment, one update per real step; judged after
the last update on the same test episodes as the experiment. The last line is JSON.
"""

import contextlib
import json
import sys
import time
from dataclasses import replace

import numpy as np

from experiments import experiment as experiments
from experiments import methods, online, preflight
from experiments.experiment import Experiment, Refused, factory
from experiments.judging import TEST_SEED
from hybrid_jax import config, evaluate, statistics
from hybrid_jax.export import NumpyPolicy
from hybrid_jax.real.gate import is_robot


def main(arguments: list[str]) -> int:
    """The exit code: 0 done, 2 the user's mistake."""
    try:
        if not arguments or arguments[0].startswith("-"):
            raise config.ConfigError(f"name an experiment first: {', '.join(experiments.names())}")
        chosen = config.parse(experiments.load(arguments[0]), arguments[1:], "real_sac.py", __doc__ or "")
        judged = judge(replace(chosen, dataset=None, rivals=()))
    except (config.ConfigError, Refused, ValueError) as error:
        print(f"real_sac.py: {error}", file=sys.stderr)
        return 2
    print(json.dumps(judged))
    return 0


def judge(experiment: Experiment) -> dict:
    """Trains and tests; the figures."""
    started = time.monotonic()
    if experiment.compile_cache:
        preflight.use_compile_cache()
    make_real, spec = factory(experiment.real, "real"), factory(experiment.sim, "sim")().spec
    settings = online.Config(
        algorithm=methods.chosen(experiment, "real_only").algorithm,
        steps=experiment.updates,
        warmup=min(1_000, experiment.updates // 10),
        evaluate_every=experiment.evaluate_every,
        episodes=experiment.episodes,
    )
    with contextlib.closing(make_real()) as env, contextlib.closing(make_real()) as test:
        if is_robot(env):
            raise Refused(f"--real {experiment.real} is a robot; this drives it without a gate: use run.py --live.feed")
        result = online.learn(env, test, spec, settings, experiment.seed, print)
        policy = NumpyPolicy.from_params(result.actor)
        episodes = evaluate.real_episodes(test, policy, experiment.test_episodes, TEST_SEED, spec.episode_length)
    returns = [episode.total for episode in episodes]
    return {
        "real_return_mean": float(np.mean(returns)),
        "real_return_ci95": statistics.bootstrap_ci(returns),
        "falls": sum(episode.terminated for episode in episodes),
        "test_episodes": len(episodes),
        "real_steps": len(result.data.rewards),
        "seed": experiment.seed,
        "wall_seconds": time.monotonic() - started,
    }


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
