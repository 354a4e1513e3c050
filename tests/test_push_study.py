"""The push study: what counts as solved, which runs are done, and one real run of its compiled step."""

import math
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from envs import push
from experiments import push_ddpg, push_report, push_runs, push_signs, push_study, study_grid
from experiments.experiment import ROOT
from experiments.push_runs import Cell, Point
from hybrid_jax import mixing
from hybrid_jax.config import ConfigError

CELL = Cell(0.1, 0.5, "mixed", 0)


def point(real_episodes: int, success: float, cell: Cell = CELL) -> Point:
    counts = (4 * real_episodes, real_episodes, 9 * real_episodes)  # updates, episodes in reality and in simulation
    return Point(*cell, *counts, success, 1.0, 2.0, 3.0, "here", push_runs.settings())


def whole(successes, cell: Cell = CELL) -> list[Point]:
    """A finished run whose last evaluations these are, 10 real episodes apart."""
    shown = [0.0] * (push_runs.ITERATIONS // push_runs.EVERY - len(successes)) + list(successes)
    return [point(10 * (i + 1), success, cell) for i, success in enumerate(shown)]


def test_the_grid_is_that_of_the_specification():
    cells = push_runs.grid(5)
    assert len(cells) == len(set(cells)) == 5 * (2 + 2 * 9 + 5 + 2 * 2)
    assert sorted(c.beta for c in cells if c.strategy == "sim_first" and c.seed == 0) == [0.05, 0.1, 0.3, 0.5, 0.9]
    mixed = {(c.q, c.beta) for c in cells if c.strategy == "mixed"}
    assert mixed == {(q, b) for q in (0.05, 0.1, 0.3) for b in (q, 0.5, 0.9)} | {(0.0, 0.0), (1.0, 1.0)}


def test_real_episodes_to_a_success_are_those_at_the_first_of_two_evaluations_that_show_it():
    points = [point(10, 0.6), point(20, 0.4), point(30, 0.5), point(40, 0.95), point(50, 0.9)]
    assert push_signs.episodes_to(points, 0.5) == 30 and push_signs.episodes_to(points, 0.9) == 40
    assert push_signs.episodes_to(points[:4], 0.9) == math.inf == push_signs.episodes_to(points[:1], 0.5)
    assert push_signs.final([point(1, 1.0), *(point(1, x) for x in (0.1, 0.2, 0.3, 0.4, 0.5))]) == pytest.approx(0.3)


def test_medians_with_runs_that_never_got_there():
    assert push_report._median([100.0, 300.0, math.inf], 900).startswith("300<br>100 to not in 900 (2 of 3)")
    assert push_report._median([100.0, math.inf, math.inf], 1900) == "not in 1,900 (1 of 3)"
    assert push_report._median([7.0, 7.0, 7.0], 900) == "7<br>7 to 7 (3 of 3)"
    assert push_report._median([0.0, 0.0, 0.0, math.inf, math.inf], 0) == "0<br>0 to not in 0 (3 of 5)"


def test_the_table_gives_back_finished_runs_and_no_cut_one(tmp_path):
    table, other = push_runs.table(tmp_path / "t.csv"), CELL._replace(seed=1)
    read = lambda: push_runs.finished(table.read())  # noqa: E731
    assert read() == {}
    table.append(*whole([0.5]))
    table.append(*whole([0.25], other)[:-1])
    assert read() == {CELL: whole([0.5])}
    table.path.write_text(table.path.read_text()[:-30])  # and its last line was cut
    table.append(*whole([0.75], other))
    assert read() == {CELL: whole([0.5]), other: whole([0.75], other)}
    table.append(*(point._replace(settings="others") for point in whole([1.0])))
    assert read()[CELL] == whole([0.5])


def test_another_table_is_another_study(monkeypatch):
    before = push_runs.settings()
    monkeypatch.setattr(push, "REAL", push.REAL._replace(puck_mass=0.5))
    assert push_runs.settings() != before


def kind(strategy, q, beta, ends):
    """Runs of the seeds 0, 1, ... whose last five evaluations show these successes."""
    return {cell: whole([end] * 5, cell) for seed, end in enumerate(ends) for cell in [Cell(q, beta, strategy, seed)]}


MIX, Q = ("mixed", 0.1, 0.5), ("mixed", 0.1, 0.1)


def test_a_claim_of_the_end_goes_by_the_difference_of_the_same_seeds():
    runs = kind(*MIX, [0.8, 0.9, 0.7, 0.8, 0.8, 0.1]) | kind(*Q, [0.4] * 5)  # the sixth seed has no partner
    row = "| it ends better than beta = q = 0.1 | mixed, q 0.1, beta 0.5 | mixed, q 0.1, beta 0.1 |  | +0.40<br>"
    assert any(line.startswith(row) and line.endswith("| 5 | holds |") for line in push_signs.lines(runs))
    turned = kind(*MIX, [0.1] * 5) | kind(*Q, [0.2] * 5)
    assert f"{row.replace('+0.40', '-0.10')}-0.10 to -0.10 | 5 | is the other way round |" in push_signs.lines(turned)
    mixed = kind(*MIX, [0.4, 0.9, 0.4, 0.9, 0.4]) | kind(*Q, [0.6] * 5)
    assert any("ends better than beta = q = 0.1" in line and "is open" in line for line in push_signs.lines(mixed))
    few = kind(*MIX, [0.9] * 4) | kind(*Q, [0.1] * 4)
    assert any("ends better" in line and "4 | has too few seeds" in line for line in push_signs.lines(few))
    assert push_signs.lines(kind(*MIX, [0.2])) == []


def test_a_claim_of_episodes_goes_by_what_the_evaluations_can_tell():
    def run(*pairs):
        return [point(episodes, success) for episodes, success in pairs]

    early, late = run((10, 0.6), (20, 0.6), (30, 0.6)), run((10, 0.1), (20, 0.1), (30, 0.6), (40, 0.6))
    assert push_signs._fewer(early, late) and not push_signs._fewer(late, early)
    coarse = run((400, 0.6), (800, 0.6))  # got there anywhere below 400
    assert not push_signs._fewer(early, coarse) and not push_signs._fewer(coarse, early)
    short, long = run((20, 0.1), (25, 0.1)), run((20, 0.1), (30, 0.1))  # ended before 30, and not
    assert not push_signs._fewer(late, short) and push_signs._fewer(late, long)
    assert not push_signs._fewer(short, late) and not push_signs._fewer(short, long)
    after = run((10, 0.1), (20, 0.6), (30, 0.6))  # between 10 and 20, when `early` had been there
    assert push_signs._fewer(early, after) and not push_signs._fewer(after, early)

    row = "| beta = 0.5 instead of q = 0.1 saves real episodes | mixed, q 0.1, beta 0.5 | mixed, q 0.1, beta 0.1 |"
    five = {Cell(0.1, 0.5, "mixed", seed): early for seed in range(5)}
    of = lambda *runs: {Cell(0.1, 0.1, "mixed", seed): run for seed, run in enumerate(runs)}  # noqa: E731
    assert f"{row} 4, 0, 1 |  | 5 | holds |" in push_signs.lines(five | of(late, late, late, late, early))
    assert f"{row} 3, 0, 2 |  | 5 | is open |" in push_signs.lines(five | of(late, late, late, early, early))
    swapped = {Cell(0.1, 0.5, "mixed", seed): late for seed in range(5)} | of(*[early] * 5)
    assert f"{row} 0, 5, 0 |  | 5 | is the other way round |" in push_signs.lines(swapped)


def test_schedules_reach_their_beta_late():
    def at(name, q, beta, step, best):
        rates = mixing.Rates(jnp.float32([q, 1 - q]), jnp.float32([beta, 1 - beta]))
        seen = mixing.Progress(jnp.int32(step), jnp.zeros(2), jnp.zeros(2, jnp.uint32), jnp.zeros(2), jnp.float32(best))
        found = push_runs.SCHEDULES[name](rates)(seen)
        assert float(found.q[0]) == pytest.approx(q) and float(jnp.sum(found.beta)) == pytest.approx(1)
        return float(found.beta[0])

    rising = [at("rising", 0.1, 0.9, step, [0, 0]) for step in (0, 300, 600, 899)]
    assert rising == pytest.approx([0.5, 0.7, 0.9, 0.9])
    late = [at("late", 0.3, 0.9, 5, best) for best in ([1.0, 0.6], [0.0, 0.7])]  # it waits for the simulator
    assert late == pytest.approx([0.3, 0.9])


def test_runs_by_another_schedule_of_that_name_are_open_again(monkeypatch):
    before = push_runs.settings("late"), push_runs.settings("mixed")
    monkeypatch.setattr(push_runs, "RISE", (0.5, 300))
    assert push_runs.settings("late") != before[0] and push_runs.settings("mixed") == before[1]


def test_the_runs_in_the_repository_are_of_todays_settings():
    points = push_runs.table(ROOT / "docs" / "results" / "push_mixing.csv").read()
    assert len(points) > 0 and push_runs.other_settings(points) == 0


def test_a_schedule_sees_control_steps():
    store = SimpleNamespace(added=jnp.uint32([3, 4]), draws=jnp.uint32([5, 6]))
    seen = push_runs._progress(SimpleNamespace(step=7, buffers=store), np.zeros(2), np.ones(2))
    assert seen.added.tolist() == [150, 200] and seen.draws.tolist() == [5, 6] and seen.step == 7


def test_the_report_tells_figures_and_runs_that_are_missing(tmp_path):
    runs = {cell: whole([0.6] * 5, cell) for cell in (CELL, CELL._replace(seed=1))}
    text = push_report.write(runs, push_runs.grid(2), tmp_path)
    assert text == f"written: {tmp_path / 'push_mixing.md'}"
    told = (tmp_path / "push_mixing.md").read_text()
    last = 10 * (push_runs.ITERATIONS // push_runs.EVERY)
    first = last - 40
    half, all_of_it = f"{first}<br>{first} to {first} (2 of 2)", f"not in {last} (0 of 2)"
    row = f"| mixed | 0.1 | 0.5 | {half} | {all_of_it} | 0.60<br>0.60 to 0.60 |"
    assert f"{row} 1.00 | 2 |" in told and "2 of 58 runs are done" in told and "here (2 runs)" in told
    assert (tmp_path / "push_mixing.png").read_bytes()[:4] == b"\x89PNG"


def test_filters_name_cells_and_mistakes_are_told(tmp_path, capsys):
    chosen = study_grid.chosen(push_runs.grid(2), "q=0.1,q=0.3,strategy=sim_first,seed=1")
    assert len(chosen) == 4 and {(c.q, c.seed, c.strategy) for c in chosen} == {
        (0.1, 1, "sim_first"), (0.3, 1, "sim_first"),
    }  # fmt: skip
    for words, sentence in (
        ("gap=1", "--only 'gap=1' is not of the form AXIS=VALUE; the axes: q, beta, strategy, seed"),
        ("q=0.2", "--only q=0.2: no such q in this study; its own: 1, 0, 0.05, 0.1, 0.3"),
    ):
        with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
            study_grid.chosen(push_runs.grid(2), words)
    for arguments, sentence in (
        (["--only", "gap=1"], "push_study.py: --only"),
        (["--seeds", "0"], "push_study.py: --seeds 0 and --workers 1: give at least 1 of both"),
    ):
        assert push_study.main([*arguments, "--out", str(tmp_path)]) == 2
        assert sentence in capsys.readouterr().err


def test_a_run_visits_reality_by_its_strategy_in_one_program(monkeypatch):
    """Two cells of one compiled step; of sim_first none of the episodes is real before the simulator is solved."""
    small = push_ddpg.config()
    small = replace(
        small,
        algorithm=replace(small.algorithm, hidden=(8,), batch_real=4, batch_sim=4),
        rates=replace(small.rates, sims=2, updates=2, sim_capacity=2_000, pool=4),
    )
    monkeypatch.setattr(push_ddpg, "config", lambda: small)
    monkeypatch.setattr(push_runs, "ITERATIONS", 12)
    monkeypatch.setattr(push_runs, "EVERY", 6)
    monkeypatch.setattr(push_runs, "EPISODES", (8, 8))
    made = push_runs.program()
    for cell, real in ((Cell(1.0, 1.0, "mixed", 0), 24), (Cell(0.3, 0.5, "sim_first", 0), 0)):
        points = list(push_runs.run(made, cell))
        assert [p.updates for p in points] == [12, 24] and points[-1].real_episodes == real
        assert points[-1].real_episodes + points[-1].sim_episodes == 24  # two a turn, all in one world
        assert points[-1].reuse == pytest.approx(24 * 8 / (24 * 50) if real else 0.0)
        assert all(
            0 <= s <= 1 and np.isclose(8 * s, round(8 * s)) for p in points for s in (p.real_success, p.sim_success)
        )
    assert made.run.step._cache_size() == 1
