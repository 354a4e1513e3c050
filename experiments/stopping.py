"""SIGINT and SIGTERM: the robot holds at once, the run saves itself and ends; a second signal ends it at once."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_LAST = 1.0  # [s] after a second signal in which the program may end by itself
_SHOW_CURSOR = "\x1b[?25h"


class StopNow(KeyboardInterrupt):
    """A signal that cannot wait for a checkpoint; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def leave_at_once() -> None:
    """Until a `Stop` is entered, and after it, a signal ends the program: there is nothing to save.

    Python's own KeyboardInterrupt can be lost, in a callback of the garbage collector for one, and the run goes on.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)


def _leave(number: int, frame: Any) -> None:
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


class Stop:
    """Listens to both signals while it is entered; for the main thread.

    Python's own handlers wait for the main thread, which may be compiling or computing for seconds. What was
    registered by `at_once` is called by a thread that the operating system wakes.
    """

    def __enter__(self) -> "Stop":
        self.wanted: int | None = None  # the first signal
        self._seen, self._polled = 0, False
        self._left = threading.Event()  # the program has come to its end by itself
        self._urgent: list[Callable[[], None]] = []
        self._ours, self._theirs = socket.socketpair()
        self._theirs.setblocking(False)
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def fileno(self) -> int:
        """A descriptor that is readable from a signal on until this process's thread has acted.

        A robot's process that looks at it, and reads nothing, knows of the signal even while this one's interpreter
        is kept busy, as by a compilation.
        """
        return self._ours.fileno()

    def __exit__(self, *_: Any) -> None:
        self._left.set()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._theirs.close()
        self._thread.join()
        self._ours.close()

    @contextlib.contextmanager
    def polled(self) -> Iterator[None]:
        """Inside, the first signal only sets `wanted`, for the caller to see; elsewhere it raises StopNow."""
        self._polled = True
        try:
            yield
        finally:
            self._polled = False

    @contextlib.contextmanager
    def at_once(self, act: Callable[[], None]) -> Iterator[None]:
        """Inside, a signal calls `act` within milliseconds, from another thread; at the entry if one has come."""
        self._urgent.append(act)
        try:
            if self.wanted is not None:
                act()
            yield
        finally:
            self._urgent.remove(act)

    def _note(self, number: int, frame: Any) -> None:
        self.wanted = self.wanted or number
        self._seen += 1
        if self._seen > 1 or not self._polled:
            raise StopNow(number)

    def _listen(self) -> None:
        seen = 0
        while numbers := self._ours.recv(64):
            for number in filter(self._before.__contains__, numbers):
                self.wanted = self.wanted or number
                for act in list(self._urgent):
                    act()
                seen += 1
                if seen > 1 or not self._polled:  # what is raised may be lost, as in a callback of the collector
                    self._end(number)

    def _end(self, number: int) -> None:
        """Ends the program if the main thread, busy elsewhere, has not ended it soon."""
        if self._left.wait(_LAST):
            return
        if sys.stdout.isatty():
            sys.stdout.write(_SHOW_CURSOR)
        print(f"stopped at once by {signal.Signals(number).name}", file=sys.stderr, flush=True)
        os._exit(128 + number)
