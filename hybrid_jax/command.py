"""The command `hybrid-jax`: tools around a robot, its journal and data sets.

hybrid-jax check-data FILE [--task MODULE]          whether a data set can be learned from, and what it holds: an .hdf5
                                                    or .npz file in D4RL's layout, or a Minari folder. One report tells
                                                    all faults, each with its key, first bad row and number of them, and
                                                    all warnings; no value is changed. MODULE, such as
                                                    envs.half_cheetah, has the SPEC that widths and lengths must fit
hybrid-jax check-real MODULE:FACTORY [STEPS] [HZ]   moves a robot (zero, then random actions) and tells what came
hybrid-jax journal check FOLDER                     what a journal holds, and whether all of it is whole
hybrid-jax journal export FOLDER FILE.hdf5          its steps as a data set in D4RL's layout
"""

import importlib
import sys
import tempfile
from collections import Counter
from pathlib import Path

from hybrid_jax.datasets import hdf5, scores, summary
from hybrid_jax.datasets.faults import DatasetError
from hybrid_jax.real import check, segments
from hybrid_jax.real.record import Fault, Flag
from hybrid_jax.real.segments import JournalError
from hybrid_jax.real.settings import RobotStopped, Settings
from hybrid_jax.real.to_dataset import to_dataset
from hybrid_jax.types import Spec


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 done, 1 the journal is damaged, the data are bad or the robot failed, 2 the user's mistake."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        match words:
            case ["check-real", factory, *numbers] if len(numbers) <= 2:
                return _check_real(factory, *map(float, numbers))
            case ["journal", "check", folder]:
                return _check(_journal(folder))
            case ["journal", "export", folder, file]:
                return _export(_journal(folder), Path(file))
            case ["check-data", file] | ["check-data", file, "--task", _] | ["check-data", "--task", _, file]:
                task = None if len(words) == 2 else words[words.index("--task") + 1]
                return _check_data(Path(file), task)
        print(__doc__, file=sys.stderr)
        return 0 if words in (["-h"], ["--help"]) else 2
    except (JournalError, DatasetError, OSError, ValueError) as error:
        print(f"hybrid-jax: {error}", file=sys.stderr)
        return 2


def _check_real(factory: str, steps: float = 100, rate: float = 0.0) -> int:
    sys.path.insert(0, "")  # a user's own module lies where the command is called
    settings = Settings(factory, episode_length=10**9, rate=rate, retry_wait=0.1)
    with tempfile.TemporaryDirectory() as folder:
        print(f"{factory}: {int(steps)} steps with zero actions, {int(steps)} with random ones")
        stopped = None
        try:
            check.exercise(settings, Path(folder), int(steps), lambda text: None)
        except RobotStopped as error:
            stopped = str(error)
        lines = list(check.report(Path(folder) / "journal", rate))
    print("\n".join(lines))
    if stopped is not None:
        print(f"! the robot stopped: {stopped}")
    return int(stopped is not None or any(line.startswith("!") for line in lines))


def _check_data(file: Path, task: str | None) -> int:
    good, report = summary.lines(file, None if task is None else _spec(task))
    print("\n".join(report))
    return 0 if good else 1


def _spec(task: str) -> Spec:
    """The SPEC of a task's module; raises ValueError where there is none."""
    sys.path.insert(0, "")  # a user's own module lies where the command is called
    try:
        found = getattr(importlib.import_module(task), "SPEC", None)
    except (ModuleNotFoundError, TypeError) as error:
        raise ValueError(f"--task {task}: {error}; name a module such as envs.half_cheetah") from error
    if not isinstance(found, Spec):
        raise ValueError(f"--task {task}: the module has no SPEC; name a module such as envs.half_cheetah")
    return found


def _journal(folder: str) -> Path:
    if not segments.segments(Path(folder)):
        raise JournalError(f"{folder} holds no journal; give the folder with the .journal files")
    return Path(folder)


def _check(folder: Path) -> int:
    paths = segments.segments(folder)
    schema = segments.read_schema(paths[0])
    if schema is None:
        print(f"{paths[0]}: its head is damaged, nothing behind it can be read")
        return 1
    print(
        f"robot      {schema.robot}, {schema.obs_size} observations, {schema.action_size} actions, {schema.rate:g} Hz"
    )
    first, whole = 0, True
    for path in paths:
        scan = segments.scan_segment(path, schema, first)
        first += scan.count
        state = "whole" if scan.valid_bytes == scan.size else f"DAMAGED at byte {scan.valid_bytes:,} of {scan.size:,}"
        print(f"segment    {path.name}: {scan.count:,} records, {scan.size:,} bytes, {state}")
        whole = whole and scan.valid_bytes == scan.size
        if not whole:
            break
    found = list(segments.read(folder))
    faults = [record for record in found if isinstance(record, Fault)]
    flags: Counter[str] = Counter(flag.name for record in found for flag in Flag(record.flags) if flag.name)
    told = ", ".join(f"{count:,} {name.lower()}" for name, count in sorted(flags.items())) or "none"
    print(f"records    {len(found):,}: {len(found) - len(faults):,} steps, {len(faults):,} faults; flags: {told}")
    for fault in faults[-5:]:
        print(f"fault      {fault.sequence:,}, episode {fault.episode}, step {fault.step}: {fault.text}")
    for torn in sorted(folder.glob("*.torn")):
        print(f"set aside  {torn.name}: {torn.stat().st_size:,} bytes")
    return 0 if whole else 1


def _export(folder: Path, file: Path) -> int:
    data = to_dataset(folder)
    schema = segments.read_schema(segments.segments(folder)[0])
    about = {"task": "" if schema is None else schema.robot, "command": f"hybrid-jax journal export {folder} {file}"}
    hdf5.save(file, data, about)
    returns = scores.episode_returns(data)
    print(f"{file}: {len(data.rewards):,} rows, {len(returns):,} episodes, mean return {returns.mean():,.1f}")
    return 0
