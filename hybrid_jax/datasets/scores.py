"""Scores of data sets."""

import numpy as np


def episode_returns(data):
    ends = np.flatnonzero(data.terminals | data.timeouts)
    starts = np.concatenate([[0], ends[:-1] + 1])
    return np.array([data.rewards[a : b + 1].sum() for a, b in zip(starts, ends, strict=True)])


def behaviour_return(data) -> float:
    return float(episode_returns(data).mean())
