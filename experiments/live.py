"""A robot beside the training: its process, its journal and the feed of its rows, as a run's config says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from hybrid_jax.feed import Caps, Feed, Recorded, Synchronous, Threaded
from hybrid_jax.real import segments
from hybrid_jax.real.follow import Follower
from hybrid_jax.real.settings import Deadlines, Settings
from hybrid_jax.real.supervisor import Supervisor
from hybrid_jax.types import REAL, Algorithm, Spec


@dataclass(frozen=True)
class Live:
    """Whether and how a robot takes part in a run."""

    feed: Literal["none", "synchronous", "threaded"] = "none"  # whose clock counts: nobody's, the learner's, its own
    recorded: Path | None = None  # a journal whose steps are learned from again, without the robot (synchronous)
    rate: float = 0.0  # [Hz] control steps a second; 0: as fast as it goes
    steps: int = 50  # real steps an iteration: exactly (synchronous), at most (threaded)
    capacity: int = 100_000  # rows of the real store beyond the log's
    policy_every: int = 1  # iterations between two copies of the policy to the robot
    max_reuse: float | None = None  # draws per real row over the whole run; None: no cap
    max_updates_without_real: int | None = None  # learning waits for a new row after so many; None: it never waits
    step_deadline: float | None = None  # [s] silence that counts as a hang; None: ten periods, 5 s without a rate
    reset_deadline: float = 120.0  # [s]
    retries: int = 5  # attempts in a row before the robot is given up
    frozen_after: int = 25  # equal observations in a row that flag a frozen sensor; 0: never


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
            "robot/late": float(self._robot.late),
            "robot/faults": float(sum(self._robot.faults.values())),
            "robot/skipped": float(self._source.feed.skipped),
        }
        return (chunk.rows, chunk.count), metrics


@contextmanager
def robot(
    live: Live,
    factory: str,
    spec: Spec,
    algorithm: Algorithm,
    logged: int,
    folder: Path,
    seed: int,
    watermark: int,
    policy: Any,
    updates: int,
    say,
) -> Iterator[Robot | None]:
    """The robot of a run, connected, or None where the run has none. Raises RobotStopped.

    factory: module:function; logged: rows of the log; folder: for its journal and status; watermark: records that
    the restored state holds already; policy: the one that explores now, after `updates` updates.
    """
    if live.feed == "none":
        yield None
        return
    if live.recorded is not None:
        schema = segments.read_schema(segments.segments(live.recorded)[0])
        assert schema is not None  # checked before the run began
        past = Recorded(sum(1 for _ in segments.read(live.recorded)))
        feed = Feed(Follower(live.recorded, schema, watermark), spec, live.steps)
        yield Robot(past, Synchronous(past, feed, live.policy_every))
        return
    settings = Settings(
        factory=factory,
        episode_length=spec.episode_length,
        rate=live.rate,
        seed=seed,
        frozen_after=live.frozen_after,
        deadlines=Deadlines(reset=live.reset_deadline, step=live.step_deadline),
        retries=live.retries,
    )
    with Supervisor(settings, folder, say) as supervisor:
        assert supervisor.schema is not None
        feed = Feed(Follower(supervisor.journal, supervisor.schema, watermark), spec, live.steps)
        if live.feed == "synchronous":
            source: Synchronous | Threaded = Synchronous(supervisor, feed, live.policy_every)
        else:
            drawn = int(np.sum(np.asarray(algorithm.mix(jax.random.key(0))) == REAL))
            caps = Caps(drawn, logged, live.max_reuse, live.max_updates_without_real)
            source = Threaded(supervisor, feed, live.policy_every, caps)
            supervisor.set_policy(jax.device_get(policy), updates)
            supervisor.run()
            while logged + watermark == 0 and supervisor.watermark < live.steps:
                supervisor.wait(live.steps, timeout=1.0)  # nothing can be drawn from an empty store
        yield Robot(supervisor, source)
