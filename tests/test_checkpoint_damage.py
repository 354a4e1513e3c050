"""Bit flips, cuts, and a disk that refuses: never a wrong state, and the newest good checkpoint by name."""

import contextlib
import itertools
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from hybrid_jax import manifest
from hybrid_jax.checkpoint import Checkpointer, SaveFailed
from tests.test_checkpoint import META, bits, make

ROOT = Path(__file__).parents[1]
FLIPS = 1000
CUTS = {"1/4": lambda n: n // 4, "1/2": lambda n: n // 2, "all but 1": lambda n: n - 1, "empty": lambda n: 0}


def saved(folder: Path) -> Checkpointer:
    """A Checkpointer with the states 3 and 8 as steps 3 and 8."""
    checkpoints = Checkpointer(folder)
    for step in (3, 8):
        checkpoints.save(step, make(step), META | {"step": step})
    return checkpoints


@pytest.fixture
def checkpoints(tmp_path):
    with saved(tmp_path / "checkpoints") as owner:
        yield owner


@pytest.fixture(scope="module")
def template():
    return jax.eval_shape(make, 0)


@pytest.fixture
def newest(checkpoints) -> Path:
    return checkpoints.directory / "8"


@pytest.fixture
def outcome(checkpoints, newest, template):
    """A call with file and content (None: no file) says what a restore then makes of it; the file is whole again."""
    states = {step: bits(make(step)) for step in (3, 8)}

    def judge(file: Path, content: bytes | None) -> str:
        whole = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(content)
        state, meta, step = checkpoints.restore(template)
        file.write_bytes(whole)
        if bits(state) != states[step] or meta != META | {"step": step}:
            return "wrong"
        if step == 8:
            return "unseen"
        (told,) = checkpoints.skipped
        return "fallback" if told.startswith(f"step 8: {file.relative_to(newest)} ") else "not named"

    return judge


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def test_no_flipped_bit_is_loaded(newest, outcome):
    """Bits drawn uniformly from all bytes of all files; every flip is seen, and the older checkpoint comes back."""
    contents = {file: file.read_bytes() for file in files(newest)}
    places = [(file, i) for file, content in contents.items() for i in range(len(content))]
    rng = np.random.default_rng(0)
    drawn = rng.choice(8 * len(places), FLIPS, replace=False)
    found = []
    for n in drawn:
        (file, i), bit = places[n // 8], n % 8
        content = bytearray(contents[file])
        content[i] ^= 1 << bit
        found.append(outcome(file, bytes(content)))
    counts = {name: found.count(name) for name in ("fallback", "wrong", "unseen", "not named")}
    assert counts == {"fallback": FLIPS, "wrong": 0, "unseen": 0, "not named": 0}
    assert {places[n // 8][0] for n in drawn} == set(contents)


def test_no_cut_emptied_or_deleted_file_is_loaded(newest, outcome):
    whole = {file: file.read_bytes() for file in files(newest)}
    assert len(whole) > 5 and all(whole.values())  # an empty file would make the cuts no cuts
    found = {
        (str(file), how): outcome(file, content[: cut(len(content))])
        for file, content in whole.items()
        for how, cut in CUTS.items()
    }
    found |= {(str(file), "deleted"): outcome(file, None) for file in whole}
    assert len(found) == 5 * len(whole)
    assert [case for case, result in found.items() if result != "fallback"] == []


def test_a_file_that_was_empty_counts_as_any_other(newest, outcome):
    """orbax leaves none today; deleted or grown it is damage, and as written it is not."""
    empty = newest / "arrays" / "empty"
    empty.touch()
    known = manifest.read(newest, 8)
    (newest / manifest.NAME).unlink()
    manifest.write(newest, 8, known["meta"], known["leaves"])
    assert outcome(empty, b"") == "unseen"
    assert [outcome(empty, None), outcome(empty, b"\0")] == ["fallback", "fallback"]


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "arrays/.DS_Store",
        "arrays/_sharding",
        "arrays/.zarray",
        "arrays/0/.zarray",
        "arrays/_strings.json",
        "arrays/array_metadatas/process_0",
        "arrays/ocdbt.process_1/manifest.ocdbt",
        "arrays/d/0123456789abcdef0123456789abcdef",
    ],
)
def test_an_added_file_is_harmless(checkpoints, template, newest, name):
    """Empty, of noise, or orbax's own of another checkpoint: what the manifest names is read, all the same."""
    (newest / name).parent.mkdir(parents=True, exist_ok=True)
    for content in (b"", b"\xff{[", (newest.parent / "3/arrays/ocdbt.process_0/manifest.ocdbt").read_bytes()):
        (newest / name).write_bytes(content)
        state, _, step = checkpoints.restore(template)
        assert (step, bits(state), checkpoints.skipped) == (8, bits(make(8)), [])


def test_a_manifest_of_equal_meaning_but_other_text_is_damage(checkpoints, template):
    checkpoints.save(9, make(9), {"rate": 1e-05})
    file = checkpoints.directory / "9" / "manifest.json"
    file.write_bytes(file.read_bytes().replace(b"1e-05", b"1E-05"))
    assert checkpoints.restore(template)[2] == 8
    assert checkpoints.skipped == ["step 9: manifest.json differs from what was written"]


def test_a_checkpoint_under_the_name_of_another_step_is_damage(checkpoints, template):
    shutil.copytree(checkpoints.directory / "3", checkpoints.directory / "20")
    assert checkpoints.restore(template)[2] == 8
    assert checkpoints.skipped == ["step 20: manifest.json is that of step 3"]


@contextlib.contextmanager
def limited(kind: int, most: int):
    """The system's own refusal: no file beyond `most` bytes (RLIMIT_FSIZE), or no more than `most` handles."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.isdigit())


def refused_at_every_size(folder: Path) -> None:
    """Files may grow to 0, 100, 200, ... bytes until a save succeeds, so that every kind of file fails once."""
    good, causes, checkpoints, template = 8, set(), saved(folder), jax.eval_shape(make, 0)
    for most in itertools.count(0, 100):
        state, before = make(good + 1), names(folder)
        try:
            with limited(resource.RLIMIT_FSIZE, most):
                checkpoints.save(good + 1, state, META)
            break
        except SaveFailed as failed:
            causes.add(type(failed.__cause__))
            assert str(failed).startswith(f"checkpoint {good + 1} could not be saved in {folder} (File too large, ")
            assert str(failed).endswith(f" GiB free); checkpoint {good} is the newest good one and stays")
        assert names(folder) == before and checkpoints.latest() == good
        restored, _, step = checkpoints.restore(template)
        assert (step, bits(restored), checkpoints.skipped) == (good, bits(make(good)), [])
        good += 1
        checkpoints.save(good, state, META)
        assert bits(checkpoints.restore(template)[0]) == bits(state)
    assert good - 8 > 20 and causes == {OSError, ValueError}  # our own writes, and those of orbax
    assert bits(checkpoints.restore(template)[0]) == bits(make(good + 1))
    assert sorted(p.name for p in folder.iterdir()) == sorted([str(good), str(good + 1)])


def refused_in_place_of_the_same_step(folder: Path) -> None:
    checkpoints = saved(folder)
    with limited(resource.RLIMIT_FSIZE, 1000), pytest.raises(SaveFailed, match="checkpoint 8 is the newest good one"):
        checkpoints.save(8, make(9), {})
    state, meta, step = checkpoints.restore(jax.eval_shape(make, 0))
    assert (bits(state), meta, step) == (bits(make(8)), META | {"step": 8}, 8)


def refused_beside_a_damaged_one(folder: Path) -> None:
    """What is damaged is not promised to stay good."""
    checkpoints = saved(folder)
    (folder / "8" / "arrays" / "_METADATA").write_bytes(b"")
    with limited(resource.RLIMIT_FSIZE, 0), pytest.raises(SaveFailed, match="checkpoint 3 is the newest good one"):
        checkpoints.save(12, make(12), {})


def refused_for_want_of_handles(folder: Path) -> None:
    """Nothing can be opened, not even to see what stays; still it is the one error, and the next save succeeds."""
    checkpoints = saved(folder)
    state = make(12)
    with limited(resource.RLIMIT_NOFILE, 0), pytest.raises(SaveFailed, match=r"Too many open files.* can be read$"):
        checkpoints.save(12, state, {})
    checkpoints.save(12, state, {})
    assert bits(checkpoints.restore(jax.eval_shape(make, 0))[0]) == bits(state)


def test_a_disk_that_refuses_costs_nothing_but_the_one_checkpoint(tmp_path):
    """In a process of its own: threads of tensorstore complain, later, of the loop that orbax has closed."""
    acts = ("at_every_size", "in_place_of_the_same_step", "beside_a_damaged_one", "for_want_of_handles")
    calls = "\n".join(f"it.refused_{act}(Path({str(tmp_path / act)!r}))" for act in acts)
    code = f"from pathlib import Path\nfrom tests import test_checkpoint_damage as it\n{calls}\nprint('all')"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr[-4000:]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with (
        Checkpointer(tmp_path / "file") as owner,
        pytest.raises(SaveFailed, match=r"Not a directory.*; no good one can be read"),
    ):
        owner.save(1, make(1), {})


def test_what_killed_saves_left_is_swept_and_what_cannot_be_removed_is_left(checkpoints, template, tmp_path):
    """Partial folders and half-removed checkpoints go; an old one behind a link stays, and is no failure."""
    folder = checkpoints.directory
    (folder / "5" / "arrays").mkdir(parents=True)
    (folder / "9.0123abcd.partial" / "arrays").mkdir(parents=True)
    (folder / "3").rename(tmp_path / "3")
    (folder / "3").symlink_to(tmp_path / "3")
    checkpoints.save(10, make(10), {})
    assert sorted(p.name for p in folder.iterdir()) == ["10", "3", "8"]
    assert bits(checkpoints.restore(template)[0]) == bits(make(10))
