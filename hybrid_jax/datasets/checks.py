"""What a data set must hold before anything learns from it: every fault in one report.

An error names the file, the key, the first bad row and how many there are, and the loader refuses the file.
A warning is told and changes nothing; no check clips, repairs or drops a value.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hybrid_jax.datasets.columns import FLAGS, KEYS, RANKS, constant, finite, flags, float32, form, outside
from hybrid_jax.datasets.faults import Fault, Report, at_rows
from hybrid_jax.types import Spec

BROKEN_SHARE = 0.01
"""Share of rows inside episodes whose successor may differ from the next row before a warning is given."""
MINARIS = {"terminations": "terminals", "truncations": "timeouts"}  # its reader tells faults of the flags by its names


def check(
    arrays: Mapping[str, np.ndarray],
    spec: Spec | None = None,
    where: str = "data",
    *,
    known: Sequence[Fault] = (),
    ignored: Sequence[str] = (),
) -> Report:
    """Checks the columns of a data set, each [D, ...], against each other and against the environment.

    spec: gives the widths and the episode length; None leaves both to the data.
    known: faults that the reader met; their keys are not called missing as well.
    ignored: other names that the file holds, for the messages.
    """
    arrays = {key: np.asarray(arrays[key]) for key in KEYS if key in arrays}
    named = {*arrays, *(fault.key for fault in known)}  # also what cannot be used is there
    misshapen = [fault for key, array in arrays.items() for fault in form(key, array)]
    sound = _without(arrays, misshapen)
    lengths = _lengths(sound)
    values = [
        fault for key, array in sound.items() for fault in (flags(key, array) if key in FLAGS else finite(key, array))
    ]
    # A check of several columns needs rows that belong together and flags that are flags; else it would tell
    # their fault again. A number that is not finite spoils its own row alone.
    unflagged = [fault for fault in (*known, *values) if MINARIS.get(fault.key, fault.key) in FLAGS]
    rows = _without(sound, [*lengths, *unflagged])
    errors = [*known, *_missing(arrays, named, ignored), *misshapen, *_widths(sound, spec), *lengths, *values]
    if "actions" in sound:
        errors += outside("actions", sound["actions"])
    errors += [*_both_flags(sound), *_finals(rows, named)]
    warnings = [*_ignored(ignored), *_episodes(rows, named, spec)]
    for key in [key for key in ("observations", "actions", "rewards") if key in sound]:
        warnings += constant(key, sound[key])
    return Report(tuple(errors), (*warnings, *_duplicates(rows)), where)


def _without(arrays: Mapping[str, np.ndarray], faults: Iterable[Fault]) -> dict[str, np.ndarray]:
    """The columns that none of the faults is of."""
    bad = {MINARIS.get(fault.key, fault.key) for fault in faults}
    return {key: array for key, array in arrays.items() if key not in bad}


def episode_starts(ends: np.ndarray) -> np.ndarray:
    """First row of each episode, also of an open last one; ends [D] bool."""
    return np.flatnonzero(np.concatenate([[True], ends[:-1]]))


def broken(observations: np.ndarray, next_observations: np.ndarray) -> np.ndarray:
    """[D] bool: the successor differs from the next row's observation; False for the last row."""
    differs = (next_observations[:-1] != observations[1:]).any(axis=1)
    return np.append(differs, False)


def _missing(arrays: Mapping[str, np.ndarray], named: set[str], ignored: Sequence[str]) -> list[Fault]:
    others = [*arrays, *ignored]
    holds = f"the file holds {', '.join(others[:8])}{', ...' if len(others) > 8 else ''}" if others else ""
    return [Fault(key, None, 1, f"is missing; {holds or 'nothing is there'}") for key in RANKS if key not in named]


def _widths(arrays: Mapping[str, np.ndarray], spec: Spec | None) -> list[Fault]:
    widths = {} if spec is None else {"observations": spec.obs_size, "actions": spec.action_size}
    if "observations" in arrays:
        widths.setdefault("observations", arrays["observations"].shape[1])
    owner = "the data's observations have" if spec is None else "the environment has"
    wanted = {key: widths.get("actions" if key == "actions" else "observations") for key in arrays}
    return [
        Fault(key, None, 1, f"are {arrays[key].shape[1]} wide, {owner} {wanted[key]}")
        for key in arrays
        if KEYS[key] == 2 and wanted[key] not in (None, arrays[key].shape[1])
    ]


def _lengths(arrays: Mapping[str, np.ndarray]) -> list[Fault]:
    """Columns whose length is not that of most columns; final_observations has one row an episode."""
    lengths = {key: len(array) for key, array in arrays.items() if key != "final_observations"}
    if not lengths:
        return []
    usual = Counter(lengths.values()).most_common(1)[0][0]
    return [
        Fault(key, min(length, usual), abs(length - usual), f"has {length:,} rows, the others have {usual:,}")
        for key, length in lengths.items()
        if length != usual
    ]


