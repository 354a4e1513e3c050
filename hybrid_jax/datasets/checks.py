"""What a data set must hold before anything learns from it: every fault in one report.

An error names the file, the key, the first bad row and how many there are, and the loader refuses the file.
A warning is told and changes nothing; no check clips, repairs or drops a value.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hybrid_jax.datasets.faults import Fault, Report, at_rows
from hybrid_jax.types import Spec

RANKS = {"observations": 2, "actions": 2, "rewards": 1, "terminals": 1}
OPTIONAL_RANKS = {"timeouts": 1, "next_observations": 2, "final_observations": 2}
KEYS = RANKS | OPTIONAL_RANKS
FLAGS = ("terminals", "timeouts")
TOLERANCE = 1e-6  # of the action bounds
BROKEN_SHARE = 0.01
"""Share of rows inside episodes whose successor may differ from the next row before a warning is given."""


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
    errors = [*known, *_missing(arrays, {fault.key for fault in known}, ignored)]
    misshapen = [fault for key, array in arrays.items() for fault in form(key, array)]
    sound = {key: array for key, array in arrays.items() if key not in {fault.key for fault in misshapen}}
    errors += [*misshapen, *_widths(sound, spec), *_lengths(sound)]
    for key, array in sound.items():
        errors += flags(key, array) if key in FLAGS else _finite(key, array)
    if "actions" in sound:
        errors += _outside("actions", sound["actions"])
    errors += _both_flags(sound)
    if not errors:
        errors += _finals(sound)
    # Beside errors only what does not hang on them is told.
    bad = {fault.key for fault in errors}
    untouched = {key: array for key, array in sound.items() if key not in bad}
    warnings = _constant(untouched) if errors else _warnings(sound, spec)
    return Report(tuple(errors), (*_ignored(ignored), *warnings), where)


def episode_starts(ends: np.ndarray) -> np.ndarray:
    """First row of each episode, also of an open last one; ends [D] bool."""
    return np.flatnonzero(np.concatenate([[True], ends[:-1]]))


def broken(observations: np.ndarray, next_observations: np.ndarray) -> np.ndarray:
    """[D] bool: the successor differs from the next row's observation; False for the last row."""
    differs = (next_observations[:-1] != observations[1:]).any(axis=1)
    return np.append(differs, False)


def float32(array: np.ndarray) -> np.ndarray:
    """As float32; what is too large becomes infinity."""
    with np.errstate(over="ignore"):
        return np.asarray(array, np.float32)


def _missing(arrays: Mapping[str, np.ndarray], known: set[str], ignored: Sequence[str]) -> list[Fault]:
    others = [*arrays, *ignored]
    holds = f"the file holds {', '.join(others[:8])}{', ...' if len(others) > 8 else ''}" if others else ""
    return [
        Fault(key, None, 1, f"is missing; {holds or 'nothing is there'}")
        for key in RANKS
        if key not in arrays and key not in known
    ]


def form(key: str, array: Any) -> list[Fault]:
    """Kind, rank and emptiness of one column, which need not have been read."""
    kinds = "bfiu" if key in FLAGS else "fiu"
    shape = "[rows, width]" if KEYS[key] == 2 else "[rows]"
    if array.dtype.kind not in kinds:
        wanted = "a flag (bool or 0/1)" if key in FLAGS else "a number"
        return [Fault(key, None, 1, f"has type {array.dtype}, wanted is {wanted}")]
    if array.ndim != KEYS[key]:
        return [Fault(key, None, 1, f"has shape {array.shape}, wanted is {shape}")]
    if array.size == 0:
        return [Fault(key, None, 1, f"is empty, shape {array.shape}")]
    return []


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


def _finite(key: str, array: np.ndarray) -> list[Fault]:
    bad = ~np.isfinite(float32(array))
    return at_rows(key, bad.reshape(len(bad), -1).any(axis=1), "hold NaN or infinity (in float32)")


