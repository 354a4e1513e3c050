"""What the push study says to each sign that theory predicts: two kinds of runs against each other, seed by seed."""

import math
from typing import NamedTuple

import numpy as np

from experiments.push_runs import Cell, Point
from hybrid_jax.statistics import bootstrap_ci

LAST = 5  # evaluations that the final success is the mean of

Kind = tuple[str, float, float]  # strategy or schedule, q, beta
Runs = dict[Cell, list[Point]]


class Sign(NamedTuple):
    """A claim, the two kinds of runs that it is about, and whether it is one of real episodes or of the end."""

    claim: str
    one: Kind
    other: Kind
    sooner: bool = True  # the first kind comes to 50 % in fewer real episodes; False: it ends with more successes


REAL_ALONE, SIM_ALONE = ("mixed", 1.0, 1.0), ("mixed", 0.0, 0.0)
RATES = (0.05, 0.1, 0.3)
SIGNS = (
    *(Sign(f"beta above q = {q:g} saves real episodes", ("mixed", q, 0.5), ("mixed", q, q)) for q in RATES),
    *(Sign(f"and more of it more, q = {q:g}", ("mixed", q, 0.9), ("mixed", q, 0.5)) for q in RATES),
    Sign("a simulator beside it saves real episodes", ("mixed", 0.1, 0.5), REAL_ALONE),
    Sign("the simulator alone stays below reality", REAL_ALONE, SIM_ALONE, sooner=False),
    Sign("and below the mix", ("mixed", 0.1, 0.5), SIM_ALONE, sooner=False),
    *(Sign(f"first the simulator alone saves real episodes, beta = {beta:g}", (name, 0.1, beta), ("mixed", 0.1, beta))
      for beta in (0.1, 0.5) for name in ("sim_dependent", "sim_first")),
    *(Sign(f"beta = 0.9 ends better if reached slowly, q = {q:g}", ("rising", q, 0.9), ("mixed", q, 0.9), sooner=False)
      for q in RATES[1:]),
    *(Sign(f"and under a bound on reuse, q = {q:g}", ("capped", q, 0.9), ("mixed", q, 0.9), sooner=False)
      for q in RATES[1:]),
    *(Sign(f"so does that beat the fixed 0.5, q = {q:g}", ("rising", q, 0.9), ("mixed", q, 0.5), sooner=False)
      for q in RATES[1:]),
)  # fmt: skip


def episodes_to(points: list[Point], level: float) -> float:
    """Real episodes at the first of two evaluations in a row with such a success in reality; infinite without them."""
    shown = [point.real_success >= level for point in points]
    first = next((i for i, now in enumerate(shown[:-1]) if now and shown[i + 1]), None)
    return math.inf if first is None else float(points[first].real_episodes)


def final(points: list[Point]) -> float:
    """Success in reality, the mean of the last evaluations."""
    return float(np.mean([point.real_success for point in points[-LAST:]]))


def lines(runs: Runs) -> list[str]:
    """A table of the signs whose runs are there."""
    rows = [row for sign in SIGNS if (row := _row(sign, runs)) is not None]
    return [
        "### Sign by sign",
        "",
        "Two kinds of runs of the same seeds. Sooner: the share of seeds where the first comes to 50 % in fewer real",
        "episodes (a half where they draw). Difference: final success in reality, the first less the second, with its",
        "95 % bootstrap interval; five seeds make that too narrow (on normal data it holds the mean in 84 % of cases).",
        "A claim of real episodes holds where every seed says so, one of the end where its interval is above 0.",
        "",
        "| claim | the first | the second | sooner | difference at the end | seeds | it |",
        "|---|---|---|--:|--:|--:|---|",
        *rows,
        "",
    ] if rows else []  # fmt: skip


def _row(sign: Sign, runs: Runs) -> str | None:
    pairs = [
        (one, runs[other])
        for cell, one in runs.items()
        if (cell.strategy, cell.q, cell.beta) == sign.one and (other := Cell(*_cell(sign.other), cell.seed)) in runs
    ]
    if not pairs:
        return None
    difference = [final(one) - final(other) for one, other in pairs]
    low, high = bootstrap_ci(difference)
    sooner = float(np.mean([_sooner(episodes_to(one, 0.5), episodes_to(other, 0.5)) for one, other in pairs]))
    holds, fails = (sooner == 1, sooner == 0) if sign.sooner else (low > 0, high < 0)
    says = "holds" if holds else "is the other way round" if fails else "is open"
    return (
        f"| {sign.claim} | {_words(sign.one)} | {_words(sign.other)} | {sooner:.0%} | {np.mean(difference):+.2f}<br>"
        f"{low:+.2f} to {high:+.2f} | {len(pairs)} | {says} |"
    )


def _cell(kind: Kind) -> tuple[float, float, str]:
    strategy, q, beta = kind
    return q, beta, strategy


def _sooner(one: float, other: float) -> float:
    return 0.5 if one == other else float(one < other)


def _words(kind: Kind) -> str:
    strategy, q, beta = kind
    return {SIM_ALONE: "simulator alone", REAL_ALONE: "reality alone"}.get(kind, f"{strategy}, q {q:g}, beta {beta:g}")
