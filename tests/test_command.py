"""`hybrid-jax`: journals checked and exported, against rows that carry their number."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from envs import point_mass
from hybrid_jax import command
from hybrid_jax.datasets import hdf5
from hybrid_jax.real import segments
from hybrid_jax.real.journal import Journal
from hybrid_jax.real.record import Fault, Flag
from tests import bad_files_npz
from tests.bad_files import ROOT, columns
from tests.test_journal import SCHEMA, step


@pytest.fixture
def journal(tmp_path):
    """Episode 0 ends by itself, 1 is cut by a fault, 2 loses a step to a gap, 3 ends by the clock, 4 stays open."""
    folder = tmp_path / "journal"
    changes = {4: {"flags": Flag.TERMINATED}, 12: {"flags": Flag.GAP | Flag.LATE}, 19: {"flags": Flag.TRUNCATED}}
    with Journal(folder, SCHEMA, segment_bytes=2000) as journal:
        for n in range(23):
            small = {"asked": np.float32([0.5, 0.5]), "sent": np.float32([n / 100, -n / 100])}
            row = replace(step(n), **small, **changes.get(n, {}))
            journal.append(Fault(n, 1, 4, "a motor failed", Flag.TRUNCATED) if n == 9 else row)
    return folder


def test_an_export_holds_the_steps_as_they_were_executed(journal, tmp_path, capsys):
    file = tmp_path / "log.hdf5"
    assert command.main(["journal", "export", str(journal), str(file)]) == 0
    data = hdf5.load(file)
    kept = [n for n in range(23) if n not in (9, 12)]
    np.testing.assert_array_equal(data.observations[:, 0] // 10, kept)
    np.testing.assert_allclose(data.actions[:, 0], np.array(kept) / 100, atol=1e-6)
    np.testing.assert_array_equal(data.next_observations[:, 0] - data.observations[:, 0], 6)
    assert [kept[i] for i in np.flatnonzero(data.terminals)] == [4]
    # 8: a fault came next; 11: the step behind it is skipped; 14: episode 2 ends in nothing; 19: the clock; 22: the end
    assert [kept[i] for i in np.flatnonzero(data.timeouts)] == [8, 11, 14, 19, 22]
    assert "21 rows, 6 episodes" in capsys.readouterr().out
    assert command.main(["journal", "export", str(journal), str(file)]) == 2  # nothing is written over
    assert "exists" in capsys.readouterr().err


def test_a_check_says_what_is_there(journal, capsys):
    assert command.main(["journal", "check", str(journal)]) == 0
    said = capsys.readouterr().out
    assert "robots:arm, 3 observations, 2 actions, 50 Hz" in said
    assert "23: 22 steps, 1 faults" in said and "1 terminated" in said and "1 gap" in said
    assert "a motor failed" in said and said.count("whole") == len(segments.segments(journal)) > 1


def test_a_check_finds_damage(journal, capsys):
    path = segments.segments(journal)[-1]
    path.write_bytes(path.read_bytes()[:-3])
    assert command.main(["journal", "check", str(journal)]) == 1
    assert "DAMAGED at byte" in capsys.readouterr().out
    path.write_bytes(b"")
    segments.segments(journal)[0].write_bytes(b"nonsense")
    assert command.main(["journal", "check", str(journal)]) == 1
    assert "its head is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--help"], 0, "journal check FOLDER"),
        (["check-real", "a:b", "one"], 2, "could not convert"),
        (["check-real", "a:b", "1"], 2, "give at least 2"),
        (["journal"], 2, "journal check FOLDER"),
        (["check-data"], 2, "check-data FILE"),
        (["check-data", "a", "--task"], 2, "check-data FILE"),
        (["check-data", "a", "--task", "nowhere.at_all"], 2, "--task nowhere.at_all: No module named 'nowhere'"),
        (["check-data", "a", "--task", "json"], 2, "--task json: the module has no SPEC"),
        (["journal", "check", "nowhere"], 2, "nowhere holds no journal"),
    ],
)
def test_mistakes_get_one_answer(capsys, words, code, said):
    assert command.main(words) == code
    assert said in capsys.readouterr().err


def test_check_data_tells_what_a_good_file_holds(tmp_path, capsys):
    """Twelve rows in three episodes: rewards 0 to 11, actions n/16 and -n/16; four of the numbers beyond 0.99 here."""
    arrays = columns()
    arrays["actions"][8:, 0] = [1, -1, 0.99, 0.989]
    path = bad_files_npz.write(tmp_path / "a.npz", arrays | {"velocity": np.zeros(3)})
    before = path.read_bytes()
    assert command.main(["check-data", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{path}: good",
        "warning     file: ignored what is not of the layout: velocity.npy",
        "rows        12 of 3 observations, 2 actions",
        "episodes    3: 1 ended by the task, 2 by the clock",
        "lengths     4.0 mean, 4 to 4",
        "return      22.0 mean, 6.0 to 38.0",
        "saturated   12.5 % of the actions at 0.99 of a bound or beyond; by action: 25.0, 0.0",
    ]
    assert path.read_bytes() == before


def test_check_data_tells_all_faults_and_warnings_in_one_report(tmp_path, capsys):
    arrays = columns()
    arrays["observations"][[2, 5], 1], arrays["actions"][7, 0] = np.nan, 1.5
    arrays["rewards"][:] = 3.0
    del arrays["terminals"]
    path = bad_files_npz.write(tmp_path / "a.npz", arrays | {"velocity": np.zeros(3)})
    assert command.main(["check-data", str(path)]) == 1
    title, head, *lines = capsys.readouterr().out.splitlines()
    assert title == f"{path}: bad, 3 faults"
    assert head.split() == ["key", "first", "row", "how", "many"]
    told = [line.split(maxsplit=4) for line in lines]
    assert [line[:2] for line in told] == [
        ["fault", "terminals"],
        ["fault", "observations"],
        ["fault", "actions"],
        ["warning", "file"],
        ["warning", "rewards"],
    ]
    assert told[1][2:4] == ["2", "2"] and told[2][2:4] == ["7", "1"]
    assert "columns never change: 0" in lines[-1]


def test_check_data_tells_of_open_and_of_no_episodes(tmp_path, capsys):
    arrays = columns()
    arrays["timeouts"][[7, 11]] = False
    arrays["next_observations"][7] = arrays["observations"][8]
    assert command.main(["check-data", str(bad_files_npz.write(tmp_path / "a", arrays))]) == 0
    said = capsys.readouterr().out
    assert "episodes    1: 1 ended by the task, 0 by the clock; 8 rows of one that is open" in said
    assert "return      6.0 mean, 6.0 to 6.0" in said
    arrays["terminals"][:] = False
    arrays["next_observations"][3] = arrays["observations"][4]
    assert command.main(["check-data", str(bad_files_npz.write(tmp_path / "b", arrays))]) == 0
    said = capsys.readouterr().out
    assert "no row ends an episode" in said and "return " not in said
    assert "episodes    0: 0 ended by the task, 0 by the clock; 12 rows of one that is open" in said


def test_check_data_tells_what_the_whole_episodes_earned(tmp_path, capsys):
    """The task's episodes have 100 steps: a fall after 30, 100 to the clock, 50 cut by whoever recorded."""
    ids, ends = np.arange(180), np.array([29, 129, 179])
    arrays = {"observations": np.stack([ids, -ids], axis=1), "actions": ids[:, None] / 200, "rewards": np.ones(180)}
    arrays["next_observations"] = arrays["observations"] + [1, -1]
    arrays |= {"terminals": ids == 29, "timeouts": np.isin(ids, ends[1:])}
    words = ["--task", "envs.point_mass"]
    assert command.main(["check-data", str(bad_files_npz.write(tmp_path / "a", arrays)), *words]) == 0
    said = capsys.readouterr().out
    assert "episodes    3: 1 ended by the task, 1 by the clock, 1 cut before it\n" in said
    assert "return      65.0 mean, 30.0 to 100.0, of the 2 whole episodes\n" in said
    arrays |= {"terminals": ids < 0, "timeouts": np.isin(ids, [59, 119, 179]), "rewards": ids}
    assert command.main(["check-data", str(bad_files_npz.write(tmp_path / "b", arrays)), *words]) == 0
    said = capsys.readouterr().out
    assert "episodes    3: 0 ended by the task, 0 by the clock, 3 cut before it\n" in said
    assert "return      none, for no episode is whole\n" in said


