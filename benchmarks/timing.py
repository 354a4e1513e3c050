"""How every benchmark measures and prints: warm, blocked until ready, medians, compile time apart."""

import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from hybrid_jax.provenance import git_state

ROOT = Path(__file__).resolve().parent.parent


def interleaved(functions: dict[str, Callable[[], Any]], repeats: int = 7) -> dict[str, float]:
    """Median seconds of several calls taken in turn, so that a noisy machine disturbs all alike."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def report(rows: list[tuple[str, str]], figures: dict[str, float]) -> None:
    """Prints the table (what, how much) and, last, one line of JSON with device, versions and commit."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    origin = {
        "device": f"{jax.devices()[0].device_kind} ({jax.default_backend()})",
        "versions": {name: version(name) for name in ("jax", "mujoco", "numpy")},
        "commit": git_state(ROOT)["commit"],
    }
    print(json.dumps(origin | {name: round(value, 4) for name, value in figures.items()}))
