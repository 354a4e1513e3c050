"""A part of a Markdown file that a program writes, between two marks; the text around it is a person's and stays."""

from pathlib import Path

from hybrid_jax.config import ConfigError
from hybrid_jax.metrics import write_atomically

END = "<!-- study end -->"


def begin(program: str) -> str:
    """The mark that names who writes behind it."""
    return f"<!-- study begin: what stands between the two marks is written by {program} -->"


def around(path: Path, title: str, program: str) -> tuple[str, str]:
    """The text before and behind the marks, for a new file or part under this title.

    Raises ConfigError where the marks are damaged.
    """
    if not path.exists():
        return f"# {title}\n\n", "\n"
    text, opening = path.read_text(), begin(program)
    found = text.count(opening), text.count(END)
    if found == (0, 0):
        return f"{text.rstrip()}\n\n## {title}\n\n", "\n"
    before, _, rest = text.partition(opening)
    if found != (1, 1) or END not in rest:
        raise ConfigError(f"{path}: it needs the line {opening!r} once and the line {END!r} once behind it, or neither")
    return before, rest.partition(END)[2]


def write(path: Path, kept: tuple[str, str], lines: list[str], program: str) -> None:
    """Puts the lines between the marks, in one step."""
    before, after = kept
    write_atomically(path, before + "\n".join([begin(program), *lines, END]) + after)
