"""Trains a policy from a simulator and real data, and judges it in the real environment.

python experiments/run.py                          the default: H2O balances the wheel-legged robot
python experiments/run.py NAME --field value       any experiment of this folder, any field changed
python experiments/run.py NAME --method cql        another learner on the same data, networks and budget
python experiments/run.py path/to/mine.py          your own experiment file
python experiments/run.py --resume runs/NAME-...   goes on where an earlier run stopped
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from experiments.stopping import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the imports below take seconds

from experiments import experiment as experiments
from experiments import methods
from hybrid_jax import config

DEFAULT = "wheel_legged_h2o"


def main(arguments: list[str]) -> int:
    """The exit code: 0 done, 2 the user's mistake in one sentence, 3 the robot stopped, 4 the numbers went bad.

    130 or 143: stopped by SIGINT or SIGTERM, with a checkpoint.
    """
    started = time.monotonic()
    try:
        return _run(arguments, started)
    except KeyboardInterrupt as signal:
        print("run.py: stopped; what the last checkpoint holds can be resumed", file=sys.stderr)
        return 128 + getattr(signal, "number", 2)


def _run(arguments: list[str], started: float) -> int:
    try:
        folder, arguments = _resumed([_long(word) for word in arguments])
        named = arguments and not arguments[0].startswith("-")
        chosen = experiments.load(arguments[0] if named else DEFAULT)
        described = (
            __doc__ + "\nexperiments: " + ", ".join(experiments.names()) + "\nmethods: " + ", ".join(methods.METHODS)
        )
        method, words = _method(arguments[1:] if named else arguments)
        if method is not None:
            chosen = methods.chosen(chosen, method)
        asked = config.parse(chosen, words, "run.py", described)
        if (asked.sim, asked.real) != (chosen.sim, chosen.real) and asked.columns == chosen.columns:
            asked = replace(asked, columns=())  # they name another task's observations

        from experiments import preflight, session

        ready = preflight.prepare(asked, folder)
    except (config.ConfigError, experiments.Refused) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    try:
        return session.run(asked, ready, arguments, folder, started)
    except experiments.Refused as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2


def _method(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The learner behind `--method NAME`, which brings the settings that the other words change, and those words."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--method=") else [word])]
    if "--method" not in words:
        return None, words
    at = words.index("--method")
    if at + 1 == len(words):
        raise config.ConfigError(f"--method needs a name: {', '.join(methods.METHODS)}")
    return words[at + 1], words[:at] + words[at + 2 :]


def _resumed(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The folder behind --resume with the arguments it was started with, later ones appended."""
    arguments = [part for word in arguments for part in _split_resume(word)]
    if "--resume" not in arguments:
        return None, arguments
    at = arguments.index("--resume")
    if at + 1 == len(arguments):
        raise config.ConfigError("--resume needs the folder of an earlier run")
    folder = Path(arguments[at + 1])
    record = folder / "run.json"
    if not record.is_file():
        raise config.ConfigError(f"--resume {folder}: there is no run.json; give the folder that a run has made")
    try:
        first = json.loads(record.read_text())["arguments"]
    except (ValueError, KeyError) as error:
        raise config.ConfigError(f"--resume {folder}: its run.json is damaged ({error}); start anew") from error
    return folder, first + arguments[:at] + arguments[at + 2 :]


def _long(word: str) -> str:
    """`--real` names the environment, so its rate lives beside the robot's other settings; both names are taken."""
    return word.replace("--real.rate", "--live.rate", 1) if word.split("=")[0] == "--real.rate" else word


def _split_resume(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--resume=") else [word]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
