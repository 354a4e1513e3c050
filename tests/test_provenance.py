"""Where a figure comes from, in a repository made for it."""

import subprocess

from hybrid_jax.provenance import git_state


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


def test_changes_of_the_code_are_told_and_written_results_are_none(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("code.py", "docs/table.csv"):
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "init")
    assert str(git_state(tmp_path)["commit"]).startswith("unknown: ")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = git_state(tmp_path)
    assert len(str(clean["commit"])) == 40 and not clean["changed"]
    (tmp_path / "docs" / "table.csv").write_text("2\n")
    assert git_state(tmp_path) == clean
    (tmp_path / "code.py").write_text("2\n")
    assert git_state(tmp_path) == clean | {"changed": True}
