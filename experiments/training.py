"""The host loop of one learner: compiled iterations, evaluations, log, checkpoints, until the budget is spent.

Seeds run in one program on an accelerator and one after the other on a CPU; a run is a list of seeds that
share a program, with one folder each.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import live
from experiments.experiment import Experiment, Refused, identity_of
from experiments.preflight import real_capacity
from experiments.stopping import Stop
from experiments.worlds import Worlds
from hybrid_jax import evaluate, guards, trainer
from hybrid_jax.checkpoint import Checkpointer, CheckpointError, SaveFailed
from hybrid_jax.export import NumpyPolicy
from hybrid_jax.metrics import RunLog
from hybrid_jax.progress import Progress
from hybrid_jax.real.settings import Halted, RobotStopped
from hybrid_jax.rollout import Stats
from hybrid_jax.types import Algorithm

EVALUATION_SEED = 1_000  # real episodes during training start from these seeds on ...
TEST_SEED = 1_000_000  # ... and the test, once at the end, from these
SIM_EPISODES = 8
_COUNTED = (*(f"/{name}" for name in Stats._fields), "guard/skipped")  # metrics that are summed up, not averaged


class Interrupted(Exception):
    """The user asked to stop; the state is saved."""


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
    stop: Stop,
) -> list[Outcome]:
    """Trains one run per seed to the end of the budget; continues from the newest checkpoint in its folder.

    Raises, each after a checkpoint: Interrupted when a signal came, RobotStopped where a robot cannot go on,
    BadUpdates where too many updates in a row were not finite.
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
        owned.enter_context(stop.polled())
        state, meta, done = _start(run, keys, worlds, checkpoints, identity, iterations)
        logs = [owned.enter_context(_log(f, experiment, done * made.updates)) for f in folders]
        progress = owned.enter_context(Progress(label, iterations * made.updates))
        real_steps = meta.get("real_steps", logged)
        since = live.Since(logged, meta.get("watermark", 0), algorithm.policy(state.algorithm), done * made.updates)
        place = robot_of(experiment, worlds.spec, folders[0], seeds[0])
        robot = owned.enter_context(_connected(place, worlds.spec, algorithm, since, stop))
        alarms = [guards.QAlarm(experiment.algorithm.discount) for _ in seeds]
        progress.update(done * made.updates, done * made.sim_steps)

        def about() -> dict[str, Any]:
            taken = {} if robot is None else {"watermark": robot.watermark, "real_steps": real_steps}
            return {"identity": identity, "seeds": seeds} | taken

        def save() -> None:
            try:
                checkpoints.save(done, state, about())
            except SaveFailed as failed:  # a full disk shall not end a run that can still be saved later
                print(f"warning: {failed}")

        waiting = []
        while done < iterations:
            if stop.wanted:
                save()
                raise Interrupted
            try:
                fed, told = _fed(robot, algorithm.policy(state.algorithm), done * made.updates)
            except RobotStopped:
                save()
                raise
            except Halted:  # a signal came while the robot was waited for
                continue
            state, metrics = run.step(state, *fed)
            waiting.append(metrics | told)
            done += 1
            real_steps += int(fed[1]) if fed else 0
            updates, last, scores, returns = done * made.updates, done == iterations, [], {}
            if done % per_evaluation == 0 or last:
                scores = [score | {"real_steps": real_steps} for score in judge(state, done, robot)]
                for i, (log, score) in enumerate(zip(logs, scores, strict=True)):
                    means = _means(waiting, i if many else None)
                    log.write(updates, means | score)
                    _tell(alarms[i].look(means, updates))
                waiting = []
                returns = {
                    name: float(np.mean([score[name] for score in scores])) for name in ("real_return", "sim_return")
                }
                returns = {name: value for name, value in returns.items() if math.isfinite(value)}
            try:
                _check_updates(metrics, experiment.max_bad_updates, updates)  # keeps the queue short, too
            except guards.BadUpdates:
                save()
                raise
            if last or (scores and (done // per_evaluation) % experiment.checkpoint_every == 0):
                save()
            progress.update(updates, done * made.sim_steps, real_steps - logged, **returns)
    policies = jax.device_get(algorithm.deployed(state.algorithm))
    return [
        Outcome(_pick(policies, i if many else None), done * made.updates, done * made.sim_steps, real_steps)
        for i in range(len(seeds))
    ]


def robot_of(experiment: Experiment, spec: Any, folder: Path, seed: int) -> live.Place:
    """The robot that takes part in a run, with its journal in the run's folder."""
    return live.Place(experiment.live, experiment.real, spec.episode_length, seed, folder / "robot")


@contextmanager
def _connected(place: live.Place, spec: Any, algorithm: Algorithm, since: live.Since, stop: Stop):
    """As live.robot; a signal that comes while the robot connects ends the run: there is nothing new to save."""
    with ExitStack() as owned:
        try:
            robot = owned.enter_context(live.robot(place, spec, algorithm, since, stop))
        except Halted:
            raise Interrupted from None
        yield robot


def _tell(sentence: str | None) -> None:
    if sentence is not None:
        print(f"warning: {sentence}")


def _check_updates(metrics: dict[str, Any], limit: int, updates: int) -> None:
    """Waits for an iteration. Raises BadUpdates where one of its seeds has had too many bad updates in a row."""
    own = jax.device_get(
        {name: value for name, value in metrics.items() if guards.SHARED not in name or "guard" in name}
    )
    for i in range(np.size(own["guard/in_a_row"])):
        guards.check({name: np.ravel(value)[i] for name, value in own.items()}, limit, updates)


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
    """Means over the iterations since the last record, sums of what is counted: the one fetch of the interval.

    An iteration without a good update has no losses (NaN) and does not count for them.
    """
    fetched = jax.device_get(waiting)
    told = [name for name in fetched[0] if name != "guard/culprit"]  # an index: no mean of it says anything
    return {name: _aggregate(name, [_pick(metrics[name], i) for metrics in fetched]) for name in told}


def _aggregate(name: str, values: list[Any]) -> float:
    """A metric of several iterations as one number; NaN where there is none."""
    seen = [float(value) for value in values if not math.isnan(value)]
    if name.endswith(("_max", "guard/in_a_row")):
        return max(seen, default=math.nan)
    return float(np.sum(seen)) if name.endswith(_COUNTED) else _mean(seen)


def _judge(experiment: Experiment, worlds: Worlds, algorithm: Algorithm, many: bool) -> Callable:
    """(state, iteration, robot) -> per seed, the mean returns in the real environment and in the simulator.

    Where the robot is its own judge, its exploring episodes since the last time count; NaN where none ended.
    """
    in_sim = evaluate.sim_returns(worlds.sim, algorithm.act, SIM_EPISODES)
    in_sim = jax.jit(jax.vmap(in_sim, in_axes=(0, None)) if many else in_sim)

    def judge(state: Any, iteration: int, robot: live.Robot | None) -> list[dict[str, float]]:
        policies = algorithm.deployed(state.algorithm)
        sim = np.atleast_2d(jax.device_get(in_sim(policies, jax.random.key(iteration))))
        policies = jax.device_get(policies)
        scores = []
        for i, returns in enumerate(sim):
            lived = [] if robot is None else robot.episodes()
            episodes = lived
            if worlds.real is not None:
                policy = NumpyPolicy.from_params(_pick(policies, i if many else None))
                episodes = evaluate.real_episodes(
                    worlds.real, policy, experiment.episodes, EVALUATION_SEED, worlds.spec.episode_length
                )
            seen = {
                "real_return": _mean([episode.total for episode in episodes]),
                "real_length": _mean([len(episode.rewards) for episode in episodes]),
                "real_falls": float(sum(episode.terminated for episode in episodes)),
                "sim_return": float(np.mean(returns)),
            }
            if robot is not None:
                seen |= {"robot/episodes": len(lived), "robot/return": _mean([episode.total for episode in lived])}
            scores.append(seen)
        return scores

    return judge


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else math.nan
