"""The data room: rows keep their number through every layout, and no bad file gets past the door."""

import itertools
import os
import re
import time

import h5py
import numpy as np
import pytest

from hybrid_jax.datasets import checks, hdf5, opening, scores
from hybrid_jax.datasets.faults import DatasetError, Fault
from hybrid_jax.datasets.hdf5 import Dataset
from tests import bad_files
from tests.bad_files import ROWS, SPEC, columns, compact, numbered
from tests.bad_files_hdf5 import saved, write

COMMITTED = sorted((bad_files.ROOT / "data").glob("*.hdf5"))


def dataset(**changes) -> Dataset:
    return Dataset(**(columns() | changes))


def assert_rows(found: Dataset, ids, successors) -> None:
    """Every column of each row carries the row's number."""
    ids = np.asarray(ids)
    np.testing.assert_array_equal(found.observations, numbered(ids))
    np.testing.assert_array_equal(found.actions, np.stack([ids / 16, -ids / 16], axis=1))
    np.testing.assert_array_equal(found.rewards, ids)
    np.testing.assert_array_equal(found.next_observations, numbered(successors))
    types = [column.dtype for column in found[:6]]
    assert types == [np.float32] * 4 + [np.bool_] * 2


# Reading


SUCCESSORS = [1, 2, 3, 103, 5, 6, 7, 107, 9, 10, 11, 111]


@pytest.mark.parametrize("next_observations", [True, False])
@pytest.mark.parametrize("last", ["timeout", "open", "terminal"])
def test_what_is_saved_is_loaded(tmp_path, next_observations, last):
    terminals, timeouts = columns()["terminals"], columns()["timeouts"]
    timeouts[-1], terminals[-1] = last == "timeout", last == "terminal"
    wanted = dataset(terminals=terminals, timeouts=timeouts)
    hdf5.save(tmp_path / "a.hdf5", wanted, {"task": "test"}, next_observations=next_observations)
    found = hdf5.load(tmp_path / "a.hdf5", SPEC)
    assert_rows(found, range(ROWS), SUCCESSORS)
    np.testing.assert_array_equal(found.terminals, terminals)
    np.testing.assert_array_equal(found.timeouts, timeouts)
    assert found.notes == ()


def test_compact_file_holds_each_observation_once(tmp_path):
    hdf5.save(tmp_path / "a.hdf5", dataset(), {}, next_observations=False)
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert "next_observations" not in file
        np.testing.assert_array_equal(file["final_observations"][()], numbered([103, 107, 111]))


def test_compact_layout_refuses_successors_it_cannot_keep(tmp_path):
    following = columns()["next_observations"]
    following[5] += 1
    with pytest.raises(DatasetError, match="inside an episode, so next_observations must be written: 1 rows"):
        hdf5.save(tmp_path / "a.hdf5", dataset(next_observations=following), {}, next_observations=False)