def _both_flags(arrays: Mapping[str, np.ndarray]) -> list[Fault]:
    if any(key not in arrays for key in FLAGS) or len(arrays["terminals"]) != len(arrays["timeouts"]):
        return []
    both = (arrays["terminals"] == 1) & (arrays["timeouts"] == 1)
    return at_rows("timeouts", both, "are marked as terminal and as timeout", "; one row ends in one way")


def _finals(rows: Mapping[str, np.ndarray], named: set[str]) -> list[Fault]:
    """final_observations must hold the last observation of each episode, and be the only source of it."""
    key, found = "final_observations", []
    if key in named and ("next_observations" in named or "timeouts" not in named):
        found += [Fault(key, None, 1, "needs `timeouts` and no `next_observations` beside it")]
    if not {key, *FLAGS} <= rows.keys():
        return found
    finals = len(rows[key])
    episodes = len(episode_starts((rows["terminals"] == 1) | (rows["timeouts"] == 1)))
    sentence = f"has {finals:,} rows, the flags make {episodes:,} episodes"
    wrong = [Fault(key, min(finals, episodes), abs(finals - episodes), sentence)] if finals != episodes else []
    return [*found, *wrong]


def _ignored(ignored: Sequence[str]) -> list[Fault]:
    sentence = f"ignored what is not of the layout: {', '.join(ignored[:8])}"
    return [Fault("file", None, len(ignored), sentence)] if ignored else []


def _episodes(rows: Mapping[str, np.ndarray], named: set[str], spec: Spec | None) -> list[Fault]:
    """What is odd about where episodes end and about the successors inside them."""
    jumps, whole = _jumps(rows)
    found, ends = [], rows["terminals"] == 1 if "terminals" in rows else None
    if "timeouts" in rows:
        ends = None if ends is None else ends | (rows["timeouts"] == 1)
    elif rows and named.isdisjoint({"timeouts", "next_observations", "final_observations"}):
        sentence = "is missing, and next_observations too: a time limit cannot be seen, the successor is wrong there"
        found += [Fault("timeouts", None, 1, sentence)]
    elif "timeouts" in named or ends is None or not whole:
        ends = None
    else:
        cuts = jumps & ~ends
        found += at_rows("timeouts", cuts, "are taken as timeouts: there is no such key and the successor differs")
        ends = ends | cuts
    if ends is None:
        return found
    jumps = jumps & ~ends
    if jumps.sum() > BROKEN_SHARE * max(1, (~ends[:-1]).sum()):
        found += at_rows("next_observations", jumps, "differ from the next row of their episode")
    if not ends.any():
        found += [Fault("terminals", None, len(ends), "no row ends an episode: the data hold no complete one")]
    starts = episode_starts(ends)
    lengths = np.diff(np.append(starts, len(ends)))
    if spec is not None and lengths.max() > spec.episode_length:
        long = lengths > spec.episode_length
        sentence = f"{long.sum():,} episodes are longer than {spec.episode_length:,} steps (longest {lengths.max():,})"
        found += [Fault("episodes", int(starts[long.argmax()]), int(long.sum()), sentence)]
    return found


def _jumps(rows: Mapping[str, np.ndarray]) -> tuple[np.ndarray | bool, bool]:
    """Where the successor differs from the next row, [D] bool, as far as both are finite; whether all are."""
    obs, following = rows.get("observations"), rows.get("next_observations")
    if obs is None or following is None or obs.shape != following.shape:
        return False, False
    fine = np.isfinite(float32(following[:-1])).all(axis=1) & np.isfinite(float32(obs[1:])).all(axis=1)
    return broken(obs, following) & np.append(fine, True), bool(fine.all())


def _duplicates(rows: Mapping[str, np.ndarray]) -> list[Fault]:
    """Rows whose observation, action and reward repeat an earlier row's."""
    keys = ("observations", "actions", "rewards")
    if not rows.keys() >= {*keys}:
        return []
    values = np.column_stack([float32(rows[key]) for key in keys])
    values += 0  # -0 becomes 0
    mixed = np.zeros(len(values), np.uint64)
    for column in values.T:  # a hash of each row finds the candidates, the comparison below decides
        mixed = (mixed ^ np.ascontiguousarray(column).view(np.uint32)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed, kind="stable")
    alike = np.flatnonzero(mixed[order[1:]] == mixed[order[:-1]])
    same = alike[(values[order[alike + 1]] == values[order[alike]]).all(axis=1)]
    repeated = np.zeros(len(values), bool)
    repeated[order[same + 1]] = True
    return at_rows("observations", repeated, "repeat an earlier row in observation, action and reward")
