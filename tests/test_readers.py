"""The readers of all formats: every good file gives the same rows, no bad one gets past, no code of theirs runs."""

import codecs
import contextlib
import os
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from hybrid_jax.datasets import hdf5, minari, npz, opening
from hybrid_jax.datasets.faults import DatasetError
from hybrid_jax.datasets.load import load
from tests import bad_files_hdf5, bad_files_minari, bad_files_npz
from tests.bad_files import ROWS, SPEC, columns, flipped, numbered
from tests.bad_files_npz import MARK
from tests.test_datasets import SUCCESSORS, assert_rows

READERS = {
    "hdf5": (hdf5.load, bad_files_hdf5),
    "npz": (npz.load, bad_files_npz),
    "minari": (minari.load, bad_files_minari),
}
BAD = [(reader, bad) for reader, (_, files) in READERS.items() for bad in files.BAD_FILES]
GOOD = [(reader, name) for reader, (_, files) in READERS.items() for name in files.GOOD_FILES]
ROOM = 256 * 2**20  # [bytes] that a bad file may take beside its own size
SECOND = 1.0


@contextlib.contextmanager
def little_memory(size: int) -> Iterator[None]:
    """Where Linux tells: what runs inside takes no more than ROOM beside `size`."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _kilobytes("VmRSS")
    except OSError:
        before = None
    yield
    if before is not None:
        assert 1024 * (_kilobytes("VmHWM") - before) <= ROOM + size


def _kilobytes(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])


WATCHED = {
    *("pickle.find_class", "exec", "compile", "import", "open", "ctypes.dlopen", "socket.connect", "subprocess.Popen"),
    *("os.system", "os.exec", "os.posix_spawn", "os.putenv", "os.mkdir", "os.remove", "os.rename"),
}


@pytest.fixture(scope="module")
def watch(tmp_path_factory) -> Callable:
    """A context that lists what Python does inside it: (event, first argument)."""
    seen: list[tuple[str, str]] = []
    armed: list[bool] = []

    def hook(event, arguments):
        if armed and event in WATCHED:
            seen.append((event, str(arguments[0])))

    @contextlib.contextmanager
    def watching():
        seen.clear()
        armed.append(True)
        try:
            yield seen
        finally:
            armed.clear()

    sys.addaudithook(hook)  # for good, but deaf outside of the context
    codecs.lookup("ascii")  # what is imported late comes now
    for reader, (_, files) in READERS.items():
        load(files.plain(tmp_path_factory.mktemp("warm") / reader))
        with pytest.raises(DatasetError):
            load(files.BAD_FILES[0].make(tmp_path_factory.mktemp("warm") / reader))
    return watching


def honest(seen: list[tuple[str, str]], folder: Path) -> None:
    """Nothing ran, and nothing was opened but the file and its neighbours that belong to it."""
    ran = [event for event, _ in seen if event != "open"]
    assert not ran, ran
    opened = {name for _, name in seen} - {"/proc/meminfo"}
    assert all(name.startswith(str(folder)) for name in opened), opened
    assert not any(name.endswith(("other.hdf5", "raw.bin")) for name in opened)
    assert not os.path.exists(MARK)


def refused(read: Callable, path: Path, watch: Callable, folder: Path) -> DatasetError:
    """The error of a reader that says no: in little memory, at once (best of three) and without running anything."""
    for _ in range(3):
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        start = time.perf_counter()
        with little_memory(size), watch() as seen, pytest.raises(DatasetError) as caught:
            read(path, SPEC)
        took = time.perf_counter() - start
        honest(seen, folder)
        if took < SECOND:
            assert str(caught.value).startswith(f"{path}: ")
            return caught.value
    raise AssertionError(f"{path} took longer than {SECOND} s, three times")


# Refusing


def test_there_are_many_bad_files_and_each_has_its_name():
    assert len({(reader, bad.name) for reader, bad in BAD}) == len(BAD) >= 300
    assert len(GOOD) >= 20


@pytest.mark.parametrize(("reader", "bad"), BAD, ids=lambda value: getattr(value, "name", value))
def test_bad_files_are_refused_at_once(tmp_path, watch, reader, bad):
    path = bad.make(tmp_path / "a")
    error = refused(READERS[reader][0], path, watch, tmp_path)
    fault = error.faults[0]
    assert (fault.key, fault.row, fault.count) == (bad.key, bad.row, bad.count)
    assert bad.words in fault.sentence
    assert "\n" not in fault.sentence and fault.sentence.isprintable() and len(fault.sentence) < 500
    refused(load, path, watch, tmp_path)


def test_a_pickle_in_the_collection_would_run(tmp_path, watch):
    """What `refused` looks for is there to be found: the bomb goes off in numpy where numpy is allowed to read it."""
    with watch() as seen, pytest.raises(AssertionError, match=r"pickle\.find_class"):
        with np.load(bad_files_npz.zipped(tmp_path / "bomb", _bombs()), allow_pickle=True) as file:
            assert file["actions"].shape == (ROWS,)
        honest(seen, tmp_path)
    os.rmdir(MARK)


def _bombs() -> list:
    return bad_files_npz.members(actions=bad_files_npz.Member(b"actions.npy", bad_files_npz.objects()))


@pytest.mark.parametrize("reader", ["npz", "minari"])
def test_a_file_without_the_right_to_read_is_refused(tmp_path, monkeypatch, reader):
    path = READERS[reader][1].plain(tmp_path / "a")
    there = Path.open

    def denied(self, *arguments, **names):
        if self.suffix == ".hdf5" or self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return there(self, *arguments, **names)

    monkeypatch.setattr(Path, "open", denied)
    for read in (READERS[reader][0], load):
        with pytest.raises(DatasetError, match=r"file: cannot be opened \(Permission denied\)"):
            read(path)


def test_flipped_bits_are_refused_or_change_nothing(tmp_path):
    """A seeded sample of every bit of an .npz."""
    path = bad_files_npz.plain(tmp_path / "a")
    good, wanted, refusals = path.read_bytes(), npz.load(path, SPEC), 0
    for place in np.random.default_rng(0).integers(0, 8 * len(good), 300):
        path.write_bytes(good)
        try:
            found = npz.load(flipped(path, place // 8, place % 8), SPEC)
        except DatasetError:
            refusals += 1
        else:
            for column, kept in zip(found[:6], wanted[:6], strict=True):
                np.testing.assert_array_equal(column, kept)
    assert refusals > 100


def test_flipped_bits_of_a_minari_set_raise_no_other_error(tmp_path):
    """HDF5 as other programs write it has no checksums: some flips are not seen, none may end in a traceback."""
    path = bad_files_minari.plain(tmp_path / "a")
    file, refusals = bad_files_minari.file_of(path), 0
    good = file.read_bytes()
    for place in np.random.default_rng(0).integers(0, 8 * len(good), 60):
        file.write_bytes(good)
        flipped(file, place // 8, place % 8)
        try:
            minari.load(path, SPEC)
        except DatasetError:
            refusals += 1
    assert refusals > 2


def test_an_npz_that_is_cut_is_refused(tmp_path):
    path = bad_files_npz.packed(tmp_path / "a")
    good = path.read_bytes()
    for length in (*range(0, len(good) - 40, 11), *range(len(good) - 40, len(good))):  # its directory's end last
        path.write_bytes(good[:length])
        with pytest.raises(DatasetError):
            npz.load(path)


@pytest.mark.parametrize("reader", READERS)
def test_available_memory_bounds_what_is_read(tmp_path, monkeypatch, reader):
    path = READERS[reader][1].plain(tmp_path / "a")
    monkeypatch.setattr(opening, "free_memory", lambda: 1000)
    with pytest.raises(DatasetError, match="bytes of memory, 1,000 are free"):
        READERS[reader][0](path)


def test_a_set_of_too_many_episodes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(minari, "MAX_EPISODES", 2)
    with pytest.raises(DatasetError, match="holds 3 names, at most 2 are read"):
        minari.load(bad_files_minari.plain(tmp_path / "a"))


def test_many_faulty_episodes_are_one_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(minari, "ENOUGH", 10)
    parts = [bad_files_minari.episodes()[0] for _ in range(15)]
    for part in parts:
        part["rewards"] = part["rewards"][:-1]
    with pytest.raises(DatasetError) as caught:
        minari.load(bad_files_minari.write(tmp_path / "a", parts, None))
    (fault,) = caught.value.faults
    assert fault == ("episode_0/rewards", None, 10, "has 3 rows, wanted are 4; 9 more")


@pytest.mark.parametrize("reader", ["npz", "minari"])
def test_all_faults_are_told_at_once(tmp_path, reader):
    if reader == "npz":
        arrays = columns()
        arrays["actions"][7, 0], arrays["observations"][[2, 5], 1] = 1.5, np.nan
        others = {"rewards": bad_files_npz.Member(b"rewards.npy", b"rubbish"), "terminals": None}
        parts = {key: bad_files_npz.Member(f"{key}.npy".encode(), bad_files_npz.npy(a)) for key, a in arrays.items()}
        path = bad_files_npz.zipped(tmp_path / "a", bad_files_npz.members(**parts | others))
        wanted = {"rewards", "terminals", "actions", "observations"}
    else:
        parts = bad_files_minari.episodes()
        parts[1]["actions"][3, 0], parts[0]["observations"][[2, 3], 1] = 1.5, np.nan
        parts[2]["truncations"] = parts[2]["truncations"] * 7
        path = bad_files_minari.write(tmp_path / "a", parts)
        wanted = {"truncations", "actions", "observations", "next_observations"}
    with pytest.raises(DatasetError) as caught:
        load(path, SPEC)
    assert {fault.key for fault in caught.value.faults} == wanted
    assert len(caught.value.faults) == len(wanted)


# Reading


@pytest.mark.parametrize(("reader", "name"), GOOD)
def test_good_files_are_taken(tmp_path, reader, name):
    read, files = READERS[reader]
    path = files.GOOD_FILES[name](tmp_path / "a")
    for found in (read(path, SPEC), load(path, SPEC), load(str(path))):
        assert_rows(found, range(ROWS), SUCCESSORS)
        np.testing.assert_array_equal(np.flatnonzero(found.terminals), [3])
        np.testing.assert_array_equal(np.flatnonzero(found.timeouts), [7, 11])
        assert found.notes == ()


def test_a_name_tells_nothing(tmp_path):
    """Each format under the other's suffix."""
    for reader, suffix in (("hdf5", ".npz"), ("npz", ".hdf5"), ("minari", ".npz")):
        path = READERS[reader][1].plain(tmp_path / f"a_{reader}{suffix}")
        assert_rows(load(path, SPEC), range(ROWS), SUCCESSORS)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\x93NUMPY\x01\x00", "is a single .npy array; read are"),
        (b"\x80\x04cos", "is a pickle, which could run code; read are"),
        (b"PK\x05\x06" + bytes(18), "is an empty or damaged zip; read are"),
        (b"PAR1", "is a Parquet file; read are"),
        (b"obs,act", "is of no known kind, or its head is damaged; read are"),
    ],
)
def test_the_front_door_says_what_is_read(tmp_path, head, words):
    (tmp_path / "a").write_bytes(head)
    with pytest.raises(DatasetError, match=words):
        load(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"is a folder without data/main_data\.hdf5; read are \.hdf5 and \.npz"):
        load(tmp_path / "empty")


