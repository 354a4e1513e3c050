"""The host loop of one learner: compiled iterations, evaluations, log, checkpoints, until the budget is spent.

Seeds run in one program on an accelerator and one after the other on a CPU; a run is a list of seeds that
share a program, with one folder each.
"""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import live
from experiments.experiment import Experiment, Refused, identity_of
from experiments.preflight import Worlds, real_capacity
from hybrid_jax import evaluate, trainer
from hybrid_jax.checkpoint import Checkpointer, CheckpointError
from hybrid_jax.export import NumpyPolicy
from hybrid_jax.metrics import RunLog
from hybrid_jax.progress import Progress
from hybrid_jax.real.settings import RobotStopped
from hybrid_jax.rollout import Stats
from hybrid_jax.types import Algorithm

EVALUATION_SEED = 1_000  # real episodes during training start from these seeds on ...
TEST_SEED = 1_000_000  # ... and the test, once at the end, from these
SIM_EPISODES = 8


class Interrupted(Exception):
    """The user asked to stop; the state is saved."""


class _Stop:
    """Turns the first Ctrl-C into a request that the loop sees; a second one stops at once."""

    def __enter__(self) -> "_Stop":
        self.wanted = False
        self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, *_: Any) -> None:
        self.wanted = True
        signal.signal(signal.SIGINT, self.before)

    def __exit__(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, self.before)


class Outcome(NamedTuple):
    """What one seed of a run learned."""

    actor: Any  # numpy parameters of the kept policy
    updates: int
    sim_steps: int
    real_steps: int


