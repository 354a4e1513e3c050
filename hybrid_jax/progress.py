"""How far a run is, shown while it goes on."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

_WINDOW = 10.0  # [s] rates are means over so long


class Progress:
    """Shows how far a training run is: updates and simulation steps per second, the last returns, time left.

    A bar on a terminal; elsewhere a plain line every `interval` [s] and one at the end. Rates are means over
    the last ten seconds; they leave out what came before the first `update`, the compilation.
    """

    def __init__(
        self,
        label: str,
        updates: int,
        interval: float = 5.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        from rich.console import Console
        from rich.live import Live

        self._label, self._updates, self._interval, self._clock = label, updates, interval, clock
        self._console = Console(file=stream or sys.stdout, highlight=False, soft_wrap=True)
        self._seen: deque[tuple[float, int, int, int]] = deque()  # time, updates, sim steps, real steps
        self._returns: dict[str, float] = {}
        self._count, self._figures = "compiling", ""
        self._printed, self._unprinted = -math.inf, False
        live = Live(get_renderable=self._picture, console=self._console, refresh_per_second=4)
        self._live = live if self._console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def update(
        self,
        updates: int,
        sim_steps: int = 0,
        real_steps: int = 0,
        real_return: float | None = None,
        sim_return: float | None = None,
    ) -> None:
        """Tells the totals so far; a return is given when it is new and stays shown until the next."""
        now = self._clock()
        self._seen.append((now, updates, sim_steps, real_steps))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW:
            self._seen.popleft()
        fresh = {"real": real_return, "sim": sim_return}
        self._returns |= {name: value for name, value in fresh.items() if value is not None}
        self._describe()
        self._unprinted = True
        if not self._live and now - self._printed >= self._interval:
            self._print()
            self._printed = now

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()
        elif self._unprinted:
            self._print()

    def _describe(self) -> None:
        """Puts the count with the time left, and the rates with the last returns, into words."""
        (start, u0, s0, r0), (now, u1, s1, r1) = self._seen[0], self._seen[-1]
        elapsed, figures = now - start, []
        self._count = f"{u1:,}/{self._updates:,} updates"
        if elapsed > 0 and u1 > u0:
            left = math.ceil((self._updates - u1) * elapsed / (u1 - u0))
            self._count += f", {left // 60}:{left % 60:02d} left"
            figures.append(f"{(u1 - u0) / elapsed:,.0f} updates/s")
            figures += [f"{(s1 - s0) / elapsed:,.0f} sim steps/s"] if s1 > s0 else []
            figures += [f"{(r1 - r0) / elapsed:,.1f} real steps/s"] if r1 > r0 else []
        figures += [f"{name} return {value:,.0f}" for name, value in self._returns.items()]
        self._figures = " | ".join(figures)

    def _print(self) -> None:
        self._console.print(" | ".join(filter(None, (f"{self._label}: {self._count}", self._figures))), markup=False)
        self._unprinted = False

    def _picture(self) -> Any:
        """Two lines, so that all fits 80 columns: the bar with the count, the figures below."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done = self._seen[-1][1] if self._seen else 0
        line = Table.grid(padding=(0, 1))
        line.add_row(self._label, ProgressBar(self._updates, done, width=24), self._count)
        return Group(line, Text(f"  {self._figures}"))
