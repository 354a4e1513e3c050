"""The Minari sets that a loader must refuse, and a few odd ones that it must take.

The same twelve rows in the same three episodes as `bad_files.columns()`: the first ends in a terminal, the others by
the clock.
"""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from tests.bad_files import Bad, columns, cut, fifo, flipped, no_files, numbered, of_bytes

KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
BOX = '{"type": "Box", "dtype": "float32", "shape": [%d], "low": %s, "high": %s}'
METADATA = {
    "total_episodes": 3,
    "total_steps": 12,
    "data_format": "hdf5",
    "observation_space": BOX % (3, [-100.0] * 3, [200.0] * 3),
    "action_space": BOX % (2, [-1.0] * 2, [1.0] * 2),
    "minari_version": "0.5.4",
}


def episodes() -> list[dict]:
    arrays, found = columns(), []
    for first in (0, 4, 8):
        rows = slice(first, first + 4)
        found.append(
            {
                "observations": numbered([first, first + 1, first + 2, first + 3, 103 + first]),
                "actions": arrays["actions"][rows],
                "rewards": arrays["rewards"][rows].astype(np.float64),
                "terminations": arrays["terminals"][rows],
                "truncations": arrays["timeouts"][rows],
            }
        )
    return found


def file_of(path: Path) -> Path:
    return path / "data" / "main_data.hdf5"


def write(path: Path, parts: list[dict], metadata: dict | None = METADATA, edit=None, **options) -> Path:
    """As Minari writes; edit(file) changes the open file afterwards."""
    file_of(path).parent.mkdir(parents=True)
    with h5py.File(file_of(path), "w", track_order=True) as file:
        for number, part in enumerate(parts):
            group = file.create_group(f"episode_{number}")
            group.attrs.update({"id": number, "total_steps": np.size(part.get("rewards", ())), "seed": 7})
            _fill(group, part, options)
        if edit:
            edit(file)
    if metadata is not None:
        (path / "data" / "metadata.json").write_text(json.dumps(metadata))
    return path


def _fill(group: h5py.Group, part: dict, options: dict) -> None:
    for key, value in part.items():
        if isinstance(value, dict):
            _fill(group.create_group(key), value, options)
        else:
            longer = {"chunks": True, "maxshape": (None, *np.shape(value)[1:])} if np.shape(value) else {}
            group.create_dataset(key, data=value, **longer | options)


def plain(path: Path) -> Path:
    return write(path, episodes())


def _with(index, value, dtype=None):
    def change(array):
        array = array.astype(dtype or array.dtype)
        array[index] = value
        return array

    return change


def _changed(name, key, change, words, *, which=(1,), told=None, row=None, count=None) -> Bad:
    """Good episodes but for one column of some; change(array) gives the new one, None leaves it out."""

    def make(path):
        parts = episodes()
        for number in which:
            changed = change(parts[number].pop(key))
            parts[number] |= {} if changed is None else {key: changed}
        return write(path, parts)

    return Bad(f"{key} {name}", make, told or f"episode_{which[0]}/{key}", words, row, count or len(which))


