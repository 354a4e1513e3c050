"""A robot beside the training: its process, its journal and the feed of its rows, as a run's config says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from hybrid_jax.feed import Before, Caps, Feed, Recorded, Synchronous, Threaded
from hybrid_jax.real import segments
from hybrid_jax.real.episodes import Episode, Episodes
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.record import COUNTED
from hybrid_jax.real.schema import Schema
from hybrid_jax.real.settings import KINDS, Deadlines, Settings
from hybrid_jax.real.supervisor import Supervisor
from hybrid_jax.types import REAL, Algorithm, Spec


@dataclass(frozen=True)
class Live:
    """Whether and how a robot takes part in a run."""

    feed: Literal["none", "synchronous", "threaded"] = "none"  # whose clock counts: nobody's, the learner's, its own
    # What tests policies: the robot itself, or an instance in the learner's process, without gate and journal; auto:
    # the robot where one takes part, else an instance, which must not be one of a robot.
    judge: Literal["auto", "robot", "instance"] = "auto"
    recorded: Path | None = None  # a journal whose steps are learned from again, without the robot (synchronous)
    rate: float | Literal["max"] = "max"  # [Hz] control steps a second, or as fast as it goes; --real.rate is the same
    steps: int = 50  # real steps an iteration: exactly (synchronous), at most (threaded)
    capacity: int = 100_000  # rows of the real store beyond the log's
    policy_every: int = 1  # iterations between two copies of the policy to the robot
    max_reuse: float | None = None  # draws per real row over the whole run; None: no cap
    max_updates_without_real: int | None = None  # learning waits for a new row after so many; None: it never waits
    step_deadline: float | None = None  # [s] silence that counts as a hang; None: 10 periods >= 0.5, 5 without a rate
    reset_deadline: float = 120.0  # [s]
    connect_deadline: float = 60.0  # [s]
    hold_deadline: float = 5.0  # [s] for the environment's own `hold`
    reward_range: tuple[float, float] = (-1e6, 1e6)  # rewards outside are faults
    retries: int = 5  # attempts in a row before the robot is given up
    frozen_after: int = 25  # equal observations in a row that flag a frozen sensor; 0: never

    @property
    def by_robot(self) -> bool:
        """Whether the robot itself is the judge."""
        return self.judge == "robot" or (self.judge == "auto" and self.feed != "none")


class Place(NamedTuple):
    """Which robot it is, and where its journal and status lie."""

    live: Live
    factory: str  # module:factory
    episode_length: int  # control steps
    seed: int
    folder: Path
    real_draws: int | None = None  # real rows in an update; None: as many as the algorithm's counts say

    def settings(self) -> Settings:
        live = self.live
        return Settings(
            factory=self.factory,
            episode_length=self.episode_length,
            rate=0.0 if live.rate == "max" else live.rate,
            seed=self.seed,
            reward_range=live.reward_range,
            frozen_after=live.frozen_after,
            deadlines=Deadlines(
                connect=live.connect_deadline,
                reset=live.reset_deadline,
                step=live.step_deadline,
                hold=live.hold_deadline,
                close=live.hold_deadline + 5.0,
            ),
            retries=live.retries,
        )

    def supervisor(self, stop: Any) -> Supervisor:
        """One that tells what happens, with a robot that knows of a signal by itself."""
        tell = lambda text: print(f"robot: {text}", flush=True)  # noqa: E731
        return Supervisor(self.settings(), self.folder, tell, stop.fileno())

    def quiet(self) -> Supervisor:
        """One whose failures alone are told, by what it raises."""
        return Supervisor(self.settings(), self.folder)


class Robot:
    """The feed of a run and what its log tells of it."""

    def __init__(self, robot: Supervisor | Recorded, source: Synchronous | Threaded):
        self._robot, self._source = robot, source
        self._staleness = 0.0  # updates between the newest policy and that of the last row

    @property
    def watermark(self) -> int:
        """Records taken: all below this number are in the stores."""
        return self._source.feed.watermark

    def next(self, params: Any, updates: int) -> tuple[tuple, dict[str, float]]:
        """(rows, count) of the next iteration, and its metrics; params: the exploring policy, on the device."""
        chunk = self._source.next(lambda: jax.device_get(params), updates)
        if chunk.newest_policy >= 0:
            self._staleness = float(updates - chunk.newest_policy)
        metrics = {
            "robot/staleness": self._staleness,
            "robot/rows": float(chunk.count),
            "robot/lag": float(self._robot.watermark - self.watermark),
            **{f"robot/{name}": float(self._robot.counts[name]) for name in COUNTED if name != "rows"},
            "robot/faults": float(sum(self._robot.faults.values())),
            "robot/skipped": float(self._source.feed.skipped),
        }
        metrics |= {f"robot/fault/{kind.replace(' ', '_')}": float(self._robot.faults[kind]) for kind in KINDS}
        return (chunk.rows, chunk.count), metrics

    def check(self) -> None:
        """Raises RobotStopped where the robot will do nothing more without a person."""
        self._robot.wait(self._robot.watermark + 1, timeout=0.0)

    def episodes(self) -> list[Episode]:
        """The whole episodes among the rows that were taken since the last call."""
        finished, self._source.feed.finished = self._source.feed.finished, []
        return finished


@contextmanager
def robot(
    place: Place, spec: Spec, algorithm: Algorithm, policy: Any, before: Before, watermark: int, stop: Any
) -> Iterator[Robot]:
    """The robot of a run, connected; a signal holds it at once.

    policy: the one that explores now, on the device; watermark: records of the journal that the state holds already.
    Raises RobotStopped, JournalError, Halted.
    """
    live = place.live
    if live.recorded is not None:
        schema = segments.read_schema(segments.segments(live.recorded)[0])
        assert schema is not None  # checked before the run began
        past = Recorded(sum(1 for _ in segments.read(live.recorded)))
        feed = Feed(Follower(live.recorded, schema, watermark), spec, live.steps)
        yield Robot(past, Synchronous(past, feed, live.policy_every, before))
        return
    supervisor = place.supervisor(stop)
    with stop.at_once(supervisor.halt), supervisor:
        assert supervisor.schema is not None
        feed = Feed(Follower(supervisor.journal, supervisor.schema, watermark), spec, live.steps)
        supervisor.set_policy(jax.device_get(policy), before.updates)
        if live.feed == "synchronous":
            source: Synchronous | Threaded = Synchronous(supervisor, feed, live.policy_every, before)
        else:
            drawn = place.real_draws
            if drawn is None:
                drawn = int(np.sum(np.asarray(algorithm.mix(jax.random.key(0))) == REAL))
            caps = Caps(drawn, live.max_reuse, live.max_updates_without_real)
            source = Threaded(supervisor, feed, live.policy_every, caps, before)
            if live.rate != "max":
                supervisor.first()
            supervisor.run()
        yield Robot(supervisor, source)


def judged(place: Place, actor: Any, updates: int, episodes: int, stop: Any) -> list[Episode]:
    """Whole episodes of a policy on the robot itself, under gate and journal, without exploration.

    actor: numpy parameters. Raises RobotStopped, Halted.
    """
    supervisor = place.supervisor(stop)
    with stop.at_once(supervisor.halt), supervisor:
        assert supervisor.schema is not None
        before = supervisor.watermark
        supervisor.set_policy(actor, updates)
        after = supervisor.collect(episodes=episodes, greedy=True)
        records = Follower(supervisor.journal, supervisor.schema, before).take(after)
    whole = filter(None, map(Episodes().add, records))
    return [episode for episode in whole if episode.greedy][:episodes]


def probe(place: Place, look: Callable[[Schema], None]) -> None:
    """Connects the robot and shows what it declares, without moving it. Raises RobotStopped."""
    with place.quiet() as supervisor:
        assert supervisor.schema is not None
        look(supervisor.schema)