def test_rows_without_successor_are_dropped_and_counted(tmp_path):
    arrays = columns()
    del arrays["next_observations"]
    arrays["timeouts"][-1] = False  # the file ends inside an episode
    found = hdf5.load(write(tmp_path / "a.hdf5", arrays), SPEC)
    ids = [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert_rows(found, ids, np.add(ids, 1))
    assert not found.terminals.any()
    # the row before a dropped end keeps the episodes apart; the open one stays open
    np.testing.assert_array_equal(np.flatnonzero(found.timeouts), [2, 5])
    (note,) = found.notes
    assert "dropped: 1 at terminals, 1 at timeouts, 1 at the end of the file;" in note
    assert "no terminal row is left" in note


@pytest.mark.parametrize(
    ("terminals", "timeouts", "kept", "ends", "dropped"),
    [
        ([3], [7, 11], [0, 1, 2, 4, 5, 6, 8, 9, 10], [2, 6, 10], "1 at terminals, 2 at timeouts"),
        ([11], [], [*range(11)], [10], "1 at terminals"),
        ([], [2, 3], [0, 1, 4, 5, 6, 7, 8, 9, 10], [1], "2 at timeouts, 1 at the end of the file"),
        ([], [0], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [], "1 at timeouts, 1 at the end of the file"),
    ],
)
def test_dropped_rows_are_told_by_how_their_episode_ends(tmp_path, terminals, timeouts, kept, ends, dropped):
    arrays, ids = columns(), np.arange(ROWS)
    del arrays["next_observations"]
    arrays |= {"terminals": np.isin(ids, terminals), "timeouts": np.isin(ids, timeouts)}
    found = hdf5.load(write(tmp_path / "a.hdf5", arrays))
    assert_rows(found, kept, np.add(kept, 1))
    np.testing.assert_array_equal(found.rewards[found.timeouts], ends)
    (note,) = [note for note in found.notes if note.startswith("next_observations")]
    assert note.partition("dropped: ")[2].partition(";")[0] == dropped


def test_a_reading_loses_nothing_when_it_is_saved_again(tmp_path):
    arrays = columns()
    del arrays["next_observations"]
    first = hdf5.load(write(tmp_path / "a.hdf5", arrays))
    hdf5.save(tmp_path / "b.hdf5", first, {}, next_observations=False)
    for column, kept in zip(hdf5.load(tmp_path / "b.hdf5")[:6], first[:6], strict=True):
        np.testing.assert_array_equal(column, kept)


def test_timeouts_are_inferred_where_the_successor_differs(tmp_path):
    arrays = columns()
    wanted = arrays.pop("timeouts")
    wanted[-1] = False  # nothing follows the last row, so nothing tells how it ended
    found = hdf5.load(write(tmp_path / "a.hdf5", arrays), SPEC)
    np.testing.assert_array_equal(found.timeouts, wanted)
    np.testing.assert_array_equal(found.terminals, columns()["terminals"])
    (note,) = found.notes
    assert note.startswith("timeouts: 1 of 12 rows are taken as timeouts")


def test_a_file_without_timeouts_and_successors_says_what_cannot_be_seen(tmp_path):
    arrays = columns()
    del arrays["next_observations"], arrays["timeouts"]
    found = hdf5.load(write(tmp_path / "a.hdf5", arrays))
    ids = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert_rows(found, ids, np.add(ids, 1))
    assert any("a time limit cannot be seen" in note for note in found.notes)


def test_only_terminals_end_the_value(tmp_path):
    rows = hdf5.transitions(dataset())
    np.testing.assert_array_equal(rows.discount, [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    assert rows.discount.dtype == np.float32
    np.testing.assert_array_equal(rows.obs, numbered(range(ROWS)))
    np.testing.assert_array_equal(rows.next_obs, numbered(SUCCESSORS))
    np.testing.assert_array_equal(rows.reward, range(ROWS))
    np.testing.assert_array_equal(rows.action, columns()["actions"])


@pytest.mark.skipif(not COMMITTED, reason="no data sets here")
@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_our_data_sets_load(path):
    found = hdf5.load(path)
    assert len(found.rewards) > 1000
    assert np.isfinite(scores.behaviour_return(found))


# Refusing


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_the_right_to_read_is_refused(tmp_path):
    path = write(tmp_path / "a.hdf5", columns())
    path.chmod(0)
    with pytest.raises(DatasetError, match=f"{re.escape(str(path))}: file: cannot be opened"):
        hdf5.load(path)


def test_the_target_of_a_link_is_never_opened(tmp_path):
    """A pipe would block whoever opens it."""
    os.mkfifo(tmp_path / "pipe")
    arrays = columns()
    del arrays["actions"]
    with h5py.File(write(tmp_path / "a.hdf5", arrays), "a") as file:
        file["actions"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/x")
    with pytest.raises(DatasetError, match="actions: is a link to another place"):
        hdf5.load(tmp_path / "a.hdf5")


def test_all_faults_are_told_at_once_one_a_line(tmp_path):
    arrays = columns()
    del arrays["rewards"]
    arrays["actions"][7, 0] = 1.5
    arrays["observations"][[2, 5], 1] = np.nan
    path = write(tmp_path / "a.hdf5", arrays)
    with pytest.raises(DatasetError) as caught:
        hdf5.load(path, SPEC)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 3 faults"
    assert {line.split(":")[0].strip() for line in lines[1:]} == {"rewards", "actions", "observations"}
    by_key = {fault.key: fault for fault in caught.value.faults}
    assert (by_key["observations"].row, by_key["observations"].count) == (2, 2)


def test_flipped_bits_are_refused_or_change_nothing(tmp_path):
    """A seeded sample of every bit of a file that we wrote."""
    path = saved(tmp_path / "a.hdf5")
    good, wanted = path.read_bytes(), hdf5.load(path, SPEC)
    refused = 0
    for place in np.random.default_rng(0).integers(0, 8 * len(good), 150):
        path.write_bytes(good)
        try:
            found = hdf5.load(bad_files.flipped(path, place // 8, place % 8), SPEC)
        except DatasetError:
            refused += 1
        else:
            for column, kept in zip(found[:6], wanted[:6], strict=True):
                np.testing.assert_array_equal(column, kept)
    assert refused > 0


def test_available_memory_bounds_what_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.hdf5", columns())
    monkeypatch.setattr(opening, "free_memory", lambda: 1000)
    with pytest.raises(DatasetError, match="bytes of memory, 1,000 are free"):
        hdf5.load(path)


# Warnings


def check(**changes) -> dict[str, Fault]:
    report = checks.check(columns() | changes, SPEC)
    assert report.errors == ()
    return {fault.key: fault for fault in report.warnings}


def test_good_rows_raise_no_warning():
    assert check() == {}


def test_wrong_successors_inside_episodes_are_told():
    following = columns()["next_observations"]
    following[[5, 8], 0] += 1
    fault = check(next_observations=following)["next_observations"]
    assert (fault.row, fault.count) == (5, 2)


def test_up_to_one_percent_of_wrong_successors_is_silent():
    ids = np.arange(201)
    arrays = {
        "observations": numbered(ids),
        "actions": np.stack([ids / 256, -ids / 256], axis=1),
        "rewards": ids,
        "next_observations": numbered(ids + 1),
        "terminals": ids == 200,
        "timeouts": ids < 0,
    }
    spec = SPEC._replace(episode_length=201)
    arrays["next_observations"][[10, 20]] += 1  # 2 of 200
    assert checks.check(arrays, spec).warnings == ()
    arrays["next_observations"][30] += 1
    (fault,) = checks.check(arrays, spec).warnings
    assert (fault.key, fault.row, fault.count) == ("next_observations", 10, 3)


def test_long_episodes_are_told():
    timeouts = columns()["timeouts"]
    timeouts[7] = False
    following = columns()["next_observations"]
    following[7] = numbered([8])
    fault = check(timeouts=timeouts, next_observations=following)["episodes"]
    assert (fault.row, fault.count) == (4, 1)
    assert "longest 8" in fault.sentence


def test_no_end_at_all_is_told():
    none = np.zeros(ROWS, bool)
    found = check(terminals=none, timeouts=none)
    assert "no row ends an episode" in found["terminals"].sentence


def test_repeated_rows_and_constant_columns_are_told():
    arrays = columns()
    for key in ("observations", "actions", "rewards"):
        arrays[key][[9, 10]] = arrays[key][1]
    arrays["next_observations"][8:10] = arrays["observations"][9:11]
    fault = check(**arrays)["observations"]
    assert (fault.row, fault.count) == (9, 2)
    actions = columns()["actions"]
    actions[:, 1] = 0.5
    fault = check(actions=actions)["actions"]
    assert (fault.count, fault.sentence) == (1, "1 columns never change: 1")


def test_repeats_are_those_that_numpy_finds():
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.integers(0, 3, (500, 3)).astype(np.float32),
        "actions": rng.integers(-1, 2, (500, 2)).astype(np.float32) * np.float32(-0.0),  # 0 and -0 are one value
        "rewards": rng.integers(0, 4, 500),
        "terminals": np.arange(500) == 499,
    }
    distinct = np.unique(np.column_stack([arrays["observations"], arrays["rewards"]]), axis=0)
    (fault,) = [fault for fault in checks.check(arrays).warnings if "repeat" in fault.sentence]
    assert fault.count == 500 - len(distinct) > 0


def test_foreign_names_are_told(tmp_path):
    found = hdf5.load(write(tmp_path / "a.hdf5", columns() | {"velocity": np.zeros(3)}), SPEC)
    assert found.notes == ("file: ignored what is not of the layout: velocity",)


def test_action_bounds_have_a_tolerance_and_nothing_is_clipped(tmp_path):
    actions = columns()["actions"]
    actions[4, 0] = 1 + 5e-7
    found = hdf5.load(write(tmp_path / "a.hdf5", columns() | {"actions": actions}), SPEC)
    np.testing.assert_array_equal(found.actions, actions)


# Several faults at once


def _nan_reward(arrays):
    arrays["rewards"][2] = np.nan


def _loud_action(arrays):
    arrays["actions"][7, 0] = 1.5


def _infinite_action(arrays):
    arrays["actions"][10, 0] = -np.inf


def _nan_observation(arrays):
    arrays["observations"][6, 1] = np.nan  # and no wrong successor in row 5


def _wrong_successors(arrays):
    arrays["next_observations"][[0, 4], 0] += 1


def _both_flags(arrays):
    arrays["timeouts"][3] = True


def _final_observations(arrays):
    arrays["final_observations"] = numbered(range(5))


def _constant_action(arrays):
    arrays["actions"][:, 1] = 0.5


def _repeated_row(arrays):
    for key in ("observations", "actions", "rewards"):
        arrays[key][9] = arrays[key][1]
    arrays["next_observations"][8] = arrays["observations"][9]


ALONE = {  # what is told of each: errors (!) and warnings, with their key, first row and count
    _nan_reward: {("!", "rewards", 2, 1)},
    _loud_action: {("!", "actions", 7, 1)},
    _infinite_action: {("!", "actions", 10, 1)},
    _nan_observation: {("!", "observations", 6, 1)},
    _wrong_successors: {("", "next_observations", 0, 2)},
    _both_flags: {("!", "timeouts", 3, 1)},
    _final_observations: {("!", "final_observations", None, 1), ("!", "final_observations", 3, 2)},
    _constant_action: {("", "actions", None, 1)},
    _repeated_row: {("", "observations", 9, 1)},
}


def told(arrays, **reader) -> list[tuple]:
    report = checks.check(arrays, SPEC, **reader)
    marks = [("!", report.errors), ("", report.warnings)]
    return sorted(((mark, *fault[:3]) for mark, faults in marks for fault in faults), key=str)


@pytest.mark.parametrize(
    "faults", [*itertools.combinations(ALONE, 1), *itertools.combinations(ALONE, 2), tuple(ALONE)], ids=len
)
def test_faults_together_are_told_as_each_alone(faults):
    arrays = columns()
    for fault in faults:
        fault(arrays)
    assert told(arrays) == sorted(set().union(*(ALONE[fault] for fault in faults)), key=str)


def test_a_fault_hides_no_other_of_its_own_column():
    arrays = compact()
    arrays["final_observations"] = numbered([1, 2, 3, 4])[:, :2]  # too narrow, too many, and no number
    arrays["final_observations"][1] = np.nan
    _loud_action(arrays)
    _infinite_action(arrays)
    _constant_action(arrays)
    final = [("!", "final_observations", row, 1) for row in (None, 1, 3)]
    actions = [("!", "actions", 7, 1), ("!", "actions", 10, 1), ("", "actions", None, 1)]
    assert told(arrays) == sorted([*final, *actions], key=str)
    assert "largest magnitude 1.5)" in checks.check(arrays).errors[-2].sentence


def test_a_short_column_is_left_out_of_what_is_told_of_the_others():
    arrays = columns()
    _wrong_successors(arrays)
    _repeated_row(arrays)
    arrays["timeouts"][7], arrays["next_observations"][7] = False, numbered([8])[0]
    arrays["rewards"] = arrays["rewards"][:-1]  # so no row can be called a repeated one
    rest = [("", "episodes", 4, 1), ("", "next_observations", 0, 2)]
    assert told(arrays) == sorted([("!", "rewards", 11, 1), *rest], key=str)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"terminals": np.where(np.arange(ROWS) == 2, 0.5, 0)}, ("!", "terminals", 2, 1)),
        ({"timeouts": np.full(ROWS, 7)}, ("!", "timeouts", 0, ROWS)),
        ({"timeouts": np.zeros(ROWS - 1)}, ("!", "timeouts", 11, 1)),
        ({"timeouts": np.zeros((ROWS, 1))}, ("!", "timeouts", None, 1)),
        ({"terminals": None}, ("!", "terminals", None, 1)),
        ({"timeouts": None}, ("!", "final_observations", None, 1)),
    ],
)
def test_where_flags_are_none_nothing_is_told_of_episodes(change, fault):
    """They would be too long, end nowhere or not be as many as the last observations: the flags' fault again."""
    arrays = {key: array for key, array in (compact() | change).items() if array is not None}
    arrays["final_observations"] = numbered([1, 2])
    _nan_reward(arrays)
    assert told(arrays) == sorted([fault, ("!", "rewards", 2, 1)], key=str)


def test_what_is_wrong_with_all_of_a_column_is_told_once():
    arrays = columns()
    arrays["rewards"][:] = np.inf  # and they never change
    arrays["next_observations"] = arrays["next_observations"][:, :1]  # and no row of them is the next observation
    assert told(arrays) == [("!", "next_observations", None, 1), ("!", "rewards", 0, ROWS)]


def test_no_end_is_inferred_from_an_observation_that_is_no_number():
    arrays = columns()
    del arrays["timeouts"]
    arrays["observations"][[4, 6], 1] = np.nan  # row 4 begins an episode, row 6 does not
    assert told(arrays) == [("!", "observations", 4, 2)]


def test_what_a_reader_could_not_use_is_not_missing():
    arrays = columns()
    del arrays["timeouts"], arrays["next_observations"]
    # a time limit that cannot be seen leaves two episodes of four rows together
    assert told(arrays) == [("", "episodes", 4, 1), ("", "timeouts", None, 1)]
    link = Fault("timeouts", None, 1, "is a link")
    assert told(arrays, known=[link]) == [("!", "timeouts", None, 1)]
    assert told({}) == [("!", key, None, 1) for key in ("actions", "observations", "rewards", "terminals")]


def test_minaris_flags_that_are_none_tell_nothing_of_episodes():
    arrays = columns()
    arrays["timeouts"][:] = False
    known = [Fault("truncations", 7, 2, "are neither 0 nor 1")]
    assert told(arrays, known=known) == [("!", "truncations", 7, 2)]


def test_the_report_of_many_rows_takes_less_than_a_second():
    rng, rows = np.random.default_rng(0), 200_000
    walk = rng.normal(size=(rows + 1, 17)).astype(np.float32)
    arrays = {"observations": walk[:-1], "next_observations": walk[1:], "terminals": np.zeros(rows, bool)}
    arrays |= {"actions": np.tanh(walk[:-1, :6]), "rewards": walk[:-1, 0] + 1, "timeouts": np.arange(rows) % 4 == 3}
    _nan_reward(arrays)
    walk[5] = np.inf
    took = []
    for _ in range(3):
        start = time.process_time()
        report = checks.check(arrays)
        took.append(time.process_time() - start)
    assert {fault.key for fault in report.errors} == {"rewards", "observations", "next_observations"}
    assert min(took) < 1


# Writing


@pytest.mark.parametrize("bits", [1, 7, 10, 22, 23])
def test_rounding_error_stays_within_its_bound(bits):
    rng = np.random.default_rng(bits)
    values = (rng.normal(size=20_000) * 10.0 ** rng.integers(-30, 30, 20_000)).astype(np.float32)
    found = hdf5.rounded(values, bits)
    error = np.abs(found.astype(np.float64) - values) / np.abs(values.astype(np.float64))
    assert error.max() <= 2.0 ** -(bits + 1)
    assert bits == 23 or error.max() > 0.75 * 2.0 ** -(bits + 1)  # the bound is the true one
    assert not (found.view(np.uint32) & np.uint32((1 << (23 - bits)) - 1)).any()
    np.testing.assert_array_equal(hdf5.rounded(found, bits), found)


def test_rounding_goes_to_nearest_with_ties_to_even():
    # two bits of mantissa around 1: 1, 1.25, 1.5, 1.75, 2
    values = np.array([1.124, 1.125, 1.126, 1.375, -1.375, 1.875, 1.9, 0.0, np.inf, np.finfo("f4").max], np.float32)
    wanted = np.array([1.0, 1.0, 1.25, 1.5, -1.5, 2.0, 2.0, 0.0, np.inf, np.finfo("f4").max], np.float32)
    np.testing.assert_array_equal(hdf5.rounded(values, 2), wanted)


def test_rounded_files_keep_episodes_joined_and_actions_in_bounds(tmp_path):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(ROWS + 1, 3)).astype(np.float32)
    actions = np.nextafter(np.float32(1), np.float32(0)) * np.where(rng.random((ROWS, 2)) < 0.5, -1, 1)
    actions[0] = 0.3
    wanted = dataset(
        observations=states[:-1],
        next_observations=states[1:],
        actions=actions.astype(np.float32),
        terminals=np.arange(ROWS) < 0,
        timeouts=np.arange(ROWS) == ROWS - 1,
    )
    for compactly in (False, True):
        path = tmp_path / f"{compactly}.hdf5"
        hdf5.save(path, wanted, {}, mantissa_bits=8, next_observations=not compactly)
        found = hdf5.load(path)
        np.testing.assert_array_equal(found.next_observations[:-1], found.observations[1:])
        np.testing.assert_allclose(found.observations, wanted.observations, rtol=2.0**-9)
        np.testing.assert_allclose(found.next_observations, wanted.next_observations, rtol=2.0**-9)
        assert not np.array_equal(found.observations, wanted.observations)
        assert np.abs(found.actions).max() == 1
        with h5py.File(path) as file:
            assert file.attrs["relative_rounding_error"] == 2.0**-9


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        hdf5.save(tmp_path / name, dataset(), {"task": "test", "seed": 3}, mantissa_bits=11)
        time.sleep(1.1 if name == "a" else 0)  # HDF5 writes times in seconds
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_attributes_are_strings_and_numbers(tmp_path):
    hdf5.save(tmp_path / "a.hdf5", dataset(), {"task": "wheel, µ", "seed": 3, "behaviour_return": 1.5, "none": ""})
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert file.attrs["task"].decode() == "wheel, µ"
        assert (file.attrs["seed"], file.attrs["behaviour_return"], file.attrs["none"]) == (3, 1.5, b"")
    for value in ([1], None, {"a": 1}, b"x", "x" * 40_000):
        with pytest.raises(DatasetError, match="attribute odd: is"):
            hdf5.save(tmp_path / "b.hdf5", dataset(), {"odd": value})
    assert not (tmp_path / "b.hdf5").exists()


