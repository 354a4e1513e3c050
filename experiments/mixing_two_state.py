"""Two rates on chains small enough to solve: what the linear critic finds, beside what theory says it must.

    python experiments/mixing_two_state.py [--chain mine.json] [--steps 200000] [--seeds 16] [--out folder]

Di-Castro Shashua, Di Castro and Mannor 2021 (arXiv 2110.00445): environment i is visited at rate q_i, a row of store j
is learned from at rate beta_j. With a store for each environment the critic's limit is eta and v of the MIXTURE chain
of beta, whatever q; with one store for all it is that of beta = q. `hybrid_jax/chains.py` solves for both. Neither the
average of the environments' own values nor the value in the average of their kernels is the limit: they are told, too.

--chain FILE is a JSON object of your own chains (the policy is in them), environment 0 the real one:

    transitions  [K][S][S] P_j(s'|s), each irreducible and aperiodic
    rewards      [S], or [K][S]: r_j(s)
    features     [S][d] of full column rank, without the constant in their span unless gamma is given
    beta         [K] shares of the stores in what is learned from
    q            [K] shares of the environments in what is collected, or several such lists [[K], ...]
    gamma        in [0, 1): discounted; null or left out: average reward

Each q is run with a store for each environment, the first one also with one store for all. The figures are means over
the second half of the steps and over the seeds, with the standard error over the seeds. --out draws the convergence
into mixing_two_state.png. The last line is JSON: eta, v, eta_closed, v_closed of the first run (v is a number where
there is one feature), the chain, and all of that for every run in `runs`. Without --chain, the two states of the docs:

"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.chain_file import TWO_STATES, Problem, checked, read
from hybrid_jax import chains, finite, linear_ac, plots
from hybrid_jax.buffers import multi_buffer
from hybrid_jax.chains import Chains
from hybrid_jax.mixing import Rates

BLOCKS = 200  # points of a curve


class Run(NamedTuple):
    """One way of storing and one q: what was found and what must be."""

    name: str
    q: np.ndarray  # [K]
    beta: np.ndarray  # [K] shares of the rows learned from
    eta: float
    v: np.ndarray  # [d]
    eta_error: float  # standard error over the seeds
    v_error: np.ndarray  # [d]
    closed: chains.FixedPoint
    curve: np.ndarray  # [seeds, blocks, 1 + d] means of eta and v over each block of steps


def main(arguments: list[str]) -> int:
    """The exit code: 0 done, 2 the user's mistake."""
    description = f"{__doc__}    {json.dumps(TWO_STATES)}"
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chain", type=Path, help="JSON file of your own chains")
    parser.add_argument("--steps", type=int, default=200_000, help="moves, each with one draw and one update")
    parser.add_argument("--seeds", type=int, default=16, help="runs, side by side")
    parser.add_argument("--capacity", type=int, default=100, help="rows of each environment's store")
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--out", type=Path, help="folder for the picture")
    asked = parser.parse_args(arguments)
    try:
        for name, least in (("steps", BLOCKS), ("seeds", 2), ("capacity", 1)):
            if getattr(asked, name) < least:
                raise ValueError(f"--{name} {getattr(asked, name)} is too small; give at least {least}.")
        problem = checked(read(asked.chain) if asked.chain else TWO_STATES)
        if asked.out:
            asked.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        print(f"mixing_two_state.py: {error}", file=sys.stderr)
        return 2
    found = all_runs(problem, asked.steps, asked.seeds, asked.capacity, asked.seed)
    if asked.out:
        draw(asked.out / "mixing_two_state.png", found, wrong_answers(problem), asked.steps)
    print("\n".join(report(problem, found, asked)))
    return 0


# ------------------------------------------------------------------------------------------------------------- runs


