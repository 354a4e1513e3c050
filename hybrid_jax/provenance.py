"""Where a figure comes from: the state of the code that made it."""

import subprocess
from pathlib import Path


def git_state(root: Path) -> dict[str, str | bool]:
    """The commit and whether tracked files differ from it; `commit` says why where there is none.

    Changes in docs/ do not count: results are written there, and no figure hangs on them.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "-uno", "--", ".", ":!docs")
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(changed)}
    except FileNotFoundError:
        return {"commit": "unknown: git is not installed", "changed": True}
    except subprocess.CalledProcessError as error:
        return {"commit": f"unknown: {error.stderr.strip()}", "changed": True}
