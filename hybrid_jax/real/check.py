"""A real environment through the whole contract before anything is trained: zero actions, then random ones."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_jax.real import segments
from hybrid_jax.real.record import Fault, Flag, Transition
from hybrid_jax.real.schema import Schema
from hybrid_jax.real.settings import Settings
from hybrid_jax.real.supervisor import Supervisor

STILL, LIVELY = -20.0, 0.0  # log std of the two policies that are tried


def exercise(settings: Settings, folder: Path, steps: int, say: Any) -> Schema:
    """`steps` steps with zero actions, as many with random ones, under the gate and into a journal.

    Raises RobotStopped with its reason, ValueError for less than 2 steps.
    """
    if steps < 2:
        raise ValueError(f"{steps} steps show nothing; give at least 2")
    with Supervisor(replace(settings, frozen_after=0), folder, say) as robot:
        assert robot.schema is not None
        for version, log_std in enumerate((STILL, LIVELY)):
            robot.set_policy(_around_zero(robot.schema, log_std), version)
            robot.collect(steps)
        return robot.schema


def _around_zero(schema: Schema, log_std: float) -> dict[str, Any]:
    """An actor whose action is tanh(exp(log_std) * noise), whatever it sees."""
    width = 2 * schema.action_size
    layer = {"kernel": np.zeros((schema.obs_size, width), np.float32), "bias": np.zeros(width, np.float32)}
    return {"Dense_0": layer, "log_std_multiplier": np.float32(0), "log_std_offset": np.float32(log_std)}


def report(journal: Path, rate: float) -> Iterator[str]:
    """What the journal of an exercise tells, in lines; those that begin with `!` ask for attention."""
    found = list(segments.read(journal))
    steps = [record for record in found if isinstance(record, Transition)]
    faults = [record for record in found if isinstance(record, Fault)]
    if not steps:
        yield "! no step came through"
    else:
        yield f"  {len(steps)} steps in {len({step.episode for step in steps})} episodes"
        yield from _timing(steps, rate)
        yield from _ranges(steps)
    for fault in faults:
        yield f"! episode {fault.episode}, step {fault.step}: {fault.text}"


def _timing(steps: list[Transition], rate: float) -> Iterator[str]:
    pairs = [(a, b) for a, b in itertools.pairwise(steps) if a.episode == b.episode]
    if not pairs:
        yield "! every episode ends after one step"
        return
    periods = np.array([b.monotonic - a.monotonic for a, b in pairs])
    late = sum(bool(step.flags & Flag.LATE) for step in steps)
    yield f"  {1 / np.median(periods):,.1f} steps a second (median), longest period {1e3 * periods.max():.1f} ms"
    if rate:
        jitter = np.abs(periods - 1 / rate)
        mark = "!" if late else " "
        yield f"{mark} asked for {rate:g} Hz: jitter {1e3 * np.quantile(jitter, 0.99):.2f} ms (p99), {late} late steps"


def _ranges(steps: list[Transition]) -> Iterator[str]:
    obs = np.stack([step.next_obs for step in steps])
    for i, column in enumerate(obs.T):
        still = column.min() == column.max()
        yield f"{'!' if still else ' '} observation {i}: {column.min():.4g} to {column.max():.4g}" + (
            ", never changes" if still else ""
        )
    rewards = np.array([step.reward for step in steps])
    yield f"  reward: {rewards.min():.4g} to {rewards.max():.4g}"
    limited = sum(bool(step.flags & Flag.LIMITED) for step in steps)
    yield f"  the gate changed {limited} of {len(steps)} actions"