def train(
    experiment: Experiment,
    worlds: Worlds,
    algorithm: Algorithm,
    seeds: list[int],
    folders: list[Path],
    label: str,
) -> list[Outcome]:
    """Trains one run per seed to the end of the budget; continues from the newest checkpoint in its folder.

    Raises Interrupted after a checkpoint when the user presses Ctrl-C, RobotStopped (after one, too)
    where a robot cannot go on.
    """
    logged = 0 if worlds.rows is None else len(worlds.rows.reward)
    made = trainer.make(worlds.spec, (worlds.sim,), algorithm, experiment.rates, real_capacity(experiment, worlds))
    many = len(seeds) > 1
    run = trainer.over_seeds(made) if many else trainer.jitted(made)
    keys = jax.random.key(seeds[0]) if not many else jax.numpy.stack([jax.random.key(s) for s in seeds])
    judge = _judge(experiment, worlds, algorithm, many)
    iterations = -(-experiment.updates // made.updates)
    per_evaluation = max(1, experiment.evaluate_every // made.updates)

    identity = identity_of(experiment)
    with ExitStack() as owned:
        checkpoints = owned.enter_context(Checkpointer(folders[0] / "checkpoints"))
        stop = owned.enter_context(_Stop())
        state, meta, done = _start(run, keys, worlds, checkpoints, identity, iterations)
        logs = [owned.enter_context(_log(f, experiment, done * made.updates)) for f in folders]
        progress = owned.enter_context(Progress(label, iterations * made.updates))
        real_steps = meta.get("real_steps", logged)
        robot = owned.enter_context(
            live.robot(
                experiment.live, experiment.real, worlds.spec, algorithm, logged, folders[0] / "robot", seeds[0],
                meta.get("watermark", 0), algorithm.policy(state.algorithm), done * made.updates,
                lambda text: print(f"robot: {text}"),
            )
        )  # fmt: skip
        progress.update(done * made.updates, done * made.sim_steps)

        def about() -> dict[str, Any]:
            taken = {} if robot is None else {"watermark": robot.watermark, "real_steps": real_steps}
            return {"identity": identity, "seeds": seeds} | taken

        waiting = []
        while done < iterations:
            try:
                fed, told = _fed(robot, algorithm.policy(state.algorithm), done * made.updates)
            except RobotStopped:
                checkpoints.save(done, state, about())
                raise
            state, metrics = run.step(state, *fed)
            waiting.append(metrics | told)
            done += 1
            real_steps += int(fed[1]) if fed else 0
            updates, last, returns = done * made.updates, done == iterations, {}
            if done % per_evaluation == 0 or last:
                scores = judge(state, done)
                for i, (log, score) in enumerate(zip(logs, scores, strict=True)):
                    log.write(updates, _means(waiting, i if many else None) | score)
                waiting = []
                returns = {
                    name: float(np.mean([score[name] for score in scores])) for name in ("real_return", "sim_return")
                }
            else:
                jax.block_until_ready(metrics)  # keeps the queue, and so the answer to Ctrl-C, short
            if last or stop.wanted or (returns and (done // per_evaluation) % experiment.checkpoint_every == 0):
                checkpoints.save(done, state, about())
            progress.update(updates, done * made.sim_steps, real_steps - logged, **returns)
            if stop.wanted:
                raise Interrupted
    policies = jax.device_get(algorithm.deployed(state.algorithm))
    return [
        Outcome(_pick(policies, i if many else None), done * made.updates, done * made.sim_steps, real_steps)
        for i in range(len(seeds))
    ]


def _fed(robot: live.Robot | None, policy: Any, updates: int) -> tuple[tuple, dict[str, float]]:
    """What a robot has for the next iteration, and its metrics; nothing without one."""
    return ((), {}) if robot is None else robot.next(policy, updates)


def _log(folder: Path, experiment: Experiment, step: int) -> RunLog:
    try:
        return RunLog(folder, experiment.tensorboard, step)
    except ValueError as error:
        raise Refused(f"{error}; mend or move the file, or start a new run") from error


def _start(
    run: trainer.Trainer, keys: jax.Array, worlds: Worlds, checkpoints: Checkpointer, identity: str, iterations: int
):
    """The first state, or the newest saved one with its meta, and the iterations done."""
    if checkpoints.latest() is None:
        return run.init(keys, worlds.rows), {}, 0
    try:
        state, meta, done = checkpoints.restore(jax.eval_shape(run.init, keys, worlds.rows))
    except CheckpointError as error:
        raise Refused(f"{error}; resume with the fields in the run's config.json, or start anew") from error
    for sentence in checkpoints.skipped:
        print(f"skipped a damaged checkpoint: {sentence}")
    if meta["identity"] != identity:
        raise Refused(f"{checkpoints.directory} is of another run: config or data differ; start anew")
    if done > iterations:
        raise Refused(
            f"--updates {iterations * run.updates} is below the {done * run.updates} already done in"
            f" {checkpoints.directory.parent}; ask for at least as many"
        )
    return state, meta, done


def _pick(tree: Any, i: int | None) -> Any:
    return tree if i is None else jax.tree.map(lambda leaf: leaf[i], tree)


def _means(waiting: list[dict], i: int | None) -> dict[str, float]:
    """Means over the iterations since the last record, sums of what is counted: the one fetch of the interval."""
    fetched = jax.device_get(waiting)
    values = {name: [_pick(metrics[name], i) for metrics in fetched] for name in fetched[0]}
    counted = {f"/{name}" for name in Stats._fields}
    return {
        name: float(np.sum(each) if any(map(name.endswith, counted)) else np.mean(each))
        for name, each in values.items()
    }


def _judge(experiment: Experiment, worlds: Worlds, algorithm: Algorithm, many: bool) -> Callable:
    """(state, iteration) -> per seed, the mean returns in the real environment and in the simulator."""
    in_sim = evaluate.sim_returns(worlds.sim, algorithm.act, SIM_EPISODES)
    in_sim = jax.jit(jax.vmap(in_sim, in_axes=(0, None)) if many else in_sim)

    def judge(state: Any, iteration: int) -> list[dict[str, float]]:
        policies = algorithm.deployed(state.algorithm)
        sim = np.atleast_2d(jax.device_get(in_sim(policies, jax.random.key(iteration))))
        policies = jax.device_get(policies)
        scores = []
        for i, returns in enumerate(sim):
            policy = NumpyPolicy.from_params(_pick(policies, i if many else None))
            episodes = evaluate.real_episodes(
                worlds.real, policy, experiment.episodes, EVALUATION_SEED, worlds.spec.episode_length
            )
            scores.append(
                {
                    "real_return": float(np.mean([episode.total for episode in episodes])),
                    "real_length": float(np.mean([len(episode.rewards) for episode in episodes])),
                    "sim_return": float(np.mean(returns)),
                }
            )
        return scores

    return judge
