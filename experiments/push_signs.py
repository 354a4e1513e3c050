"""What the push study says to each sign that theory predicts: two kinds of runs against each other, seed by seed."""

import math
from typing import NamedTuple

import numpy as np

from experiments.push_runs import Cell, Point
from hybrid_jax.statistics import bootstrap_ci

LAST = 5  # evaluations that the final success is the mean of
HALF = 0.5  # the success whose real episodes are compared
ENOUGH = 5  # seeds for a verdict

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
    *(Sign(f"beta = 0.5 instead of q = {q:g} saves real episodes", ("mixed", q, 0.5), ("mixed", q, q)) for q in RATES),
    *(Sign(f"it ends better than beta = q = {q:g}", ("mixed", q, 0.5), ("mixed", q, q), sooner=False) for q in RATES),
    *(Sign(f"beta = 0.9 ends better than 0.5, q = {q:g}", ("mixed", q, 0.9), ("mixed", q, 0.5), sooner=False)
      for q in RATES),
    Sign("a simulator beside reality saves real episodes", ("mixed", 0.1, 0.1), REAL_ALONE),
    Sign("reality alone ends above the simulator alone", REAL_ALONE, SIM_ALONE, sooner=False),
    Sign("so does the mix with q = 0.3, beta = 0.5", ("mixed", 0.3, 0.5), SIM_ALONE, sooner=False),
    *(Sign(f"reality not before the simulator is learned saves real episodes, q = 0.1, beta = {beta:g}",
           ("sim_dependent", 0.1, beta), ("mixed", 0.1, beta)) for beta in (0.1, 0.5)),
    *(Sign(f"then beta = 0.5 ends better than beta = q = {q:g}", ("sim_dependent", q, 0.5), ("sim_dependent", q, q),
           sooner=False) for q in RATES),
    *(Sign(f"a beta that rises from 0.5 to 0.9 ends better than 0.5, q = {q:g}", ("rising", q, 0.9), ("mixed", q, 0.5),
           sooner=False) for q in RATES[1:]),
    *(Sign(f"beta = q until the simulator is learned, then 0.9, ends better than beta = q = {q:g}", ("late", q, 0.9),
           ("mixed", q, q), sooner=False) for q in RATES[1:]),
)  # fmt: skip


def reached(points: list[Point], level: float) -> int | None:
    """The first of two evaluations in a row that show such a success in reality."""
    shown = [point.real_success >= level for point in points]
    return next((i for i, now in enumerate(shown[:-1]) if now and shown[i + 1]), None)


def episodes_to(points: list[Point], level: float) -> float:
    """Real episodes at the first of two evaluations in a row with such a success in reality; infinite without them."""
    first = reached(points, level)
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
        "Two kinds of runs of the same seeds. A claim of real episodes counts the seeds in which the first kind comes",
        "to 50 % in fewer of them, in more, or neither can be said: between which evaluations a run gets there is all",
        "that is known, and a run that ended below 50 % has lost only if it had as many real episodes as the other",
        "needed. It holds where at least four seeds agree and none says the opposite. A claim of the end goes by the",
        "final success in reality, the first less the second, and holds where the 95 % bootstrap interval is above 0;",
        "five seeds make that too narrow (on normal data it holds the mean in 84 % of cases), and of",
        f"{len(SIGNS)} claims one or two may hold by chance.",
        "",
        "| claim | the first | the second | fewer, more, open | difference at the end | seeds | it |",
        "|---|---|---|--:|--:|--:|---|",
        *rows,
        "",
    ] if rows else []  # fmt: skip


def words(kind: Kind) -> str:
    """A kind of runs as it is called in tables."""
    strategy, q, beta = kind
    return {SIM_ALONE: "simulator alone", REAL_ALONE: "reality alone"}.get(kind, f"{strategy}, q {q:g}, beta {beta:g}")


def _row(sign: Sign, runs: Runs) -> str | None:
    strategy, q, beta = sign.other
    pairs = [
        (one, runs[other])
        for cell, one in runs.items()
        if (cell.strategy, cell.q, cell.beta) == sign.one and (other := Cell(q, beta, strategy, cell.seed)) in runs
    ]
    if not pairs:
        return None
    if sign.sooner:
        fewer, more = (sum(_fewer(*order) for order in orders) for orders in (pairs, [p[::-1] for p in pairs]))
        found = f"{fewer}, {more}, {len(pairs) - fewer - more} | "
        holds, turned = fewer >= ENOUGH - 1 and more == 0, more >= ENOUGH - 1 and fewer == 0
    else:
        difference = [final(one) - final(other) for one, other in pairs]
        low, high = bootstrap_ci(difference)
        found = f" | {np.mean(difference):+.2f}<br>{low:+.2f} to {high:+.2f}"
        holds, turned = low > 0, high < 0
    says = "holds" if holds else "is the other way round" if turned else "is open"
    says = says if len(pairs) >= ENOUGH else "has too few seeds"
    return f"| {sign.claim} | {words(sign.one)} | {words(sign.other)} | {found} | {len(pairs)} | {says} |"


def _fewer(one: list[Point], other: list[Point]) -> bool:
    """Whether the first run came to 50 % in fewer real episodes than the second, for certain."""
    first, second = reached(one, HALF), reached(other, HALF)
    if first is None:
        return False
    needed = one[first].real_episodes
    if second is None:
        return needed <= other[-1].real_episodes
    return needed <= (other[second - 1].real_episodes if second else -1)