def test_columns_carry_checksums(tmp_path):
    hdf5.save(tmp_path / "a.hdf5", dataset(), {})
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert all(column.fletcher32 and column.shuffle and column.compression == "gzip" for column in file.values())


def test_nothing_is_overwritten_unless_told(tmp_path):
    path = tmp_path / "a.hdf5"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=re.escape(str(path))):
        hdf5.save(path, dataset(), {})
    assert path.read_text() == "precious"
    hdf5.save(path, dataset(), {}, overwrite=True)
    assert_rows(hdf5.load(path), range(ROWS), SUCCESSORS)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.hdf5"
    path.write_text("precious")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(hdf5.os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        hdf5.save(path, dataset(), {}, overwrite=True)
    assert path.read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir()] == ["a.hdf5"]


@pytest.mark.parametrize("bits", [0, 24])
def test_mantissa_bits_out_of_range_are_refused(tmp_path, bits):
    with pytest.raises(ValueError, match=f"mantissa_bits is {bits}"):
        hdf5.save(tmp_path / "a.hdf5", dataset(), {}, mantissa_bits=bits)


def test_bad_rows_are_not_written(tmp_path):
    rewards = columns()["rewards"]
    rewards[4] = np.nan
    with pytest.raises(DatasetError, match="rewards: 1 of 12 rows hold NaN"):
        hdf5.save(tmp_path / "a.hdf5", dataset(rewards=rewards), {})
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_the_usual_size_is_small(tmp_path):
    """150,000 rows of 17 observations and 6 actions within 10 MB; a fifth of them within a fifth."""
    rng, rows = np.random.default_rng(0), 30_000
    walk = 3 * np.sin(np.cumsum(0.1 * rng.normal(size=(rows + 1, 17)), axis=0)).astype(np.float32)
    actions = np.tanh(rng.normal(size=(rows, 6))).astype(np.float32)
    flags = np.zeros(rows, bool), np.arange(rows) % 1000 == 999
    wanted = Dataset(walk[:-1], actions, walk[:-1].sum(axis=1), walk[1:], *flags)
    hdf5.save(tmp_path / "a.hdf5", wanted, {}, mantissa_bits=11, next_observations=False)
    assert (tmp_path / "a.hdf5").stat().st_size < 2_000_000
    found = hdf5.load(tmp_path / "a.hdf5")
    for column, exact in zip(found[:4], wanted[:4], strict=True):
        assert np.all(np.abs(column - exact) <= 2**-12 * np.abs(exact))


