"""Progress against a clock that the test winds."""

import io

from hybrid_jax.progress import Progress


class Clock:
    """Answers the times it was given, one per call."""

    def __init__(self, *times):
        self.times = iter(times)

    def __call__(self):
        return next(self.times)


def test_plain_progress_prints_rates_returns_and_time_left():
    stream = io.StringIO()
    with Progress("h2o", 2000, interval=5.0, stream=stream, clock=Clock(0.0, 2.0, 6.0)) as progress:
        progress.update(100, sim_steps=1000)
        progress.update(300, sim_steps=1400, real_return=123.4)
        progress.update(700, sim_steps=10_000, real_steps=3, sim_return=2500.0)
    # From t = 0 to 6 s: 600 updates, 9,000 sim and 3 real steps; 1,300 updates at 100/s are 13 s.
    assert stream.getvalue().splitlines() == [
        "h2o: 100/2,000 updates",
        "h2o: 700/2,000 updates, 0:13 left | 100 updates/s | 1,500 sim steps/s | 0.5 real steps/s"
        " | real return 123 | sim return 2,500",
    ]


def test_plain_progress_ends_with_the_last_state_without_colour_codes():
    stream = io.StringIO()
    with Progress("sim_only", 90, interval=60.0, stream=stream, clock=Clock(0.0, 1.0)) as progress:
        progress.update(10)
        progress.update(90)
    assert stream.getvalue().splitlines() == [
        "sim_only: 10/90 updates",
        "sim_only: 90/90 updates, 0:00 left | 80 updates/s",
    ]


def test_rates_are_means_over_the_last_ten_seconds():
    stream = io.StringIO()
    with Progress("h2o", 1000, stream=stream, interval=0.0, clock=Clock(0, 5, 10, 15, 20)) as progress:
        for updates in (0, 500, 500, 510, 520):
            progress.update(updates)
    # The slow last ten seconds count, the fast start no more: 20 updates in 10 s.
    assert stream.getvalue().splitlines()[-1] == "h2o: 520/1,000 updates, 4:00 left | 2 updates/s"


def test_progress_on_a_terminal_draws_a_bar_that_fits_80_columns(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with Progress("h2o", 20_000, stream=stream, clock=Clock(0.0, 1.0)) as progress:
        progress.update(100, sim_steps=0)
        progress.update(12_900, sim_steps=9000, real_return=24_310.0, sim_return=26_110.0)
    last = stream.getvalue()
    assert "━" in last and "12,900/20,000 updates, 0:01 left" in last
    assert "12,800 updates/s | 9,000 sim steps/s | real return 24,310 | sim return 26,110\n" in last