def _contents() -> list[Bad]:
    found, everywhere = [], (0, 1, 2)
    for key in KEYS:
        short = "has 4 rows, wanted are 5" if key == "observations" else "has 3 rows, wanted are 4"
        long = "has 6 rows, wanted are 5" if key == "observations" else "has 5 rows, wanted are 4"
        found += [
            _changed("missing", key, lambda _: None, "is missing"),
            _changed("missing everywhere", key, lambda _: None, "is missing; 2 more", which=everywhere),
            _changed("one short", key, lambda a: a[:-1], short),
            _changed("one long", key, lambda a: np.concatenate([a, a[-1:]]), long),
            _changed("none", key, lambda a: a[:0], "is empty", which=(2,)),
            _changed("one axis more", key, lambda a: a[..., None], "has shape"),
            _changed("scalar", key, lambda a: a.ravel()[0], "has shape ()"),
            _changed("text", key, lambda a: a.astype("S8"), "wanted are plain numbers"),
            _changed("complex", key, lambda a: a.astype("c8"), "wanted are plain numbers"),
            _changed("a group", key, lambda a: {"velocity": a, "goal": a}, "is a group", which=everywhere),
        ]
    for key, at, first in (("observations", (2, 1), 5), ("actions", (2, 1), 6), ("rewards", 2, 6)):
        for name, value in (("nan", np.nan), ("inf", np.inf), ("minus inf", -np.inf)):
            at_value = _with(at, value)
            words = (
                f"1 of 12 rows hold NaN or infinity (in float32), the first is row {first + (key == 'observations')}"
            )
            found += [_changed(name, key, at_value, words, told=key, row=first + (key == "observations"), count=1)]
        found += [_changed("huge", key, _with(at, 1e300, "f8"), "infinity", told=key, row=6, count=1)]
    for key in ("terminations", "truncations"):
        for name, value, kind in (("half", 0.5, "f4"), ("255", 255, "u1"), ("minus", -1, "i8"), ("nan", np.nan, "f8")):
            words = "1 of 12 rows are neither 0 nor 1"
            found += [_changed(name, key, _with(1, value, kind), words, told=key, row=5, count=1)]
    flatten, vector = "gymnasium.wrappers.FlattenObservation", "as one vector in [-1, 1]"
    tuples = lambda a: {"_index_0": a, "_index_1": a}  # noqa: E731
    return [
        *found,
        _changed(
            "last nan", "observations", _with((4, 0), np.nan), "1 of 12", told="next_observations", row=7, count=1
        ),
        _changed("dict", "observations", lambda a: {"x": a}, flatten, which=everywhere),
        _changed("tuple", "observations", tuples, flatten, which=everywhere),
        _changed("dict", "actions", lambda a: {"x": a}, vector, which=everywhere),
        _changed("tuple", "actions", tuples, vector, which=everywhere),
        _changed("discrete", "actions", lambda a: np.arange(4), vector, which=everywhere),
        _changed("discrete", "observations", lambda a: np.arange(5), flatten, which=everywhere),
        _changed("images", "observations", lambda a: np.zeros((5, 4, 4, 3), "u1"), flatten, which=everywhere),
        _changed("bool", "observations", lambda a: a > 2, "has type bool", which=everywhere),
        _changed("width", "observations", lambda a: a[:, :2], "are 2 wide, others 3"),
        _changed("width", "actions", lambda a: a[:, [0, 1, 1]], "are 3 wide, others 2"),
        _changed(
            "width everywhere",
            "observations",
            lambda a: a[:, :2],
            "are 2 wide, the environment has 3",
            which=everywhere,
            told="observations",
            count=1,
        ),
        _changed("above", "actions", _with((1, 0), 1.5), "row 5 of episode", told="actions", row=5, count=1)._replace(
            words="(row 1 of episode_1)"
        ),
        _changed("below", "actions", _with((slice(1, 3), 1), -2.0), "2 of 12", told="actions", row=5, count=2),
        _changed("in newtons", "actions", lambda a: a * 100, "magnitude 43.75", told="actions", row=4, count=4),
    ]


def _edited(name, edit, key, words, count=1, **changes) -> Bad:
    return Bad(name, lambda path: write(path, episodes(), edit=edit, **changes), key, words, None, count)


def _linked(kind: str, key: str) -> Callable[[h5py.File], None]:
    """A name of the file leads elsewhere: each way that HDF5 knows."""

    def edit(file):
        place = Path(file.filename)
        with h5py.File(place.with_name("other.hdf5"), "w") as other:
            other["secret"] = np.zeros((4, 2), np.float32)
            _fill(other.create_group("episode"), episodes()[1], {})
        file.move(key, "elsewhere" if "/" not in key else "episode_1/elsewhere")
        there = "/secret" if "/" in key else "/episode"
        if kind == "external":
            file[key] = h5py.ExternalLink("other.hdf5", there)
        elif kind == "dangling external":
            file[key] = h5py.ExternalLink("absent.hdf5", there)
        elif kind == "soft":
            file[key] = h5py.SoftLink("/episode_0" if "/" not in key else "/episode_0/actions")
        elif kind == "dangling soft":
            file[key] = h5py.SoftLink("/nowhere")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((4, 2), "f4")
            layout[:] = h5py.VirtualSource("other.hdf5", "secret", shape=(4, 2))
            file.create_virtual_dataset(key, layout)
        else:
            place.with_name("raw.bin").write_bytes(bytes(32))
            file.create_dataset(key, (4, 2), "f4", external=[(str(place.with_name("raw.bin")), 0, 32)])

    return edit


def _replaced(key: str, *shape, **options) -> Callable[[h5py.File], None]:
    def edit(file):
        del file[key]
        file.create_dataset(key, *shape, **options)

    return edit