def all_runs(problem: Problem, steps: int, seeds: int, capacity: int, seed: int) -> list[Run]:
    """Every q with separate stores, then the first with one."""
    environments, runs = len(problem.beta), []
    cases = [("separate stores", q, problem.beta, (capacity,) * environments) for q in problem.qs]
    cases.append(("one store", problem.qs[0], problem.qs[0], (capacity * environments,)))
    for number, (name, q, beta, capacities) in enumerate(cases):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), seeds)
        curve = np.asarray(simulate(problem, capacities, q, beta, steps, keys), np.float64)
        means = curve[:, BLOCKS // 2 :].mean(axis=1)
        mean, error = means.mean(axis=0), means.std(axis=0, ddof=1) / seeds**0.5
        closed = chains.fixed_point(problem.chains, beta, problem.features, problem.gamma)
        runs.append(Run(name, q, beta, float(mean[0]), mean[1:], float(error[0]), error[1:], closed, curve))
    return runs


def simulate(problem: Problem, capacities: tuple[int, ...], q: np.ndarray, beta: np.ndarray, steps: int, keys):
    """Means of (eta, v) over each block of steps [seeds, BLOCKS, 1 + d]; one compiled program."""
    scheme = finite.make(chains.without_actions(problem.chains), multi_buffer(capacities))
    learner = linear_ac.make(problem.features, 1, problem.gamma)
    laws = jnp.asarray(chains.stationary(problem.chains.kernel), jnp.float32)
    rates = Rates(jnp.asarray(q, jnp.float32), jnp.asarray(beta, jnp.float32))

    def step(carry, key):
        world, state, total = carry
        world, _, batch = scheme.step(world, key, learner.policy(state), rates)
        state = learner.update(state, batch)
        return (world, state, total + jnp.append(state.v, state.eta)), None

    def block(carry, key):
        world, state = carry
        start = world, state, jnp.zeros(problem.features.shape[1] + 1)
        (world, state, total), _ = jax.lax.scan(step, start, jax.random.split(key, steps // BLOCKS))
        return (world, state), jnp.roll(total, 1) / (steps // BLOCKS)

    def run(key):
        init_key, key = jax.random.split(key)
        start = scheme.init(init_key, laws), learner.init()
        return jax.lax.scan(block, start, jax.random.split(key, BLOCKS))[1]

    return jax.jit(jax.vmap(run))(keys)


# ------------------------------------------------------------------------------------------------------------- words


def report(problem: Problem, runs: list[Run], asked: argparse.Namespace) -> list[str]:
    """A line a run, what the limit is not, and JSON."""
    form = "average reward" if problem.gamma is None else f"gamma = {problem.gamma:g}"
    lines = [f"{form}; {asked.steps:,} steps, {asked.seeds} seeds, {asked.capacity} rows a store", ""]
    heads = ("", "q", "beta", "eta", "closed", "v", "closed")
    lines.append("{:16} {:12} {:12} {:>17} {:>9}  {} | {}".format(*heads))
    for run in runs:
        v = ", ".join(f"{a:.4f} +- {b:.4f}" for a, b in zip(run.v, run.v_error, strict=True))
        closed = ", ".join(f"{a:.6f}" for a in run.closed.v)
        eta = f"{run.eta:.4f} +- {run.eta_error:.4f}"
        lines.append(
            f"{run.name:16} {_shares(run.q):12} {_shares(run.beta):12} {eta:>17} {run.closed.eta:9.6f}  {v} | {closed}"
        )
    not_these = wrong_answers(problem)
    lines += ["", *(f"not: {name:24} v = {', '.join(f'{a:.6f}' for a in v)}" for name, v in not_these.items())]
    told = [_plain(run) for run in runs]
    first = {key: told[0][key] for key in ("eta", "v", "eta_closed", "v_closed")}
    chain = {"transitions": problem.chains.kernel.tolist(), "rewards": problem.chains.reward.tolist()}
    chain |= {"features": problem.features.tolist(), "beta": problem.beta.tolist(), "gamma": problem.gamma}
    wrong = {name: _scalar(v) for name, v in not_these.items()}
    return [
        *lines,
        json.dumps(first | {"runs": told, "wrong_v": wrong, "steps": asked.steps, "seeds": asked.seeds} | chain),
    ]


def wrong_answers(problem: Problem) -> dict[str, np.ndarray]:
    """v of what one might take for the limit."""
    each = [
        chains.fixed_point(problem.chains, one, problem.features, problem.gamma).v for one in np.eye(len(problem.beta))
    ]
    averaged = Chains(*(np.tensordot(problem.beta, part, axes=1)[None] for part in problem.chains))
    kernel = chains.fixed_point(averaged, [1.0], problem.features, problem.gamma).v
    return {"average of the values": problem.beta @ np.stack(each), "value of average kernels": kernel}


def _plain(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "q": run.q.tolist(),
        "beta": run.beta.tolist(),
        "eta": run.eta,
        "v": _scalar(run.v),
        "eta_error": run.eta_error,
        "v_error": _scalar(run.v_error),
        "eta_closed": run.closed.eta,
        "v_closed": _scalar(run.closed.v),
    }


def _scalar(v: np.ndarray) -> float | list[float]:
    """A number where there is one feature."""
    return float(v[0]) if v.size == 1 else v.tolist()


def _shares(p: np.ndarray) -> str:
    return ", ".join(f"{x:.3g}" for x in p)


def draw(path: Path, runs: list[Run], wrong: dict[str, np.ndarray], steps: int) -> None:
    """Means over the second half of the steps so far, the range of the seeds as a band, closed forms as level lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = min(1 + len(runs[0].v), 4)
    figure = Figure((8.0, 1.4 + 2.4 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    done = np.arange(BLOCKS) + 1
    names = ["eta", *(["v"] if len(runs[0].v) == 1 else [f"v[{i}]" for i in range(rows - 1)])]
    for part, (axes, name) in enumerate(zip(panels, names, strict=True)):
        plots.dress(axes)
        axes.set_ylabel(name)
        axes.margins(x=0.02)
        for colour, run in zip(plots.COLOURS * len(runs), runs, strict=False):
            seeds = np.stack([run.curve[:, n // 2 : n, part].mean(axis=1) for n in done], axis=1)
            level, x = [run.closed.eta, *run.closed.v][part], done * (steps // BLOCKS)
            axes.axhline(level, color=colour, linewidth=1.2, linestyle=plots.DASHES, zorder=1)
            axes.fill_between(x, seeds.min(axis=0), seeds.max(axis=0), color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, seeds.mean(axis=0), color=colour, label=f"{run.name}, q = ({_shares(run.q)})")
        for words, v in wrong.items() if part else ():
            axes.axhline(v[part - 1], color=plots.FAINT, linewidth=1.2, linestyle=(0, (1, 1.5)), zorder=1)
            above = v[part - 1] > runs[0].closed.v[part - 1]  # the words stand off the curve
            place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
            place |= {"xytext": (0, 3 if above else -3), "va": "bottom" if above else "top"}
            axes.annotate(f"not: {words}", (0.99, v[part - 1]), fontsize=9, color=plots.FAINT, **place)
    panels[-1].set_xlabel("steps; dashed: the closed form")
    panels[0].legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, facecolor="white", metadata={"Software": None})


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
