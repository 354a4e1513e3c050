"""Fifteen SIGKILLs at random moments; `python benchmarks/kill.py --kills 200` does two hundred."""

from benchmarks import kill


def test_no_real_step_is_lost_or_doubled_by_kills(tmp_path):
    figures = kill.kill(15, seed=1, folder=tmp_path)
    assert figures["kills"] == 15 and figures["resumed"] > 5 and figures["steps"] > 100
    assert figures["lost"] == figures["doubled"] == figures["altered"] == figures["unreadable"] == 0