def _gzip_bomb(file: h5py.File) -> None:
    del file["episode_1/actions"]
    rows = 2**21
    column = file.create_dataset("episode_1/actions", (6 * rows, 8), "f4", chunks=(rows, 8), compression="gzip")
    block = zlib.compress(bytes(rows * 32), 1)
    for i in range(6):
        column.id.write_direct_chunk((i * rows, 0), block)


def _shared(file: h5py.File) -> None:
    """One episode of zeros under many names."""
    del file["episode_1"], file["episode_2"]
    group, steps = file.create_group("episode_1"), 2**17
    for key, shape in zip(KEYS, ((steps + 1, 3), (steps, 2), steps, steps, steps), strict=True):
        group.create_dataset(key, data=np.zeros(shape, "f4"), compression="gzip", compression_opts=1)
    for number in range(2, 100):
        file[f"episode_{number}"] = group


def _many_names(file: h5py.File) -> None:
    group = file["episode_1"]
    for i in range(2_000):
        group[str(i)] = group["rewards"]


def _nested(file: h5py.File) -> None:
    del file["episode_1/observations"]
    group = file.create_group("episode_1/observations")
    for _ in range(10_000):
        group = group.create_group("g")


def _without(*names: str) -> Callable[[h5py.File], None]:
    def edit(file):
        for name in names:
            del file[name]

    return edit


def _structures() -> list[Bad]:
    found, actions = [], "episode_1/actions"
    for kind in ("external", "dangling external", "soft", "dangling soft"):
        for key in (actions, "episode_1"):
            found.append(_edited(f"{key} {kind} link", _linked(kind, key), key, "is a link to another place"))
    for kind in ("virtual", "external storage"):
        found.append(_edited(f"actions {kind}", _linked(kind, actions), actions, "lies in another file"))
    bombs = {
        "shape bomb": _replaced(actions, (2**40, 2), "f4", chunks=(1024, 2)),
        "contiguous bomb": _replaced(actions, (2**40, 2), "f4"),
        "chunk bomb": _replaced(actions, (4, 2), "f4", chunks=(2**28, 2), maxshape=(None, 2)),
        "gzip bomb": _gzip_bomb,
    }
    found += [_edited(f"actions {name}", edit, actions, "declares") for name, edit in bombs.items()]
    array = lambda file: (file.pop("episode_1"), file.create_dataset("episode_1", data=[1.0]))  # noqa: E731
    odd = _replaced(actions, data=np.zeros((4, 2), "f4"), scaleoffset=3)
    return [
        *found,
        _edited("one episode many times", _shared, "file", "declares", metadata=None),
        _edited("never written", _replaced(actions, (4, 2), "f4"), actions, "never written"),
        _edited("a filter", odd, actions, "is packed by a filter other"),
        _edited("no values", _replaced(actions, data=h5py.Empty("f4")), actions, "has no values"),
        _edited("an episode is an array", array, "episode_1", "is an array or a type, wanted is a group"),
        _edited("2,000 names", _many_names, "episode_1", "holds 2,005 names"),
        _edited("10,000 groups deep", _nested, "episode_1/observations", "is a group"),
        _edited(
            "an episode missing", _without("episode_1"), "episode_1", "is missing, the episodes go up to episode_2"
        ),
        _edited("a far episode", lambda f: f.move("episode_2", "episode_999999999"), "episode_2", "", 10**9 - 3),
        _edited("the first missing", _without("episode_0"), "episode_0", "is missing"),
        _edited("the last missing", _without("episode_2"), "file", "holds 2 episodes, its metadata say 3"),
        _edited("one too many", lambda f: f.copy("episode_0", "episode_3"), "file", "holds 4 episodes"),
        _edited("none", _without(*(f"episode_{i}" for i in range(3))), "episode_0", "is missing; nothing is there"),
        _edited("episode_01", lambda f: f.move("episode_1", "episode_01"), "episode_1", "is missing"),
    ]


def _described(name, key, words, **changes) -> Bad:
    return Bad(f"metadata {name}", lambda p: write(p, episodes(), METADATA | changes), key, words)


def _said(name, make, words) -> Bad:
    """metadata.json is what make(path) makes there."""

    def made(path):
        write(path, episodes(), None)
        make(path / "data" / "metadata.json")
        return path

    return Bad(f"metadata {name}", made, "metadata.json", words)