@pytest.mark.parametrize("order", [0, 1])
def test_check_data_compares_with_a_task(tmp_path, capsys, order):
    path = bad_files_npz.plain(tmp_path / "a")
    words = ["--task", "envs.point_mass"]
    assert command.main(["check-data", *([str(path), *words] if order else [*words, str(path)])]) == 1
    said = capsys.readouterr().out
    assert "are 3 wide, the environment has 2" in said and "are 2 wide, the environment has 1" in said


@pytest.mark.parametrize("name", [str(ROOT / "README.md"), "nowhere", str(ROOT / "tests")])
def test_check_data_refuses_what_is_no_data_set(capsys, name):
    assert command.main(["check-data", name]) == 1
    said = capsys.readouterr().out
    assert said.startswith(f"{name}: bad, 1 fault\n") and len(said.splitlines()) == 3


def test_a_journal_without_steps_cannot_be_exported(tmp_path, capsys):
    with Journal(tmp_path / "j", SCHEMA) as journal:
        journal.append(Fault(0, 0, 0, "never began"))
    assert command.main(["journal", "export", str(tmp_path / "j"), str(tmp_path / "x.hdf5")]) == 2
    assert "holds no step" in capsys.readouterr().err


def test_check_real_tells_what_a_robot_does(capsys):
    assert command.main(["check-real", "envs.point_mass:make_real", "60", "200"]) in (0, 1)  # late steps are told
    said = capsys.readouterr().out
    assert "60 steps with zero actions, 60 with random ones" in said and "120 steps in 2 episodes" in said
    rate = float(said.split(" steps a second")[0].split()[-1])
    assert 100 < rate < 210
    assert "observation 1: " in said and "never changes" not in said


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("tests.test_command:blind", "! observation 0: 0 to 0, never changes"),
        ("tests.test_command:lame", "! the robot stopped: RuntimeError: no leg"),
        ("tests.test_command:wild", "GateError: Wild declares no max_action_step"),
        ("envs.nowhere:make", "No module named 'envs.nowhere'"),
    ],
)
def test_check_real_asks_for_attention(capsys, factory, said):
    assert command.main(["check-real", factory, "5"]) == 1
    assert said in capsys.readouterr().out


class Blind(point_mass.RealPointMass):
    """Its first sensor is not connected."""

    def step(self, action):
        obs, *rest = super().step(action)
        return obs * [0.0, 1.0], *rest


class Lame(point_mass.RealPointMass):
    def step(self, action):
        raise RuntimeError("no leg")


class Wild(gymnasium.Wrapper):
    """Declares no largest step: gymnasium's wrappers pass on spaces alone."""


def blind() -> Blind:
    return Blind()


def lame() -> Lame:
    return Lame()


def wild() -> Wild:
    return Wild(point_mass.make_real())
