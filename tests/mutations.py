"""Takes the handling of each row of the fault table out of the code: does a test notice?

    python -m tests.mutations [ROW ...]

Each row is changed in a copy of the project and its tests are run there; letters stand for further handlings of a row.
The last line is JSON with `rows`, `noticed` and the rows that were `missed`. About ten minutes for all.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
REAL = "hybrid_jax/real"
TABLE = "tests/test_fault_table.py"
ROBOT = "tests/test_robot.py"


class Row(NamedTuple):
    """One row of the fault table: what can happen, the handling, what stands there without it, and the test."""

    what: str
    file: str
    handling: str
    without: str
    test: str  # file, and words of the test's name for pytest -k


ROWS = {
    "1": Row(
        "step raises",
        f"{REAL}/robot.py",
        'self._give_up("error", f"{type(error).__name__}: {error}", traceback',
        "raise; (traceback",
        f"{TABLE} row_1_",
    ),
    "2": Row(
        "reset raises",
        f"{REAL}/supervisor.py",
        "if self._bad > self.settings.retries:",
        "if False:",
        f"{ROBOT} fails_for_ever",
    ),
    "3": Row(
        "hang",
        f"{REAL}/supervisor.py",
        "return limit if time.monotonic() - heard > limit else 0.0",
        "return 0.0",
        f"{ROBOT} hang",
    ),
    "4": Row(
        "late step",
        f"{REAL}/clock.py",
        "            flags |= Flag.LATE\n",
        "            pass\n",
        f"{ROBOT} late_answers",
    ),
    "5": Row(
        "death of the process",
        f"{REAL}/supervisor.py",
        "if attempt > self.settings.retries:",
        "if True:",
        f"{ROBOT} die",
    ),
    "6": Row(
        "the line is cut",
        f"{REAL}/supervisor.py",
        "wait = 0.0 if self._bad == 1 else self._wait_before(self._bad - 1)",
        "wait = 0.0",
        f"{TABLE} row_6",
    ),
    "7": Row("observation not finite", f"{REAL}/validate.py", "if bad.size:", "if False:", f"{TABLE} row_7"),
    "8": Row(
        "reward not finite or out of range",
        f"{REAL}/validate.py",
        "if not np.isfinite(reward) or not low <= reward <= high:",
        "if False:",
        f"{ROBOT} reward",
    ),
    "9": Row("another form", f"{REAL}/validate.py", " or array.shape != self._shape:", ":", f"{TABLE} row_9"),
    "10": Row(
        "frozen sensor",
        f"{REAL}/validate.py",
        "return Flag.FROZEN if self._frozen or self._thawed else Flag(0)",
        "return Flag(0)",
        f"{ROBOT} frozen",
    ),
    "11": Row(
        "record doubled or out of order",
        f"{REAL}/journal.py",
        "if record.sequence != self._next:",
        "if False:",
        "tests/test_journal.py another_form",
    ),
    "12": Row("wall clock jumps", f"{REAL}/clock.py", "time.monotonic()", "time.time()", f"{TABLE} row_12"),
    "13": Row(
        "policy not finite",
        f"{REAL}/gate.py",
        "if not np.all(np.isfinite(array)):",
        "if False:",
        f"{ROBOT} policy_that_breaks",
    ),
    "14": Row(
        "action out of bounds",
        f"{REAL}/gate.py",
        "np.clip(wanted, _inside(low), -_inside(-high))",
        "wanted",
        "tests/test_gate.py",
    ),
    "15": Row(
        "emergency stop",
        f"{REAL}/robot.py",
        "        self.body.untouchable = True\n        self._give_up",
        "        self._give_up",
        f"{ROBOT} emergency",
    ),
    "16": Row(
        "intervention",
        f"{REAL}/robot.py",
        'sent = self.checker.intervention(info["intervene_action"], self.gate.limits)',
        "pass",
        f"{TABLE} row_16",
    ),
    "17": Row("operator's abort", f"{REAL}/robot.py", ' or bool(info.get("abort"))', "", f"{ROBOT} aborts"),
    "18": Row(
        "SIGINT, SIGTERM",
        "experiments/stopping.py",
        "                for act in list(self._urgent):\n                    act()\n",
        "",
        "tests/test_stopping.py holds",
    ),
    "19": Row(
        "learner killed",
        f"{REAL}/robot.py",
        "            failed = self.body.hold()\n",
        '            failed = ""\n',
        f"{TABLE} row_19",
    ),
    "20": Row(
        "disk full, journal",
        f"{REAL}/robot.py",
        "except JournalError as full:",
        "except ZeroDivisionError as full:",
        f"{TABLE} row_20",
    ),
    "21": Row(
        "disk full, checkpoint",
        "experiments/training.py",
        "except SaveFailed as failed:",
        "except ZeroDivisionError as failed:",
        "tests/test_stopping.py disk_that",
    ),
    "22": Row(
        "learner stalls", f"{REAL}/wire.py", "if droppable and self._unsent:", "if False:", f"{TABLE} nobody_reads"
    ),
    "23": Row(
        "another robot",
        f"{REAL}/segments.py",
        "if theirs != schema:",
        "if False:",
        "tests/test_journal.py another_robot",
    ),
    "24": Row(
        "two writers",
        f"{REAL}/journal.py",
        "        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        f"{ROBOT} two_robots",
    ),
    "3b": Row(
        "learner keeps the interpreter",
        f"{REAL}/supervisor.py",
        "message = process.channel.receive(0.0)",
        "pass",
        f"{TABLE} keeps_the",
    ),
    "1b": Row(
        "hold after a fault",
        f"{REAL}/robot.py",
        "            reason += self._safe()\n        except EmergencyStop as stop:\n            kind",
        "            pass\n        except EmergencyStop as stop:\n            kind",
        f"{TABLE} row_1_",
    ),
    "15b": Row(
        "emergency stop among nonsense",
        f"{REAL}/robot.py",
        "self.body.stopped_by(answer)  # before",
        "pass  # before",
        f"{TABLE} row_15",
    ),
    "16b": Row(
        "gate after an intervention",
        f"{REAL}/robot.py",
        "self.gate.executed(sent)",
        "pass",
        f"{TABLE} after_an_operator",
    ),
    "18b": Row(
        "halt in a long reset",
        f"{REAL}/supervisor.py",
        "process.interrupt()",
        "pass",
        f"{TABLE} breaks_off_a_long",
    ),
    "18c": Row(
        "halt in the user's own hold",
        f"{REAL}/supervisor.py",
        'if self._phase != "hold":',
        "if True:",
        f"{TABLE} ramp",
    ),
    "19b": Row(
        "learner killed, robot hangs",
        f"{REAL}/robot.py",
        "    threading.Thread(target=end_with",
        "    (lambda **_: threading.Thread())(target=end_with",
        f"{TABLE} row_19",
    ),
    "22b": Row(
        "policy larger than the line",
        f"{REAL}/supervisor.py",
        "self._process.channel.post(message, arrays)",
        "self._process.channel.send(message, arrays)",
        f"{TABLE} large",
    ),
}


def notices(row: Row, folder: Path) -> bool:
    """Whether the row's tests pass as the code is, and fail without the handling. Raises where they do not pass."""
    copy = folder / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "runs", "__pycache__", ".venv"))
    path = copy / row.file
    whole = path.read_text()
    if row.handling not in whole:
        raise SystemExit(f"{row.what}: {row.file} no longer holds {row.handling!r}")
    if not _passes(row, copy):
        raise SystemExit(f"{row.what}: {row.test} fails as the code is")
    path.write_text(whole.replace(row.handling, row.without))
    return not _passes(row, copy)


def _passes(row: Row, copy: Path) -> bool:
    file, _, words = row.test.partition(" ")
    options = ["timeout=60", "timeout_method=thread"]  # a missing deadline shows itself as a hang
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file]
    command += [word for option in options for word in ("-o", option)]
    environment = os.environ | {"PYTHONPATH": str(copy), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command + (["-k", words] if words else []), cwd=copy, env=environment, capture_output=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{row.what}: pytest ended with {done.returncode}: {done.stdout.decode()[-500:]}")
    return done.returncode == 0


def main(asked: list[str]) -> None:
    """Prints one line a row; the last line is JSON."""
    rows = {number: row for number, row in ROWS.items() if not asked or number in asked}
    missed = []
    for number, row in rows.items():
        with tempfile.TemporaryDirectory() as folder:
            seen = notices(row, Path(folder))
        print(f"{number:>3}  {row.what:<36}{'noticed' if seen else 'MISSED'}", flush=True)
        missed += [] if seen else [number]
    print(json.dumps({"rows": len(rows), "noticed": len(rows) - len(missed), "missed": missed}))


if __name__ == "__main__":
    main(sys.argv[1:])