def test_rows_of_an_npz_without_successors_are_dropped_and_counted(tmp_path):
    arrays = columns()
    del arrays["next_observations"]
    found = npz.load(bad_files_npz.write(tmp_path / "a", arrays), SPEC)
    ids = [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert_rows(found, ids, np.add(ids, 1))
    assert "dropped: 1 at terminals, 2 at timeouts;" in found.notes[0]


def test_foreign_names_are_told_and_not_opened(tmp_path):
    other = [bad_files_npz.Member(b"velocity.npy", bad_files_npz.objects()), bad_files_npz.Member(b"rewards", b"")]
    found = npz.load(bad_files_npz.zipped(tmp_path / "a", [*bad_files_npz.members(), *other]))
    assert found.notes == ("file: ignored what is not of the layout: rewards, velocity.npy",)
    parts = [part | {"speed": np.zeros(3)} for part in bad_files_minari.episodes()]
    found = minari.load(bad_files_minari.write(tmp_path / "b", parts, edit=lambda file: file.update({"x": [1.0]})))
    assert found.notes == ("file: ignored what is not of the layout: x, speed",)


def test_minaris_flags_become_ours(tmp_path):
    parts = bad_files_minari.episodes()
    parts[0]["truncations"] = parts[0]["terminations"]  # the clock ran out as it fell
    parts[1]["truncations"] = np.zeros(4, bool)  # nobody said how it ended
    found = minari.load(bad_files_minari.write(tmp_path / "a", parts), SPEC)
    assert_rows(found, range(ROWS), SUCCESSORS)
    np.testing.assert_array_equal(np.flatnonzero(found.terminals), [3])
    np.testing.assert_array_equal(np.flatnonzero(found.timeouts), [7, 11])
    assert found.notes == (
        "truncations: 1 steps are terminated, too: taken as terminals",
        "truncations: 1 episodes end unmarked: taken as cut",
    )


def test_more_than_nine_episodes_come_in_their_order(tmp_path):
    """By name episode_10 would come before episode_2."""
    parts = []
    for n in range(12):
        ids = np.arange(2 * n, 2 * n + 2)
        ends = {"terminations": ids < 0, "truncations": ids % 2 == 1}
        parts.append(
            {"observations": numbered([*ids, 100 + ids[1]]), "actions": numbered(ids / 64), "rewards": ids} | ends
        )
    found = minari.load(bad_files_minari.write(tmp_path / "a", parts, None))
    np.testing.assert_array_equal(found.rewards, range(24))
    np.testing.assert_array_equal(found.next_observations[1::2, 0], np.arange(101, 125, 2))


def test_only_numbers_are_read_of_old_attributes(tmp_path, monkeypatch):
    """A text of variable length in a damaged file keeps HDF5 busy for ever."""
    read = []
    there = h5py.AttributeManager.__getitem__
    monkeypatch.setattr(h5py.AttributeManager, "__getitem__", lambda self, key: read.append(key) or there(self, key))
    minari.load(bad_files_minari.GOOD_FILES["attributes"](tmp_path / "a"))
    assert sorted(set(read)) == ["total_episodes", "total_steps"]
    texts = {"total_episodes": "3", "total_steps": [1, 2]}
    read.clear()
    path = bad_files_minari.write(tmp_path / "b", bad_files_minari.episodes(), None, lambda f: f.attrs.update(texts))
    assert minari.load(path).notes == () and read == []


def test_what_minari_says_of_its_rows_is_compared(tmp_path):
    narrow = bad_files_minari.BOX % (2, [-0.4, -0.4], [0.4, 0.4])
    said = bad_files_minari.METADATA | {"total_steps": 11, "action_space": narrow}
    found = minari.load(bad_files_minari.write(tmp_path / "a", bad_files_minari.episodes(), said))
    assert found.notes == (
        "file: holds 12 steps, its metadata say 11",
        "actions: were recorded in a space from -0.4 to 0.4, wanted is -1 to 1; nothing is rescaled",
    )
    np.testing.assert_array_equal(found.actions, columns()["actions"])


def test_a_large_zip_directory_is_read(tmp_path):
    """Above 65,535 members or 2 GiB a zip has a second, larger end; here it is made by hand around a small one."""
    path = bad_files_npz.plain(tmp_path / "a")
    data = path.read_bytes()
    length, place = struct.unpack("<2L", data[-10:-2])
    count = struct.unpack("<H", data[-12:-10])[0]
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, place)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
    path.write_bytes(data[:-22] + large + locator + data[-22:-14] + b"\xff" * 12 + b"\0\0")
    assert_rows(load(path, SPEC), range(ROWS), SUCCESSORS)
    path.write_bytes(data[:-22] + large.replace(b"PK\6\6", b"PK\6\5") + locator + data[-22:])
    with pytest.raises(DatasetError, match="directory for large files is not where it should be"):
        load(path)


def test_hdf5_and_minari_are_told_apart_by_what_they_hold(tmp_path):
    path = bad_files_minari.file_of(bad_files_minari.plain(tmp_path / "a")).rename(tmp_path / "anything")
    (tmp_path / "metadata.json").write_text("of something else")
    assert_rows(load(path, SPEC), range(ROWS), SUCCESSORS)
    with h5py.File(bad_files_hdf5.write(tmp_path / "b", columns()), "a") as file:
        file.create_group("episode_0")
    assert load(tmp_path / "b").notes == ("file: ignored what is not of the layout: episode_0",)
