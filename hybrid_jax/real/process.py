"""The operating system's process that a robot runs in, and the line to it."""

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from hybrid_jax.real.wire import Channel, WireError

_GRACE = 0.05  # [s] between asking a process to end and ending it, where it does not begin to hold its robot
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # small nets: no threads


class Process:
    """A running `python -m hybrid_jax.real.robot`."""

    def __init__(self, order: dict[str, Any], alarm: int | None = None):
        """order: the first message, which says what robot it is to be; alarm: see `Supervisor`."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hybrid_jax.real.robot", str(theirs.fileno())],
                pass_fds=[theirs.fileno()] + ([] if alarm is None else [alarm]),
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        self.channel = Channel(ours)
        self.channel.send(order | {"alarm": alarm})

    def interrupt(self) -> None:
        """Breaks off what its environment is doing: the robot is held and the process ends, by itself."""
        self._process.terminate()

    def end(self, patience: float = 0.0, hold: float = 0.0) -> str:
        """Ends it where it has not ended within `patience` seconds, by force if need be; says how it ended.

        hold: [s] that it may take to hold its robot, once it says that it has begun to.
        """
        with self._process as process:
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.terminate()
                self._let_hold(hold)
                process.kill()
            code = process.wait()
        self.channel.close()
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with code {code}"

    def _let_hold(self, seconds: float) -> None:
        begun, longest = time.monotonic(), _GRACE
        while self._process.poll() is None and time.monotonic() - begun < longest:
            try:
                message = self.channel.receive(0.005)
            except WireError:  # it is about to end
                time.sleep(0.005)
                continue
            if message is not None and message[0].get("phase") == "hold":
                longest = seconds
