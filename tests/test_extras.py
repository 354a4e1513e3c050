"""The columns beyond a transition's, against a log that is written out by hand."""

import numpy as np
import pytest

from hybrid_jax.datasets import extras, hdf5

# three episodes, one row each line: (observation, action, successor, terminal, timeout)
LOG = np.array([
    (0, 0.1, 1, 0, 0), (1, 0.2, 2, 0, 0), (2, 0.3, 3, 1, 0),
    (5, 0.4, 6, 0, 0), (6, 0.5, 7, 0, 1),
    (9, 0.6, 10, 0, 0), (10, 0.7, 11, 0, 0), (20, 0.8, 21, 0, 0), (21, 0.9, 22, 0, 0),
], np.float32)  # fmt: skip
DATASET = hdf5.Dataset(
    LOG[:, :1], np.stack([LOG[:, 1], -LOG[:, 1]], axis=1), LOG[:, 0], LOG[:, 2:3], LOG[:, 3] == 1, LOG[:, 4] == 1
)
# unknown: at a terminal, at a time limit, where the log jumps from 11 to 20 without a word, at the end of the file
KNOWN = np.array([1, 1, 0, 1, 0, 1, 0, 1, 0], np.float32)
FOLLOWING = np.array([0.2, 0.3, 0, 0.5, 0, 0.7, 0, 0.9, 0], np.float32)


def test_the_next_action_is_that_of_the_same_episodes_next_row():
    columns = extras.columns(DATASET, ["next_action_known", "next_action"])
    np.testing.assert_array_equal(columns["next_action_known"], KNOWN)
    np.testing.assert_array_equal(columns["next_action"], np.stack([FOLLOWING, -FOLLOWING], axis=1))
    assert all(column.dtype == np.float32 for column in columns.values())


def test_a_single_row_has_no_next_action():
    one = hdf5.Dataset(*(column[:1] for column in DATASET[:6]))
    np.testing.assert_array_equal(extras.columns(one, ["next_action"])["next_action"], [[0, 0]])
    assert extras.columns(DATASET, []) == {}


def test_a_column_that_no_log_gives_is_refused():
    with pytest.raises(ValueError, match="no column 'torque'; the known ones: next_action, next_action_known"):
        extras.columns(DATASET, ["next_action", "torque"])
