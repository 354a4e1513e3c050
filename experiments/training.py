"""The host loop of one learner: compiled iterations, evaluations, log, checkpoints, until the budget is spent.

Seeds run in one program on an accelerator and one after the other on a CPU; a run is a list of seeds that
share a program, with one folder each.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import live, preflight, rates
from experiments.experiment import Experiment, Refused, identity_of
from experiments.judging import judge_of, means, pick
from experiments.preflight import real_rows
from experiments.stopping import Stop
from experiments.worlds import Worlds
from hybrid_jax import guards, trainer
from hybrid_jax.checkpoint import Checkpointer, CheckpointError, SaveFailed
from hybrid_jax.feed import Before
from hybrid_jax.metrics import RunLog
from hybrid_jax.progress import Progress
from hybrid_jax.real.segments import JournalError
from hybrid_jax.real.settings import Halted, RobotStopped
from hybrid_jax.types import REAL, Algorithm, Transition


class Interrupted(Exception):
    """The user asked to stop; the state is saved."""


class Outcome(NamedTuple):
    """What one seed of a run learned."""

    actor: Any  # numpy parameters of the kept policy
    updates: int
    sim_steps: int
    real_steps: int


class Program(NamedTuple):
    """What a learner compiles to; runs that share it, seeds after each other, compile once."""

    run: trainer.Trainer
    judge: Callable


def program(experiment: Experiment, worlds: Worlds, algorithm: Algorithm, many: bool) -> Program:
    """many: several seeds in one program."""
    made = preflight.made(experiment, worlds, algorithm)
    run = trainer.over_seeds(made) if many else trainer.jitted(made)
    return Program(run, judge_of(experiment, worlds, algorithm, many))


@dataclass
class _Course:
    """One training under way."""

    experiment: Experiment
    identity: str  # of the run, from the config and the log's bytes, which are read once
    algorithm: Algorithm
    run: trainer.Trainer
    seeds: list[int]
    checkpoints: Checkpointer
    logs: list[RunLog]
    alarms: list[guards.QAlarm]
    state: Any
    done: int  # iterations
    real_steps: int  # real rows learned from: the log's and the robot's
    steps_a_row: int = 1  # control steps in a row of the stores: of a whole episode where those are the rows
    robot: live.Robot | None = None
    waiting: list[dict] = field(default_factory=list)  # metrics since the last record

    @property
    def updates(self) -> int:
        return self.done * self.run.updates

    @property
    def sim_steps(self) -> int:
        """Control steps spent in simulators; by the stores where rates share them out, of the first seed."""
        return self.done * self.run.sim_steps if self.by_counts else int(self._added()[1:].sum())

    @property
    def learned_from(self) -> int:
        """Real control steps learned from: the log's, the robot's, and those of a reality that is pretended."""
        return self.real_steps if self.by_counts else int(self._added()[REAL])

    @property
    def by_counts(self) -> bool:
        return self.experiment.algorithm.mixing == "counts"

    def _added(self) -> np.ndarray:
        """Control steps that each store has taken in [K]."""
        added = np.asarray(jax.device_get(self.state.buffers.added), np.int64)
        return (added[0] if len(self.seeds) > 1 else added) * self.steps_a_row

    def save(self) -> None:
        taken = {} if self.robot is None else {"watermark": self.robot.watermark, "real_steps": self.real_steps}
        meta = {"identity": self.identity, "seeds": self.seeds} | taken
        try:
            self.checkpoints.save(self.done, self.state, meta)
        except SaveFailed as failed:  # a full disk shall not end a run that can still be saved later
            print(f"warning: {failed}")

    def iterate(self) -> None:
        """One compiled iteration, with what the robot has for it.

        Raises RobotStopped, JournalError, Halted, BadUpdates.
        """
        fed, told = (), {}
        if self.robot is not None:
            fed, told = self.robot.next(self.algorithm.policy(self.state.algorithm), self.updates)
        self.state, metrics = self.run.step(self.state, *fed)
        self.waiting.append(metrics | told)
        self.done += 1
        self.real_steps += int(fed[1]) if fed else 0
        _check_updates(metrics, self.experiment.max_bad_updates, self.updates)  # keeps the queue short, too

    def record(self, scores: list[dict[str, float]]) -> dict[str, float]:
        """Writes an evaluation, per seed, to the logs; returns the mean returns that are known."""
        for i, (log, alarm, score) in enumerate(zip(self.logs, self.alarms, scores, strict=True)):
            interval = means(self.waiting, i if len(self.seeds) > 1 else None)
            try:
                log.write(self.updates, interval | score | {"real_steps": self.learned_from})
            except OSError as error:
                print(f"warning: the record of update {self.updates} could not be written ({error})")
            warning = alarm.look(interval, self.updates)
            if warning is not None:
                print(f"warning: {warning}")
        self.waiting = []
        known = {name: float(np.mean([score[name] for score in scores])) for name in ("real_return", "sim_return")}
        return {name: value for name, value in known.items() if math.isfinite(value)}


def train(
    experiment: Experiment,
    worlds: Worlds,
    algorithm: Algorithm,
    seeds: list[int],
    folders: list[Path],
    label: str,
    stop: Stop,
    compiled: Program | None = None,
) -> list[Outcome]:
    """Trains one run per seed to the end of the budget; continues from the newest checkpoint in its folder.

    compiled: the program of an earlier run on the same worlds that differed in its seeds alone.

    Raises, each after a checkpoint: Interrupted when a signal came, RobotStopped or JournalError where learning has
    to wait for a robot that cannot go on, or at the end where that robot is the judge, BadUpdates where too many
    updates in a row were not finite.
    """
    logged = 0 if worlds.rows is None else len(worlds.rows.reward)
    many = len(seeds) > 1
    run, judge = compiled or program(experiment, worlds, algorithm, many)
    keys = jax.random.key(seeds[0]) if not many else jax.numpy.stack([jax.random.key(s) for s in seeds])
    iterations = -(-experiment.updates // run.updates)
    per_evaluation = max(1, experiment.evaluate_every // run.updates)

    with ExitStack() as owned:
        checkpoints = owned.enter_context(Checkpointer(folders[0] / "checkpoints"))
        owned.enter_context(stop.polled())
        identity = identity_of(experiment)
        rows = real_rows(algorithm, worlds)
        state, meta, done = _start(run, keys, rows, checkpoints, identity, iterations)
        logs = [owned.enter_context(_log(f, experiment, done * run.updates)) for f in folders]
        alarms = [guards.QAlarm(experiment.algorithm.discount) for _ in seeds]
        real_steps = meta.get("real_steps", logged)
        course = _Course(
            experiment, identity, algorithm, run, seeds, checkpoints, logs, alarms, state, done, real_steps
        )
        course.steps_a_row = worlds.spec.episode_length if algorithm.episodes else 1
        progress = owned.enter_context(Progress(label, iterations * run.updates))
        if experiment.live.feed != "none" and done < iterations:
            place = robot_of(experiment, worlds.spec, folders[0], seeds[0])
            course.robot = _connected(owned, place, worlds.spec, course, meta.get("watermark", 0), stop)
        progress.update(course.updates, course.sim_steps)
        while course.done < iterations:
            try:
                if stop.wanted:
                    raise Halted
                course.iterate()
            except (Halted, RobotStopped, JournalError, guards.BadUpdates) as end:
                course.save()
                raise Interrupted if isinstance(end, Halted) else end  # noqa: B904 (nothing went wrong)
            returns, last = {}, course.done == iterations
            if course.done % per_evaluation == 0 or last:
                returns = course.record(judge(course.state, course.done, course.robot))
                if last or (course.done // per_evaluation) % experiment.checkpoint_every == 0:
                    course.save()
            progress.update(course.updates, course.sim_steps, course.learned_from - logged, **returns)
        if stop.wanted:
            raise Interrupted
        if course.robot is not None and experiment.live.by_robot:
            course.robot.check()  # learning went on without it, but no test may move it before a person has looked
    policies = jax.device_get(algorithm.deployed(course.state.algorithm))
    return [
        Outcome(pick(policies, i if many else None), course.updates, course.sim_steps, course.learned_from)
        for i in range(len(seeds))
    ]


def robot_of(experiment: Experiment, spec: Any, folder: Path, seed: int) -> live.Place:
    """The robot that takes part in a run, with its journal in the run's folder."""
    drawn = rates.real_rows_drawn(experiment)
    return live.Place(experiment.live, experiment.real, spec.episode_length, seed, folder / "robot", drawn)


