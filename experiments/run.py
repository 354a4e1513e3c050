"""Trains a policy from a simulator and real data, and judges it in the real environment.

python experiments/run.py                          the default: H2O balances the wheel-legged robot
python experiments/run.py NAME --field value       any experiment of this folder, any field changed
python experiments/run.py path/to/mine.py          your own experiment file
python experiments/run.py --resume runs/NAME-...   goes on where an earlier run stopped
"""

import json
import sys
import time
from pathlib import Path

from experiments import experiment as experiments
from hybrid_jax import config

DEFAULT = "wheel_legged_h2o"


def main(arguments: list[str]) -> int:
    """The exit code: 0 done, 2 the user's mistake in one sentence, 130 stopped by Ctrl-C with a checkpoint."""
    started = time.monotonic()
    try:
        folder, arguments = _resumed(arguments)
        named = arguments and not arguments[0].startswith("-")
        chosen = experiments.load(arguments[0] if named else DEFAULT)
        described = __doc__ + "\nexperiments: " + ", ".join(experiments.names())
        chosen = config.parse(chosen, arguments[1:] if named else arguments, "run.py", described)

        from experiments import preflight  # after --help, for it brings JAX and MuJoCo

        ready = preflight.prepare(chosen, resuming=folder is not None)
    except (config.ConfigError, experiments.Refused) as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2

    from experiments import session

    return session.run(chosen, ready, arguments, folder, started)


def _resumed(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The folder behind --resume with the arguments it was started with, later ones appended."""
    if "--resume" not in arguments:
        return None, arguments
    at = arguments.index("--resume")
    if at + 1 == len(arguments):
        raise config.ConfigError("--resume needs the folder of an earlier run")
    folder = Path(arguments[at + 1])
    record = folder / "run.json"
    if not record.is_file():
        raise config.ConfigError(f"--resume {folder}: there is no run.json; give the folder that a run has made")
    return folder, json.loads(record.read_text())["arguments"] + arguments[:at] + arguments[at + 2 :]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