def _outside(key: str, array: np.ndarray) -> list[Fault]:
    """Actions beyond their bounds are counted, never clipped; NaN is for `_finite` to tell."""
    size = np.abs(float32(array)).max(axis=1)
    cure = "; divide the actions by the environment's limits"
    largest = f" (largest magnitude {size.max(initial=0, where=~np.isnan(size)):.6g}){cure}"
    return at_rows(key, size > 1 + TOLERANCE, "lie outside [-1, 1]", largest)


def flags(key: str, array: np.ndarray) -> list[Fault]:
    """Flags that are no flags."""
    bad = (array != 0) & (array != 1)
    return at_rows(key, bad, "are neither 0 nor 1", f" ({array[bad.argmax()]})")


def _both_flags(arrays: Mapping[str, np.ndarray]) -> list[Fault]:
    if any(key not in arrays for key in FLAGS) or len(arrays["terminals"]) != len(arrays["timeouts"]):
        return []
    both = (arrays["terminals"] == 1) & (arrays["timeouts"] == 1)
    return at_rows("timeouts", both, "are marked as terminal and as timeout", "; one row ends in one way")


def _finals(arrays: Mapping[str, np.ndarray]) -> list[Fault]:
    """final_observations must hold the last observation of each episode, and be the only source of it."""
    if "final_observations" not in arrays:
        return []
    key, finals = "final_observations", len(arrays["final_observations"])
    if "next_observations" in arrays or "timeouts" not in arrays:
        return [Fault(key, None, 1, "needs `timeouts` and no `next_observations` beside it")]
    episodes = len(episode_starts((arrays["terminals"] == 1) | (arrays["timeouts"] == 1)))
    sentence = f"has {finals:,} rows, the flags make {episodes:,} episodes"
    return [] if finals == episodes else [Fault(key, min(finals, episodes), abs(finals - episodes), sentence)]


def _ignored(ignored: Sequence[str]) -> list[Fault]:
    sentence = f"ignored what is not of the layout: {', '.join(ignored[:8])}"
    return [Fault("file", None, len(ignored), sentence)] if ignored else []


def _warnings(arrays: Mapping[str, np.ndarray], spec: Spec | None) -> list[Fault]:
    obs, following = arrays["observations"], arrays.get("next_observations")
    ends = arrays["terminals"] == 1
    found = []
    if "timeouts" in arrays:
        ends = ends | (arrays["timeouts"] == 1)
    elif following is None:
        sentence = "is missing, and next_observations too: a time limit cannot be seen, the successor is wrong there"
        found += [Fault("timeouts", None, 1, sentence)]
    else:
        cuts = broken(obs, following) & ~ends
        found += at_rows("timeouts", cuts, "are taken as timeouts: there is no such key and the successor differs")
        ends = ends | cuts
    if following is not None:
        jumps = broken(obs, following) & ~ends
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
    return [*found, *_constant(arrays), *_duplicates(arrays)]


def _constant(arrays: Mapping[str, np.ndarray]) -> list[Fault]:
    found = []
    for key in [key for key in ("observations", "actions", "rewards") if key in arrays]:
        array = arrays[key].reshape(len(arrays[key]), -1)
        columns = np.flatnonzero(array.max(axis=0) == array.min(axis=0)) if len(array) > 1 else ()
        if len(columns):
            named = ", ".join(map(str, columns[:8]))
            found += [Fault(key, None, len(columns), f"{len(columns):,} columns never change: {named}")]
    return found


def _duplicates(arrays: Mapping[str, np.ndarray]) -> list[Fault]:
    """Rows whose observation, action and reward repeat an earlier row's."""
    columns = [float32(arrays[key]) for key in ("observations", "actions", "rewards")]
    rows = np.column_stack(columns) + np.float32(0)  # -0 becomes 0
    mixed = np.zeros(len(rows), np.uint64)
    for column in rows.T:  # a hash of each row finds the candidates, the comparison below decides
        mixed = (mixed ^ np.ascontiguousarray(column).view(np.uint32)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed, kind="stable")
    same = (mixed[order[1:]] == mixed[order[:-1]]) & (rows[order[1:]] == rows[order[:-1]]).all(axis=1)
    repeated = np.zeros(len(rows), bool)
    repeated[order[1:][same]] = True
    return at_rows("observations", repeated, "repeat an earlier row in observation, action and reward")
