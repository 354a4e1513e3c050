"""What a user says of a real environment, and the states that its robot can be in."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

KINDS = ("error", "bad answer", "doubt", "hang", "death", "refused", "emergency stop", "disk")  # of faults


class RobotStopped(Exception):
    """The robot cannot go on by itself: one sentence with the reason and the cure."""


class Halted(Exception):
    """The run was told to stop; the robot holds."""


class State(Enum):
    """What the robot is doing."""

    STARTING = "starting"
    HOLD = "hold"
    RUN = "run"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Deadlines:
    """Seconds after which silence counts as a hang."""

    connect: float = 60.0  # process started, environment built, journal opened
    reset: float = 120.0
    step: float | None = None  # None: ten periods but at least 0.5 s, and 5 s where there is no clock
    hold: float = 5.0  # signs of life while it stands still; the environment's own `hold`
    close: float = 10.0  # from the order to close to the end of the process, the last hold included


@dataclass(frozen=True)
class Settings:
    """A real environment and how to treat it."""

    factory: str  # module:function
    episode_length: int  # control steps until a clock ends an episode
    rate: float = 0.0  # [Hz] control steps a second; 0: as fast as it goes
    options: dict[str, Any] = field(default_factory=dict)  # keyword arguments of the factory, JSON
    seed: int = 0
    reward_range: tuple[float, float] = (-1e6, 1e6)
    frozen_after: int = 25  # equal observations in a row that flag a frozen sensor; 0: never
    deadlines: Deadlines = Deadlines()
    retries: int = 5  # attempts in a row before the robot is STOPPED
    retry_wait: float = 1.0  # [s] before the first new attempt; doubled each time, 60 s at most
