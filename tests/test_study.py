"""The study runner on the point mass: what runs, what is shared, kills and resumes, the report."""

import contextlib
import csv
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from envs import point_mass
from experiments import (
    methods,
    online,
    preflight,
    session,
    study,
    study_episodes,
    study_grid,
    study_metrics,
    study_pictures,
    study_report,
    study_worker,
    training,
    worlds,
)
from experiments.csv_table import Table
from experiments.experiment import Experiment, Refused, factory
from experiments.stopping import Stop
from experiments.studies import wheel_legged
from experiments.study_claims import held, lock
from experiments.study_grid import ANY, Cell, Study, Task
from experiments.study_progress import lines
from experiments.study_scores import Place, Scores
from experiments.study_table import Row, other_settings
from hybrid_jax import guards
from hybrid_jax.config import ConfigError, to_json
from hybrid_jax.datasets import hdf5
from hybrid_jax.datasets.normalised import D4RL, Reference, normalised
from hybrid_jax.statistics import interquartile_mean, stratified_ci

ROOT = Path(__file__).resolve().parent.parent

MINE = """
from pathlib import Path

from envs import point_mass
from experiments.experiment import Experiment
from experiments.study_grid import Study, Task
from hybrid_jax import trainer
from hybrid_jax.algorithms import sac
from hybrid_jax.datasets.normalised import Reference


def heavy():
    return point_mass.make(point_mass.Constants(gain=1.0))


def study():
    base = Experiment(
        sim="envs.point_mass:make",
        real="envs.point_mass:make_real",
        algorithm=sac.Config(hidden=(8,), batch_real=8, batch_sim=8),
        rates=trainer.Rates(sims=4, unroll=5, updates=10, sim_capacity=400, pool=8),
        updates=20,
        test_episodes=2,
        compile_cache=False,
    )
    gaps = {"none": {}, "heavy": {"sim": "mine:heavy"}}
    data = {"random": {"dataset": Path(__file__).with_name("log.hdf5")}}
    return Study(
        name="mine",
        title="Point mass: a toy",
        tasks={"mass": Task(base, gaps, data, Reference(0.0, 100.0))},
        methods=("sim_only", "real_only"),
        shares=(1.0, 0.5),
        seeds=2,
    )
"""


ONLY = ("--only", "method=real_only,share=0.5", "--seeds", "4")


def user_folder(home: Path) -> Path:
    rng = np.random.default_rng(0)
    data = online.record(point_mass.make_real(), point_mass.SPEC, lambda obs: rng.uniform(-1, 1, 1), 300, 0)
    hdf5.save(home / "log.hdf5", data, {})
    (home / "mine.py").write_text(MINE)
    return home


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return user_folder(tmp_path_factory.mktemp("user"))


