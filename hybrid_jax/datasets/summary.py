"""A data set in a few lines for a person: what is wrong with it, or what it holds."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from hybrid_jax.datasets import scores
from hybrid_jax.datasets.faults import DatasetError, Fault
from hybrid_jax.datasets.hdf5 import Dataset
from hybrid_jax.datasets.load import load
from hybrid_jax.types import Spec

SATURATED = 0.99  # of the action bounds


def lines(path: Path, spec: Spec | None = None) -> tuple[bool, list[str]]:
    """Whether a file is good, and the report: all faults and warnings of a bad one, what a good one holds."""
    try:
        data = load(path, spec)
    except DatasetError as error:
        title = f"{path}: bad, {len(error.faults)} fault{'s' if len(error.faults) > 1 else ''}"
        return False, [title, *_table({"fault": error.faults, "warning": error.warnings})]
    return True, [f"{path}: good", *(f"warning     {note}" for note in data.notes), *holdings(data, spec)]


def holdings(data: Dataset, spec: Spec | None = None) -> Iterable[str]:
    """How much there is, what it earned and how hard it was driven."""
    ends = np.flatnonzero(data.terminals | data.timeouts)
    lengths, returns = np.diff(ends, prepend=-1), scores.episode_returns(data, spec and spec.episode_length)
    rows, left, cut = len(data.rewards), len(data.rewards) - int(lengths.sum()), len(ends) - len(returns)
    widths = f"{data.observations.shape[1]} observations, {data.actions.shape[1]} actions"
    yield f"rows        {rows:,} of {widths}"
    ways = f"{int(data.terminals.sum()):,} ended by the task, {int(data.timeouts.sum()) - cut:,} by the clock"
    ways += f", {cut:,} cut before it" if cut else ""
    yield f"episodes    {len(ends):,}: {ways}" + (f"; {left:,} rows of one that is open" if left else "")
    if len(ends):
        yield f"lengths     {lengths.mean():,.1f} mean, {lengths.min():,} to {lengths.max():,}"
    if len(returns):
        whole = f", of the {len(returns):,} whole episodes" if cut else ""
        yield f"return      {returns.mean():,.1f} mean, {returns.min():,.1f} to {returns.max():,.1f}{whole}"
    elif cut:
        yield "return      none, for no episode is whole"
    share = 100 * np.mean(np.abs(data.actions) >= SATURATED, axis=0)
    each = ", ".join(f"{part:.1f}" for part in share)
    yield f"saturated   {share.mean():.1f} % of the actions at {SATURATED:g} of a bound or beyond; by action: {each}"


def _table(found: Mapping[str, Sequence[Fault]]) -> Iterable[str]:
    """A line for each fault: its kind, key, first bad row, how many, what."""
    wide = max(len(fault.key) for faults in found.values() for fault in faults)
    yield f"{'':12}{'key':{wide}}  {'first row':>9}  {'how many':>10}"
    for kind, faults in found.items():
        for fault in faults:
            row = "" if fault.row is None else f"{fault.row:,}"
            yield f"{kind:12}{fault.key:{wide}}  {row:>9}  {fault.count:>10,}  {fault.sentence}"