def _metadata() -> list[Bad]:
    dictionary = '{"type": "Dict", "subspaces": {}}'
    legacy = lambda file: file.attrs.update(METADATA | {"total_episodes": 4})  # noqa: E731
    return [
        _described("dict", "observations", "of a Dict space, read are flat Box spaces", observation_space=dictionary),
        _described("tuple", "observations", "of a Tuple space", observation_space='{"type": "Tuple"}'),
        _described("discrete", "actions", "of a Discrete space", action_space='{"type": "Discrete", "n": 3}'),
        _described("square", "actions", "of a Box space of shape [2, 2]", action_space='{"type":"Box","shape":[2,2]}'),
        _described("point", "observations", "of shape []", observation_space='{"type": "Box", "shape": []}'),
        _described("commands", "actions", "of a ?[31m space", action_space='{"type": "\\u001b[31m"}'),
        _described("arrow", "file", "is in Minari's format arrow, read is hdf5", data_format="arrow"),
        _described("odd format", "file", "is in Minari's format ['x']", data_format=["x"]),
        _described("odd count", "file", "its metadata say many", total_episodes="many"),
        _edited("legacy count", legacy, "file", "holds 3 episodes, its metadata say 4", metadata=None),
        _said("noise", of_bytes(bytes(range(256))), "is damaged"),
        _said("cut", of_bytes(json.dumps(METADATA)[:-9].encode()), "is damaged"),
        _said("empty", of_bytes(b""), "is empty"),
        _said("a list", of_bytes(b"[1]"), "is damaged (it holds no names)"),
        _said("deep", of_bytes(b"[" * 200_000), "is damaged"),
        _said("long number", of_bytes(b'{"total_steps": ' + b"9" * 9000 + b"}"), "is damaged"),
        _said("large", of_bytes(b" " * 5_000_000 + b"{}"), "has 5,000,002 bytes"),
        _said("fifo", fifo, "is not a regular file"),
        _said("folder", Path.mkdir, "is a folder"),
        _said("dangling link", lambda path: path.symlink_to("absent"), "is not there"),
    ]


def _instead(name, make, words) -> Bad:
    """main_data.hdf5 is what make(path) makes there."""

    def made(path):
        file_of(plain(path)).unlink()
        make(file_of(path))
        return path

    return Bad(f"rows {name}", made, "file", words)


def _damaged() -> list[Bad]:
    def kept(path, length):
        cut(file_of(plain(path)), lambda file: file, length)
        return path

    found = [Bad("empty folder", lambda p: p.mkdir() or p, "file", "is a folder without data/main_data.hdf5")]
    for length, words in ((0, "is empty"), (1, "is not an HDF5"), (0.25, "damaged"), (0.5, "damaged"), (-1, "damaged")):
        found.append(Bad(f"{length} bytes kept", lambda p, n=length: kept(p, n), "file", words))
    for byte in (0, 7, 8):
        make = lambda path, b=byte: flipped(file_of(plain(path)), b, 4).parents[1]  # noqa: E731
        found.append(Bad(f"flip in byte {byte}", make, "file", ""))
    elsewhere = ("below a file", "name with a zero", "name too long", "device")
    rows = [bad for bad in no_files("is not an HDF5 file", "HDF5 head") if bad.name not in elsewhere]
    return found + [_instead(bad.name, bad.make, bad.words) for bad in rows]


BAD_FILES = [*_contents(), *_structures(), *_metadata(), *_damaged()]


def _infos(path: Path) -> Path:
    """What Minari keeps beside the rows; nothing of it is opened."""
    extra = {"infos": {"x_position": np.zeros(5), "deep": {"er": np.zeros(5)}}}
    edit = lambda f: f["episode_0/infos"].update({"x": h5py.ExternalLink("/dev/zero", "/")})  # noqa: E731
    return write(path, [part | extra for part in episodes()], edit=edit)


def _legacy(path: Path) -> Path:
    return write(path, episodes(), None, edit=lambda file: file.attrs.update(METADATA))


def _cast(**types) -> Callable[[Path], Path]:
    def make(path):
        parts = episodes()
        return write(path, [part | {key: part[key].astype(kind) for key, kind in types.items()} for part in parts])

    return make


def _symlink(path: Path) -> Path:
    path.symlink_to(plain(path.with_name("target")))
    return path


GOOD_FILES = {
    "plain": plain,
    "folder data": lambda path: plain(path) / "data",
    "the file itself": lambda path: file_of(plain(path)),
    "attributes": _legacy,
    "no metadata": lambda path: write(path, episodes(), None),
    "infos": _infos,
    "gzip": lambda path: write(path, episodes(), compression="gzip"),
    "float64, byte flags": _cast(observations="f8", actions="f8", terminations="u1", truncations="f4"),
    "symbolic link": _symlink,
}