@pytest.fixture
def mine(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return study_grid.load(str(folder / "mine.py"))


def command(folder: Path, *words: str) -> list[str]:
    named = [sys.executable, str(ROOT / "experiments" / "study.py"), "mine.py", "--out", "out", "--runs", "runs"]
    return [*named, *words]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def finished(folder):
    """A study whose first process is killed in the middle, whose table is torn, and that two processes finish."""
    table = folder / "out" / "mine.csv"
    first = subprocess.Popen(
        command(folder, *ONLY, "--worker", "0", "--until", "1e12"), cwd=folder, env=environment(), stdout=-3
    )
    deadline = time.monotonic() + 120
    while not (table.exists() and table.read_text().count("\n") >= 2):
        assert time.monotonic() < deadline and first.poll() is None, "no cell was finished"
        time.sleep(0.02)
    first.kill()
    first.wait()
    before = table.read_text()
    before = before[: before.rindex("\n") + 1]
    table.write_text(before + "mine,mass,none,any,any,sim_on")
    done = subprocess.run(
        command(folder, *ONLY, "--workers", "2"), cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return before, done.stdout


# ------------------------------------------------------------------------------------------------ a whole study


def test_a_killed_study_goes_on_where_it_was_and_doubles_nothing(folder, mine, finished):
    before, told = finished
    content = (folder / "out" / "mine.csv").read_text()
    assert content.startswith(before) and before.count("\n") < 5
    rows = Table(folder / "out" / "mine.csv", Row).read()
    runs = [Cell("mass", ANY, "random", "0.5", "real_only", seed) for seed in range(4)]
    assert sorted(row.cell for row in rows) == runs  # each once
    assert "its last line was cut (mine,mass,none,any,any,sim_on" in told
    assert f"{before.count(chr(10)) - 1} of 4 runs are done" in told


def test_a_row_says_what_its_run_did(folder, finished):
    for row in Table(folder / "out" / "mine.csv", Row).read():
        place = folder / "runs" / "study-mine" / "-".join(map(str, row.cell))
        result = json.loads((place / "result.json").read_text())
        assert row.real_return == pytest.approx(np.mean(result["real_returns"]), rel=1e-5)
        assert row.real_std == pytest.approx(np.std(result["real_returns"]), rel=1e-4)
        assert (row.updates, row.episodes, row.falls) == (20, 2, result["falls"])
        assert row.normalised == pytest.approx(row.real_return, rel=1e-5)  # 0 to 100 is its own scale
        assert math.isnan(row.sim_return) and math.isfinite(row.behaviour_return)
        assert json.loads((place / "config.json").read_text())["seed"] == row.seed
        assert not (place / "checkpoints").exists()


def work(mine: Study, only: str, place: Path, until: float = math.inf) -> tuple[study_worker.Worker, list[Row]]:
    cells = study_grid.chosen(study_grid.grid(mine), only)
    table = Table(place / "mine.csv", Row)
    with Stop() as stop:
        worker = study_worker.Worker(mine, study_grid.programs(mine, cells), table, place / "runs")
        worker.run(until, stop)
    return worker, table.read()


def test_a_second_seed_in_a_used_program_is_a_run_of_its_own(mine, tmp_path, capsys):
    """The oracle is session.run, as behind experiments/run.py."""
    worker, rows = work(mine, "method=sim_only,gap=heavy", tmp_path)
    assert not worker.failed and [row.cell for row in rows] == [
        Cell("mass", "heavy", ANY, ANY, "sim_only", s) for s in (0, 1)
    ]
    assert all(math.isnan(row.behaviour_return) and math.isfinite(row.sim_return) for row in rows)
    alone, place = replace(study_grid.experiment_of(mine, rows[1].cell), runs=tmp_path), tmp_path / "alone"
    place.mkdir()
    assert session.run(alone, preflight.prepare(alone, None), [], place, 0.0) == 0
    result = json.loads((place / "result.json").read_text())
    assert rows[1].real_return == pytest.approx(np.mean(result["real_returns"]), rel=1e-5)
    assert rows[0].real_return != rows[1].real_return


def test_seeds_of_one_program_at_once_each_get_their_row(mine, tmp_path, monkeypatch, capsys):
    """As on an accelerator."""
    monkeypatch.setattr(study_worker, "_together", lambda study, cell: True)
    worker, rows = work(mine, "method=real_only,share=1", tmp_path)
    assert not worker.failed and [row.seed for row in rows] == [0, 1]
    assert rows[0].real_return != rows[1].real_return and rows[0].wall_seconds == rows[1].wall_seconds


def long(mine: Study, seeds: int, **algorithm) -> Study:
    """Six iterations, a checkpoint after every second one."""
    task = mine.tasks["mass"]
    base = replace(task.base, updates=60, evaluate_every=20, algorithm=replace(task.base.algorithm, **algorithm))
    return replace(mine, tasks={"mass": replace(task, base=base)}, curves=True, seeds=seeds)


class Killed(Exception):
    """As by SIGKILL: nothing is saved."""


def counted(monkeypatch, fault: Exception) -> list:
    """The iterations done from now on; after the fifth the fault, once."""
    done = []

    def iterate(course, plain=training._Course.iterate):
        done.append(course.done)
        if course.done == 5 and fault not in done:
            done.append(fault)
            raise fault
        plain(course)

    monkeypatch.setattr(training._Course, "iterate", iterate)
    return done


CUT = "method=sim_only,gap=none"


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_cell_that_was_cut_goes_on_from_its_checkpoint(mine, tmp_path, monkeypatch, capsys, seeds):
    """To the bit of one that was not, several seeds at once, too."""
    monkeypatch.setattr(study_worker, "_together", lambda study, cell: seeds > 1)
    whole, killed = work(long(mine, seeds), CUT, tmp_path / "whole")[1], Killed()
    done = counted(monkeypatch, killed)
    with pytest.raises(Killed):
        work(long(mine, seeds), CUT, tmp_path / "cut")
    rows = work(long(mine, seeds), CUT, tmp_path / "cut")[1]
    assert done == [0, 1, 2, 3, 4, 5, killed, 4, 5] and len(rows) == seeds
    assert [row.real_return for row in rows] == [row.real_return for row in whole]
    for row in rows:
        one, other = (tmp_path / side / "runs" / study_grid.folder_name(row.cell) for side in ("whole", "cut"))
        for name in ("metrics.csv", "policy/policy.npz"):
            assert (one / name).read_bytes() == (other / name).read_bytes()
    assert not list((tmp_path / "cut").rglob("checkpoints"))


@pytest.mark.parametrize("change", ["settings", "identity", "bad updates"])
def test_a_cell_starts_anew_where_its_checkpoint_is_of_no_use(mine, tmp_path, monkeypatch, capsys, change):
    bad = guards.BadUpdates("three in a row")
    done = counted(monkeypatch, bad if change == "bad updates" else Killed())
    with contextlib.suppress(Killed):
        assert work(long(mine, 1), CUT, tmp_path)[0].failed  # BadUpdates, which saves, are told
    if change == "identity":
        monkeypatch.setattr(training, "identity_of", lambda experiment: "of other code")
    algorithm = {"tau": 0.5} if change == "settings" else {}
    assert len(work(long(mine, 1, **algorithm), CUT, tmp_path)[1]) == 1
    assert done[7:] == [0, 1, 2, 3, 4, 5]
    assert ("starts anew, for its checkpoint is of no use" in capsys.readouterr().out) == (change == "identity")


def test_a_cell_that_cannot_be_run_is_told_and_the_others_run_on(mine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study_worker.preflight, "prepare", lambda *_: (_ for _ in ()).throw(Refused("no such thing")))
    worker, rows = work(mine, "", tmp_path)
    assert len(worker.failed) == 8 and rows == []
    assert "task mass gap none method sim_only seed 0: no such thing" in capsys.readouterr().out


def test_no_cell_is_started_after_the_time(mine, tmp_path):
    assert work(mine, "", tmp_path, until=time.time())[1] == []


# ---------------------------------------------------------------------------------------------------- the grid


def test_what_a_method_does_not_see_is_run_once(mine):
    cells = study_grid.grid(mine)
    assert len(cells) == 2 * 2 * 2 * 2
    runs = [cell for program in study_grid.programs(mine, cells) for cell in program]
    assert len(runs) == len(set(runs)) == 4 + 4
    assert {cell[:4] for cell in runs if cell.method == "sim_only"} == {
        ("mass", "none", ANY, ANY),
        ("mass", "heavy", ANY, ANY),
    }
    assert {cell[:4] for cell in runs if cell.method == "real_only"} == {
        ("mass", ANY, "random", "1"),
        ("mass", ANY, "random", "0.5"),
    }


@pytest.mark.parametrize(
    ("method", "sees"),
    [("cql", "data"), ("rebrac", "data"), ("sim_only", "gap"), ("darc", "both"), ("rlpd", "both"), ("h2o", "both")],
)
def test_the_worlds_that_a_method_sees(method, sees):
    made = wheel_legged.study()
    cell = study_grid.shared(made, Cell("standing", "1.0", "poor driver", "0.1", method, 3))
    assert (cell.gap == ANY) == (sees == "data") and (cell.data == ANY) == (cell.share == ANY) == (sees == "gap")
    assert cell.seed == 3


def test_seeds_of_one_program_stand_together(mine):
    for program in study_grid.programs(mine, study_grid.grid(mine)):
        assert [cell.seed for cell in program] == [0, 1]
        assert len({cell._replace(seed=0) for cell in program}) == 1


def test_a_cell_stands_for_the_experiment_with_its_gap_share_and_method(mine):
    made = study_grid.experiment_of(mine, Cell("mass", "heavy", "random", "0.5", "mix", 1))
    assert (made.sim, made.log_share, made.seed, made.updates) == ("mine:heavy", 0.5, 1, 20)
    assert made.evaluate_every == 20 and not made.tensorboard
    assert made.algorithm == methods.chosen(mine.tasks["mass"].base, "mix").algorithm


def test_filters_take_any_of_one_axis_and_all_of_several(mine):
    cells = study_grid.grid(mine)
    assert study_grid.chosen(cells, "") == cells
    found = study_grid.chosen(cells, "gap=none,gap=heavy,method=sim_only,share=0.50,seed=1")
    assert [cell[1:] for cell in found] == [(gap, "random", "0.5", "sim_only", 1) for gap in ("none", "heavy")]


@pytest.mark.parametrize(
    ("only", "sentence"),
    [
        ("method=ppo", "--only method=ppo: no such method in this study; its own: sim_only, real_only"),
        ("gap=wide", "its own: none, heavy"),
        ("share=0.3", "its own: 1, 0.5"),
        ("methods=h2o", "the axes: task, gap, data, share, method, seed"),
        ("h2o", "is not of the form AXIS=VALUE"),
    ],
)
def test_unknown_filters_are_refused_with_the_known_ones(folder, mine, only, sentence, capsys):
    assert study.main(["mine.py", "--only", only, "--list"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["walk"], "no study 'walk'; the known ones: half_cheetah, half_cheetah_paper, wheel_legged"),
        (["none.py"], "no experiment file none.py"),
        (["mine.py", "--workers", "0"], "--workers 0 must be at least 1"),
        (["mine.py", "--seeds", "0"], "--seeds 0 must be at least 1"),
    ],
)
def test_a_users_mistake_is_one_sentence(mine, words, sentence, capsys):
    assert study.main(words) == 2
    assert sentence in capsys.readouterr().err


def test_a_log_that_is_not_there_is_told_before_anything_runs(mine, tmp_path, monkeypatch, capsys):
    lost = replace(mine.tasks["mass"], data={"random": {"dataset": tmp_path / "lost.hdf5"}})
    monkeypatch.setattr(study_grid, "load", lambda name: replace(mine, tasks={"mass": lost}))
    assert study.main(["mine.py"]) == 2
    assert f"task mass: its log {tmp_path / 'lost.hdf5'} is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"methods": ("ppo",)}, "no method 'ppo'; the known ones: h2o"),
        ({"shares": (0.0,)}, "share 0 must be more than 0"),
        ({"seeds": 0}, "seeds 0 must be at least 1"),
        ({"gaps": {"a,b": {}}}, "the label 'a,b' cannot be told in --only"),
        ({"gaps": {"a b": {}, "a/b": {}}}, "too much alike"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(mine, changes, sentence):
    if "gaps" in changes:
        changes = {"tasks": {"mass": replace(mine.tasks["mass"], **changes)}}
    with pytest.raises(ConfigError, match=sentence):
        replace(mine, **changes)


@pytest.mark.parametrize("name", study_grid.names())
def test_the_studies_of_the_house_name_worlds_that_exist(name):
    made = study_grid.load(name)
    programs = study_grid.programs(made, study_grid.grid(made))
    for program in programs:
        experiment = study_grid.experiment_of(made, program[0])
        assert callable(factory(experiment.sim, "sim")) and callable(factory(experiment.real, "real"))
        assert experiment.updates % experiment.rates.updates == 0
        batches = experiment.algorithm.batch_real + experiment.algorithm.batch_sim
        base = made.tasks[program[0].task].base.algorithm
        assert batches == base.batch_real + base.batch_sim
    assert len({study_grid.settings_of(study_grid.experiment_of(made, p[0])) for p in programs}) == len(programs)


# ------------------------------------------------------------------------------------------ a share of the log


def log_with_ids(lengths: list[int], terminal: list[bool]) -> hdf5.Dataset:
    """Episodes of these lengths; every row carries its number."""
    ends = np.cumsum(lengths) - 1
    total, kind = int(sum(lengths)), np.zeros(sum(lengths), bool)
    terminals, timeouts = kind.copy(), kind.copy()
    terminals[ends[np.array(terminal)]] = True
    timeouts[ends[~np.array(terminal)]] = True
    ids = np.arange(total, dtype=np.float32)
    return hdf5.Dataset(ids[:, None], ids[:, None], ids, ids[:, None] + 1, terminals, timeouts)


def test_a_share_of_the_log_is_whole_episodes_and_one_piece():
    log = log_with_ids([10, 30, 20, 40], [True, False, True, False])
    starts = {0: 10, 10: 30, 40: 20, 60: 40}
    for seed in range(20):
        part = worlds._share_of(log, 0.37, seed)
        ids = part.observations[:, 0].astype(int)
        assert len(ids) == 37 == len(set(ids.tolist()))
        np.testing.assert_array_equal(part.rewards, ids)
        np.testing.assert_array_equal(part.next_observations[:, 0], ids + 1)
        pieces = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
        ends = part.terminals | part.timeouts
        assert not np.any(part.terminals & part.timeouts) and ends[-1]
        np.testing.assert_array_equal(part.terminals, log.terminals[ids])
        cut = [piece for piece in np.split(ids, np.flatnonzero(ends)[:-1] + 1) if len(piece) != starts.get(piece[0])]
        assert len(cut) <= 1 and len(pieces) <= 4  # at most one that is not whole


def test_another_seed_draws_other_rows_and_the_same_one_the_same():
    log = log_with_ids([10] * 10, [False] * 10)
    drawn = [tuple(worlds._share_of(log, 0.3, seed).rewards) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert worlds._share_of(log, 1.0, 5) is log


def test_every_row_is_drawn_as_often_as_any_other():
    log = log_with_ids([10] * 10, [False] * 10)
    counts = np.zeros(100)
    for seed in range(1000):
        counts[worlds._share_of(log, 0.25, seed).rewards.astype(int)] += 1
    # Whole episodes are equally likely; within the cut one the middle rows are in more windows than the edges.
    by_episode = counts.reshape(10, 10).mean(axis=1)
    np.testing.assert_allclose(by_episode, 250, rtol=0.15)


def test_a_share_outside_its_bounds_is_refused():
    log = log_with_ids([10], [False])
    for share in (0.0, 1.1):
        with pytest.raises(Refused, match=f"--log_share {share:g} must be more than 0"):
            worlds._share_of(log, share, 0)


# --------------------------------------------------------------------------------------------------- the table


def row(mine: Study, **changes) -> Row:
    """A finished cell with the settings of today, and what is to be different."""
    plain = Cell("mass", "none", ANY, ANY, "sim_only", 0)._asdict()
    cell = Cell(**{axis: changes.get(axis, value) for axis, value in plain.items()})
    settings = study_grid.settings_of(study_grid.experiment_of(mine, cell))
    fields = {name: kind(1) for name, kind in Row.__annotations__.items()} | cell._asdict()
    return Row(**(fields | {"updates": 20, "settings": settings} | changes))


def test_what_is_appended_is_read_back(mine, tmp_path):
    table = Table(tmp_path / "deep" / "t.csv", Row)
    rows = [row(mine, seed=s, sim_return=math.inf, device='a "b", c') for s in (0, 1)]
    for one in rows:
        table.append(one)
    assert table.read() == rows and table.told == []
    with (tmp_path / "deep" / "t.csv").open() as file:
        assert next(csv.reader(file)) == list(Row._fields)


@pytest.mark.parametrize("torn", ["mine,ma", "mine,mass,none,any,any,sim_only,1,20,1.0,1.0,1,1,1.0"])
def test_a_torn_last_line_is_cut_and_told(mine, tmp_path, torn):
    table = Table(tmp_path / "t.csv", Row)
    table.append(row(mine))
    whole = table.path.read_text()
    table.path.write_text(whole + torn)
    assert table.read() == [row(mine)]
    assert table.path.read_text() == whole and torn[:20] in table.told[0]
    table.append(row(mine, seed=1))
    assert [one.seed for one in table.read()] == [0, 1]


def test_a_torn_header_is_written_anew(mine, tmp_path):
    table = Table(tmp_path / "t.csv", Row)
    table.path.write_text("study,ta")
    table.append(row(mine))
    assert table.read() == [row(mine)]


def test_a_table_of_another_kind_is_refused(mine, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="has other columns than this study's"):
        Table(tmp_path / "t.csv", Row).read()
    table = Table(tmp_path / "u.csv", Row)
    table.append(row(mine))
    table.path.write_text(table.path.read_text() + "mine,1,2\n")
    with pytest.raises(ConfigError, match=r"u.csv line 3 is no row of a study"):
        table.read()


def test_a_claim_ends_with_its_holder(tmp_path):
    path = tmp_path / "claim"
    assert not held(path)
    holder = "from experiments.study_claims import lock; import pathlib, sys\n"
    holder += "with lock(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(path)], stdin=-1, stdout=-1, env=environment(), cwd=ROOT
    ) as child:
        assert child.stdout.readline() == b"held\n" and held(path)
        child.kill()
        child.wait()
    assert not held(path)
    with lock(path):
        assert held(path)
    assert not held(path)


def test_other_settings_open_a_cell_again_and_are_told(mine):
    rows = [row(mine), row(mine, gap="heavy", settings="000000000000")]
    assert lines(mine, study_grid.grid(mine), rows, 2)[-1].startswith("mine: 1 of 8 runs are done; about ")
    assert other_settings(mine, rows) == [rows[1]]
    assert [one.gap for one in Scores(mine, rows).rows.values()] == ["none"]


def test_settings_are_those_of_every_field_and_of_the_logs_bytes(mine, tmp_path):
    made = study_grid.experiment_of(mine, study_grid.grid(mine)[0])
    here = study_grid.settings_of(made)
    assert here == study_grid.settings_of(replace(made, seed=7, runs=tmp_path))
    others = [replace(made, updates=40), replace(made, algorithm=replace(made.algorithm, tau=0.5))]
    logs = [tmp_path / "a.hdf5", tmp_path / "b.hdf5", tmp_path / "c.hdf5"]
    for path, content in zip(logs, (b"1", b"2", b"1"), strict=True):
        path.write_bytes(content)
    first, second, again = (study_grid.settings_of(replace(made, dataset=path)) for path in logs)
    assert first == again and len({here, first, second, *map(study_grid.settings_of, others)}) == 5


def test_a_default_that_changes_opens_cells_and_a_field_that_is_added_need_not(monkeypatch):
    @dataclass(frozen=True)
    class Before:
        tau: float = 0.1

    @dataclass(frozen=True)
    class Changed:
        tau: float = 0.2

    @dataclass(frozen=True)
    class More:
        tau: float = 0.1
        period: int = 1

    for made in (Before, Changed, More):
        made.__qualname__, made.__module__ = "Config", "mine"
    before, changed, more, other = (study_grid._told(made) for made in (Before(), Changed(), More(), More(period=2)))
    assert before == {"class": "mine.Config", "tau": 0.1} and before != changed and before != more
    monkeypatch.setattr(study_grid, "ADDED", {"mine.Config.period": "1"})
    assert study_grid._told(More()) == before and study_grid._told(More(period=2)) == other


def test_a_field_is_added_for_every_config_that_inherits_it(mine, monkeypatch):
    """A tuple, a nested config, and a zero that is no False."""
    made = study_grid.experiment_of(mine, study_grid.grid(mine)[0])
    algorithm = study_grid._told(made)["algorithm"]
    assert algorithm["class"] == "hybrid_jax.algorithms.sac.Config" and algorithm["hidden"] == [8]
    base = "hybrid_jax.actor_critic.Config"
    monkeypatch.setattr(study_grid, "ADDED", {f"{base}.hidden": "[8]", f"{base}.orthogonal_init": "0"})
    assert study_grid._told(made)["algorithm"] == {k: v for k, v in algorithm.items() if k != "hidden"}
    gap = json.dumps(to_json(made.gap))
    monkeypatch.setattr(study_grid, "ADDED", {"experiments.experiment.Experiment.gap": gap})
    assert "gap" not in study_grid._told(made) and study_grid._told(made)["algorithm"] == algorithm


@pytest.mark.parametrize("name", study_grid.names())
def test_the_runs_in_the_repository_are_of_todays_settings(name):
    """A class that moves, or a default that changes, must not throw hours of finished runs away unseen."""
    rows = Table(ROOT / "docs" / "results" / f"{name}.csv", Row).read()
    assert other_settings(study_grid.load(name), rows) == []


def test_the_list_tells_seeds_and_the_time_left(mine):
    rows = [row(mine, wall_seconds=60.0), row(mine, seed=1, wall_seconds=180.0)]
    shown = lines(mine, study_grid.grid(mine), rows, 3)
    assert shown[1].split() == ["mass", "none", "any", "any", "sim_only", "0", "1", "-"]
    assert shown[2].split() == ["mass", "any", "random", "1", "real_only", "-", "0", "1"]
    assert shown[-1] == "mine: 2 of 8 runs are done; about 4 min left on 3 processes"  # 6 x 120 s / 3
    assert lines(mine, study_grid.grid(mine), [], 1)[-1].endswith("none has told yet how long one takes")


# -------------------------------------------------------------------------------------------------- the report


def scored(mine: Study, values: dict[tuple[str, str], list[float]]) -> list[Row]:
    """Rows of (method, gap or share) with these returns, a seed each."""
    rows = []
    for (method, label), returns in values.items():
        where = {"gap": label} if method == "sim_only" else {"gap": ANY, "data": "random", "share": label}
        for seed, value in enumerate(returns):
            cell = {"method": method, "seed": seed, "real_return": value, "normalised": value} | where
            rows.append(row(mine, falls=seed, episodes=2, behaviour_return=7.0, **cell))
    return rows


VALUES = {
    ("sim_only", "none"): [10.0, 20.0],
    ("sim_only", "heavy"): [1000.0, 3000.0],
    ("real_only", "1"): [30.0, 50.0],
    ("real_only", "0.5"): [4.0],
}


def test_the_report_holds_the_figures(mine, tmp_path):
    assert "written:" in study_report.write(mine, scored(mine, VALUES), tmp_path, "python experiments/study.py mine")
    text = (tmp_path / "mine.md").read_text()
    assert (
        text.startswith("# Point mass: a toy\n") and "`python experiments/study.py mine`: 7 of 8 runs are done." in text
    )
    assert "| gap | share | SAC in simulation | SAC on the log |" in text
    assert "| none | 100 % | 15 [15.0]<br>10 to 20 | **40** [40.0]<br>30 to 50 |" in text
    assert "| heavy | 100 % | **2,000** [2000.0]<br>1,000 to 3,000 | 40 [40.0]<br>30 to 50 |" in text
    assert "| none | 50 % | **15** [15.0]<br>10 to 20 | 4 [4.0]<br>4 to 4, n 1 |" in text
    assert "| none | 100 % | 1 of 4 | 1 of 4 |" in text and "random, mean return 7" in text
    # Of 10, 20, 1000, 3000 the middle half is 20, 1000; the log's runs stand in both gaps, twice 30, 50, and are two.
    assert "| all | random | 100 % | **510.0**<br>" in text and ", n 4 | 40.0<br>30.0 to 50.0, n 2 |" in text
    for name in ("mine_mass_returns.png", "mine_mass_shares.png"):
        assert f"]({name})" in text and (tmp_path / name).read_bytes()[:4] == b"\x89PNG"


def left(runs: Path, row: Row, fell: bool) -> None:
    """A run's folder with a worst episode of three steps, whose observations are 1, 2, 3 and ten times that."""
    folder = runs / study_grid.folder_name(row.cell)
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "contract.json").write_text(json.dumps({"dt": 0.5}))
    (folder / "result.json").write_text(json.dumps({"real_returns": [row.real_return], "worst_fell": fell}))
    obs = np.float32([[1, 10], [2, 20], [3, 30]])
    np.savez_compressed(folder / "worst_episode.npz", obs=obs, actions=obs, rewards=obs)


def test_episodes_are_drawn_where_every_run_left_its_own(mine, tmp_path, monkeypatch):
    base = replace(mine.tasks["mass"].base, columns=((1, "speed", "cm/s", 0.1), (0, "place", "m", 1.0)))
    task = replace(mine.tasks["mass"], base=base)
    mine = replace(mine, tasks={"mass": task}, episodes_of=("heavy", "1"))
    rows, runs, drawn = scored(mine, VALUES), tmp_path / "runs", []
    shown = [row for row in rows if row.gap == "heavy" or row.share == "1"]
    for row in shown[:-1]:
        left(runs, row, fell=row.seed == 1)
    monkeypatch.setattr(study_pictures, "_save", lambda figure, path: drawn.append(figure))
    assert study_episodes.draw(Scores(mine, rows), "mass", runs, tmp_path) == []  # one run's folder is not here
    left(runs, shown[-1]._replace(real_return=-1.0), fell=False)
    assert study_episodes.draw(Scores(mine, rows), "mass", runs, tmp_path) == [] and not drawn  # another run's
    path = runs / study_grid.folder_name(shown[-1].cell) / "result.json"
    path.write_text(json.dumps({"real_returns": [shown[-1].real_return], "worst_fell": True}))
    (tmp_path / "mine_mass_seeds.png").touch()
    assert study_episodes.draw(Scores(mine, rows), "mass", runs, tmp_path) == [tmp_path / "mine_mass_seeds.png"]
    (figure,) = drawn
    speed, _, place, _ = figure.axes
    assert speed.get_ylabel() == "speed [cm/s]" and speed.get_title(loc="left") == "SAC in simulation"
    lines = [line.get_xydata().tolist() for line in place.get_lines()]
    whole = [[0.0, 1.0], [0.5, 2.0], [1.0, 3.0]]
    assert lines == [whole, whole, whole[-1:]]  # seed 0, and seed 1 with its cross
    assert speed.get_lines()[0].get_ydata().tolist() == [1.0, 2.0, 3.0]


def measure(runs: Path, row: Row, **metrics: float) -> None:
    """A run's folder with a metrics file of two lines, of which the last counts."""
    left(runs, row, fell=False)
    names = {"step": 1, "q": 3.0} | metrics
    lines = [",".join(map(str, line)) for line in (names, [0] * len(names), names.values())]
    (runs / study_grid.folder_name(row.cell) / "metrics.csv").write_text("\n".join(lines) + "\n")


def test_what_the_learners_measured_is_kept_and_shown(mine, tmp_path):
    rows, runs = scored(mine, VALUES), tmp_path / "runs"
    heavy = [row for row in rows if row.gap == "heavy"]
    for row, sa, w in zip(heavy, (0.5, 0.7), (0.1, 0.2), strict=True):
        accuracies = {"discriminator_accuracy_sa": sa, "discriminator_accuracy_sas": 0.9}
        measure(runs, row, weight_mean=w, **accuracies)
    study_report.write(mine, rows, tmp_path, "python", runs)
    text = (tmp_path / "mine.md").read_text()
    assert "| gap | share | SAC in simulation |\n" in text and "[mine_metrics.csv](mine_metrics.csv)" in text
    assert "| heavy | 100 % | 60.0, 90.0<br>w 0.15 |" in text and "| none | 100 % | - |" in text
    shutil.rmtree(runs / study_grid.folder_name(heavy[0].cell))
    less = [row for row in rows if row.seed == 1]
    study_report.write(replace(mine, seeds=1), less, tmp_path, "python", runs)  # a part of the study alone
    study_report.write(mine, rows, tmp_path, "python", runs)  # the lines that stand there are kept
    assert (tmp_path / "mine.md").read_text() == text
    rerun = [row._replace(real_return=-1.0) if row is heavy[0] else row for row in rows]
    study_report.write(mine, rerun, tmp_path, "python", runs)  # but not those of another run
    text = (tmp_path / "mine.md").read_text()
    assert "| heavy | 100 % | 70.0, 90.0<br>w 0.20, n 1 |" in text
    lines = Table(tmp_path / "mine_metrics.csv", study_metrics.Measured).read()
    assert [(line.cell, line.q, line.weight_mean) for line in lines] == [(heavy[1].cell, 3.0, 0.2)]


def test_four_seeds_have_an_inter_quartile_mean(mine, tmp_path):
    rows = scored(replace(mine, seeds=4), {("sim_only", "none"): [0.0, 10.0, 20.0, 300.0]})
    study_report.write(replace(mine, seeds=4), rows, tmp_path, "python")
    assert "| none | 100 % | 82 [82.5]<br>" in (told := (tmp_path / "mine.md").read_text()) and "<br>IQM 15 |" in told


def test_published_figures_stand_beside_ours(mine, tmp_path):
    told = {
        "Somebody 1999": {("heavy", "random"): {"real_only": "7 +- 1"}},
        "Nobody": {("heavy", "random"): {"cql": "1"}},
    }
    beside = replace(mine, tasks={"mass": replace(mine.tasks["mass"], published=told)})
    study_report.write(beside, scored(mine, VALUES), tmp_path, "python")
    text = (tmp_path / "mine.md").read_text()
    table = "| gap | SAC on the log |\n|---|--:|\n| none | - |\n| heavy | 7 +- 1 |\n\n"  # of the whole log alone
    assert f"Published: Somebody 1999\n\n{table}" in text and "Nobody" not in text


def test_text_outside_the_marks_stays(mine, tmp_path):
    path, rows = tmp_path / "mine.md", scored(mine, VALUES)
    path.write_text("# By hand\n\nBefore.\n")
    study_report.write(mine, rows, tmp_path, "first")
    first = path.read_text()
    assert first.startswith(f"# By hand\n\nBefore.\n\n## {mine.title}\n\n{study_report.BEGIN}") and "`first`" in first
    path.write_text(first + "\nBehind.\n")
    study_report.write(mine, rows, tmp_path, "second")
    again = path.read_text()
    assert again == first.replace("`first`", "`second`") + "\nBehind.\n"


@pytest.mark.parametrize("damage", [study_report.BEGIN, study_report.END, f"{study_report.END}\n{study_report.BEGIN}"])
def test_damaged_marks_are_refused_and_nothing_is_written(mine, tmp_path, damage):
    path = tmp_path / "mine.md"
    path.write_text(f"By hand.\n{damage}\n")
    with pytest.raises(ConfigError, match="needs the line"):
        study_report.write(mine, scored(mine, VALUES), tmp_path, "again")
    assert path.read_text() == f"By hand.\n{damage}\n" and list(tmp_path.iterdir()) == [path]


def test_the_finished_study_wrote_its_report(folder, finished):
    text = (folder / "out" / "mine.md").read_text()
    assert (
        "4 of 16 runs are done" in text and "python experiments/study.py mine.py" in text and "### What it took" in text
    )


def test_what_is_not_run_is_a_dash_and_no_figure_over_tasks(mine, tmp_path):
    rows = scored(mine, {("sim_only", "none"): [10.0, 20.0]})
    scores = Scores(mine, rows)
    assert scores.summary(Place("mass", "heavy", "random", "1"), "sim_only") is None
    assert scores.together(scores.places, "sim_only") is None  # one of its gaps is open
    study_report.write(mine, rows, tmp_path, "python")
    told = (tmp_path / "mine.md").read_text()
    assert "| heavy | 100 % | - | - |" in told and "| none | 100 % | 15 [15.0]<br>10 to 20 | - |" in told  # not bold


def test_a_row_is_counted_once_and_the_later_one_stands(mine):
    rows = [row(mine, real_return=1.0), row(mine, real_return=2.0)]
    assert Scores(mine, rows).summary(Place("mass", "none", "random", "1"), "sim_only").values == (2.0,)


# ------------------------------------------------------------------------------------------------------ figures


@pytest.mark.parametrize(
    ("task", "total", "score"),
    [
        ("halfcheetah", 4513.0, 38.6), ("halfcheetah", 7085.0, 59.3), ("halfcheetah", 72.0, 2.8),  # H2O's slides
        ("hopper", -20.272305, 0.0), ("hopper", 3234.3, 100.0), ("walker2d", 2296.964504, 50.0),
    ],
)  # fmt: skip
def test_normalised_scores_of_hand_numbers(task, total, score):
    assert normalised(total, D4RL[task]) == pytest.approx(score, abs=0.05)


def test_the_reference_is_the_users(mine):
    assert normalised(15.0, Reference(10.0, 20.0)) == 50.0
    assert interquartile_mean([1.0, 2.0, 3.0, 100.0]) == 2.5 and stratified_ci([[1.0], [3.0]]) == (2.0, 2.0)
    assert isinstance(mine.tasks["mass"], Task) and isinstance(mine.tasks["mass"].base, Experiment)