def _connected(
    owned: ExitStack, place: live.Place, spec: Any, course: _Course, watermark: int, stop: Stop
) -> live.Robot:
    """As live.robot; a signal that comes while the robot connects ends the run: there is nothing new to save."""
    before = Before(course.real_steps, course.done, course.updates)
    policy = course.algorithm.policy(course.state.algorithm)
    try:
        return owned.enter_context(live.robot(place, spec, course.algorithm, policy, before, watermark, stop))
    except Halted:
        raise Interrupted from None


def _check_updates(metrics: dict[str, Any], limit: int, updates: int) -> None:
    """Waits for an iteration. Raises BadUpdates where one of its seeds has had too many bad updates in a row."""
    own = jax.device_get(
        {name: value for name, value in metrics.items() if guards.SHARED not in name or "guard" in name}
    )
    for i in range(np.size(own["guard/in_a_row"])):
        guards.check({name: np.ravel(value)[i] for name, value in own.items()}, limit, updates)


def _log(folder: Path, experiment: Experiment, step: int) -> RunLog:
    try:
        return RunLog(folder, experiment.tensorboard, step)
    except ValueError as error:
        raise Refused(f"{error}; mend or move the file, or start a new run") from error


def _start(
    run: trainer.Trainer,
    keys: jax.Array,
    rows: Transition | None,
    checkpoints: Checkpointer,
    identity: str,
    iterations: int,
):
    """The first state, or the newest saved one with its meta, and the iterations done."""
    if checkpoints.latest() is None:
        return run.init(keys, rows), {}, 0
    try:
        state, meta, done = checkpoints.restore(jax.eval_shape(run.init, keys, rows))
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