# Scores


def test_returns_are_those_of_complete_episodes():
    timeouts = columns()["timeouts"]
    timeouts[-1] = False
    # 0+1+2+3 and 4+5+6+7; 8 to 11 are of an episode that was cut
    np.testing.assert_allclose(scores.episode_returns(dataset(timeouts=timeouts)), [6, 22])
    assert scores.behaviour_return(dataset(timeouts=timeouts)) == 14.0


def test_returns_leave_out_what_was_cut():
    ids = np.arange(ROWS)
    # a fall after two steps, the clock's full four, a cut after three, another after two, one row open
    logged = dataset(terminals=ids == 1, timeouts=np.isin(ids, [5, 8, 10]))
    np.testing.assert_array_equal(scores.episode_returns(logged), [0 + 1, 2 + 3 + 4 + 5, 6 + 7 + 8, 9 + 10])
    np.testing.assert_array_equal(scores.episode_returns(logged, 4), [1, 14])
    assert (scores.behaviour_return(logged), scores.behaviour_return(logged, 4)) == (13.75, 7.5)
    np.testing.assert_array_equal(scores.episode_returns(logged, 3), [1, 14, 21])
    np.testing.assert_array_equal(scores.episode_returns(logged, 5), [1])
    fours = dataset(terminals=ids < 0, timeouts=ids % 4 == 3)
    np.testing.assert_array_equal(scores.episode_returns(fours, 4), [6, 22, 38])


def test_behaviour_return_needs_a_complete_episode():
    none, ids = np.zeros(ROWS, bool), np.arange(ROWS)
    with pytest.raises(ValueError, match="none of the 12 rows ends an episode"):
        scores.behaviour_return(dataset(terminals=none, timeouts=none), 4)
    cut = dataset(terminals=none, timeouts=np.isin(ids, [2, 5, 8]))
    said = "none of the 3 episodes in 12 rows is whole, each was cut before its 4 steps; record at least one to its end"
    with pytest.raises(ValueError, match=said):
        scores.behaviour_return(cut, 4)
    assert scores.behaviour_return(cut) == 12.0


def test_episodes_whose_last_rows_were_dropped_are_no_cut_ones(tmp_path):
    """Nothing tells a fall from a time limit there, and each lacks a row: all of them count."""
    arrays = columns()
    del arrays["next_observations"]
    found = hdf5.load(write(tmp_path / "a.hdf5", arrays), SPEC)
    np.testing.assert_array_equal(
        scores.episode_returns(found, SPEC.episode_length), [0 + 1 + 2, 4 + 5 + 6, 8 + 9 + 10]
    )
