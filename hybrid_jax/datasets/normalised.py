"""Returns on a scale that tasks share."""

from typing import NamedTuple


class Reference(NamedTuple):
    """The returns of a task that count as 0 and as 100."""

    nothing: float
    everything: float


# D4RL's constants (Fu et al. 2020, arXiv 2004.07219; d4rl/infos.py): a random policy's return and an expert's.
D4RL = {
    "halfcheetah": Reference(-280.178953, 12135.0),
    "hopper": Reference(-20.272305, 3234.3),
    "walker2d": Reference(1.629008, 4592.3),
}


def normalised(total: float, reference: Reference) -> float:
    """100 (J - nothing) / (everything - nothing)."""
    return 100.0 * (total - reference.nothing) / (reference.everything - reference.nothing)
