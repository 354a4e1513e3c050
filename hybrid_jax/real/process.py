"""The operating system's process that a robot runs in, and the line to it."""

import os
import signal
import socket
import subprocess
import sys
from typing import Any

from hybrid_jax.real.wire import Channel

_GRACE = 0.05  # [s] between asking a process to end and ending it
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # small nets: no threads


class Process:
    """A running `python -m hybrid_jax.real.robot`."""

    def __init__(self, order: dict[str, Any]):
        """order: the first message, which says what robot it is to be."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hybrid_jax.real.robot", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        self.channel = Channel(ours)
        self.channel.send(order)

    def end(self, patience: float = 0.0) -> str:
        """Ends it where it has not ended within `patience` seconds, by force if need be; says how it ended."""
        self.channel.close()
        with self._process as process:
            for seconds, end in ((patience, process.terminate), (_GRACE, process.kill)):
                try:
                    process.wait(seconds)
                    break
                except subprocess.TimeoutExpired:
                    end()
            code = process.wait()
        if code < 0:
            return f"its process was ended by {signal.Signals(-code).name}"
        return f"its process ended with code {code}"
