"""What a run leaves in figures: the summary file and the table that compares the policies."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hybrid_jax.metrics import write_atomically
from hybrid_jax.plots import words


class Row(NamedTuple):
    """One policy in the table at the end of a run."""

    policy: str
    real_return: float  # mean over the episodes
    real_ci95: tuple[float, float] | None = None
    falls: int | None = None  # episodes that terminated
    episodes: int | None = None
    sim_return: float | None = None
    successes: int | None = None  # episodes that ended at their goal; None for tasks without one


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Writes the summary as JSON with sorted keys; a number that is not finite becomes null."""
    text = json.dumps(_plain("summary", summary), indent=2, sort_keys=True, allow_nan=False)
    write_atomically(path, text + "\n")


def summary_table(rows: Sequence[Row]) -> Any:
    """The comparison that closes a run, as a rich table: a policy per row, the best real return in bold."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("policy")
    goals = any(row.successes is not None for row in rows)  # a task with goals has no falls
    for heading in ("real return", "95 % interval", "successes" if goals else "falls", "sim return"):
        table.add_column(heading, justify="right")
    best = max((row.real_return for row in rows if math.isfinite(row.real_return)), default=None)
    for row in rows:
        count = row.successes if goals else row.falls
        table.add_row(
            words(row.policy),
            _number(row.real_return),
            "-" if row.real_ci95 is None else f"{_number(row.real_ci95[0])} to {_number(row.real_ci95[1])}",
            "-" if count is None else str(count) + (f" of {row.episodes}" if row.episodes else ""),
            _number(row.sim_return),
            style="bold" if row.real_return == best else None,
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _plain(name: str, value: Any) -> Any:
    """JSON's own types; raises TypeError with the name of a value that has no such form."""
    if isinstance(value, dict):
        return {str(key): _plain(f"{name}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{name}[{i}]", inner) for i, inner in enumerate(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, and jax's
        return _plain(name, value.tolist())
    raise TypeError(f"{name} is a {type(value).__name__}, which has no JSON form.")
