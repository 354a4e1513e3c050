"""Overrides, refusals, JSON form and hash of configs."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from hybrid_jax import config as configs


@dataclass(frozen=True)
class Learner:
    """How the policy learns."""

    beta: float = 0.01  # weight of the penalty
    hidden: tuple[int, ...] = (64, 64)  # sizes of the hidden layers
    limits: tuple[float, float] = (-1.0, 1.0)  # lower and upper
    ratio: Literal["learned", "one"] = "learned"  # the importance weight
    entropy_in_backup: bool = True  # subtract the entropy in the target

    def __post_init__(self):
        if self.beta < 0:
            raise ValueError(f"the weight is {self.beta}; give one >= 0.")


class other:
    @dataclass(frozen=True)
    class Learner:
        """Another way to learn."""

        rate: float = 0.1  # step size


@dataclass(frozen=True)
class Experiment:
    """One run."""

    seed: int = 0  # seed of every random choice
    dataset: Path | None = None  # an HDF5 file of real transitions
    target_entropy: float | None = -2.0  # None takes the default of the action size
    make: Callable = math.sin  # builds the environment
    algorithm: Learner | other.Learner = Learner()  # the learner


DEFAULTS = Experiment()


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("--seed 3", "seed", 3),
        ("--seed=3", "seed", 3),
        ("--seed 3 --seed 4", "seed", 4),
        ("--algorithm.beta 2e-2", "algorithm.beta", 0.02),
        ("--target-entropy -1.5", "target_entropy", -1.5),
        ("--target_entropy None", "target_entropy", None),
        ("--target_entropy none", "target_entropy", None),
        ("--dataset logs/a.hdf5", "dataset", Path("logs/a.hdf5")),
        ("--algorithm.hidden 256,256", "algorithm.hidden", (256, 256)),
        ("--algorithm.hidden 256 128 64", "algorithm.hidden", (256, 128, 64)),
        ("--algorithm.hidden=(32,)", "algorithm.hidden", (32,)),
        ("--algorithm.limits -2 0.5", "algorithm.limits", (-2.0, 0.5)),
        ("--algorithm.ratio one", "algorithm.ratio", "one"),
        ("--algorithm.entropy-in-backup false", "algorithm.entropy_in_backup", False),
        ("--algorithm.entropy_in_backup=False", "algorithm.entropy_in_backup", False),
        ("--algorithm.entropy_in_backup", "algorithm.entropy_in_backup", True),
    ],
)
def test_an_override_sets_its_field_and_no_other(line, name, expected):
    start = replace(DEFAULTS, algorithm=replace(DEFAULTS.algorithm, entropy_in_backup="backup=" not in line))
    got = configs.parse(start, line.split(), "run.py", "")
    head, _, rest = name.partition(".")
    value = getattr(getattr(got, head), rest) if rest else getattr(got, head)
    assert value == expected and type(value) is type(expected)
    if rest:
        assert replace(got, algorithm=replace(got.algorithm, **{rest: getattr(start.algorithm, rest)})) == start
    else:
        assert replace(got, **{head: getattr(start, head)}) == start


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--algorithm beta=0.5", {"beta": 0.5}),
        ("--algorithm beta=0.5,ratio=one", {"beta": 0.5, "ratio": "one"}),
        ("--algorithm=beta=0.5,ratio=one", {"beta": 0.5, "ratio": "one"}),
        ("--algorithm beta=0.5 ratio=one", {"beta": 0.5, "ratio": "one"}),
        ("--algorithm beta=0.5, ratio=one,", {"beta": 0.5, "ratio": "one"}),
        ("--algorithm hidden=32,16,beta=2", {"hidden": (32, 16), "beta": 2.0}),
        ("--algorithm limits=-2,3,entropy-in-backup=false", {"limits": (-2.0, 3.0), "entropy_in_backup": False}),
        ("--algorithm beta=1,beta=2", {"beta": 2.0}),
        ("--algorithm beta=1 --algorithm.beta 2", {"beta": 2.0}),
        ("--algorithm.beta 2 --algorithm beta=1", {"beta": 1.0}),
        ("--algorithm beta=1 --algorithm ratio=one", {"beta": 1.0, "ratio": "one"}),
    ],
)
def test_a_nested_config_takes_several_fields_at_once(line, expected):
    """The others keep what the config holds, which need not be the class's default."""
    start = replace(DEFAULTS, seed=9, algorithm=Learner(beta=0.7, hidden=(1, 2), limits=(0.0, 9.0)))
    got = configs.parse(start, line.split(), "run.py", "")
    assert got == replace(start, algorithm=replace(start.algorithm, **expected))


def test_a_nested_config_within_a_nested_one_is_named_with_its_dot():
    @dataclass(frozen=True)
    class Whole:
        run: Experiment = DEFAULTS

    got = configs.override(Whole(), ["--run", "seed=4,algorithm.beta=0.3"])
    assert got.run == replace(DEFAULTS, seed=4, algorithm=replace(DEFAULTS.algorithm, beta=0.3))
    assert configs.override(Whole(), ["--run.algorithm", "ratio=one"]).run.algorithm.ratio == "one"


def test_no_arguments_give_the_defaults():
    assert configs.parse(DEFAULTS, [], "run.py", "") == DEFAULTS


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        (
            "--algorithm.betta 0.1",
            ["--algorithm.betta", "did you mean --algorithm.beta?", "--seed", "--dataset"],
        ),
        ("--zzzzzzz 1", ["--zzzzzzz", "known ones: --seed"]),
        ("--make 1", ["unknown field --make"]),
        ("--see 1", ["--see ", "did you mean --seed?"]),
        ("--seed 1.5", ["--seed takes an int, not '1.5'"]),
        ("--seed", ["--seed takes an int, and none was given"]),
        ("--seed 1 2", ["--seed takes an int, not '1 2'"]),
        ("--algorithm.beta x", ["--algorithm.beta takes a float, not 'x'"]),
        ("--target_entropy x", ["--target_entropy takes a float or None, not 'x'"]),
        ("--algorithm.ratio two", ["--algorithm.ratio takes one of learned, one, not 'two'"]),
        ("--algorithm.hidden a,b", ["--algorithm.hidden takes values of type an int separated by", "'a,b'"]),
        ("--algorithm.limits 1", ["--algorithm.limits takes 2 values (a float, a float), not '1'"]),
        ("--algorithm.entropy_in_backup maybe", ["--algorithm.entropy_in_backup takes a bool, not 'maybe'"]),
        ("--algorithm 3", ["--algorithm takes NAME=VALUE pairs separated by commas, not '3'", "names: beta, hidden,"]),
        ("--algorithm", ["--algorithm takes NAME=VALUE pairs", "and none was given; its names: beta"]),
        ("--algorithm betta=1", ["--algorithm has no field 'betta' (did you mean beta?); its names: beta, hidden, li"]),
        ("--algorithm beta=1,zzzz=3", ["--algorithm has no field 'zzzz'; its names: beta, hidden, limits, ratio, ent"]),
        ("--algorithm beta=x,ratio=one", ["--algorithm.beta takes a float, not 'x'"]),
        ("--algorithm beta=,ratio=one", ["--algorithm.beta takes a float, and none was given"]),
        ("--algorithm entropy_in_backup=", ["--algorithm.entropy_in_backup takes a bool, and none was given"]),
        ("--algorithm beta=1,ratio", ["--algorithm.beta takes a float, not '1,ratio'"]),
        ("--algorithm ratio=two", ["--algorithm.ratio takes one of learned, one, not 'two'"]),
        ("--algorithm beta=-1,ratio=one", ["--algorithm.beta, --algorithm.ratio: the weight is -1.0; give one >= 0."]),
        ("--seed seed=3", ["--seed takes an int, not 'seed=3'"]),
        ("--algorithm.beta -1", ["--algorithm.beta: the weight is -1.0; give one >= 0."]),
        ("half_cheetah --seed 1", ["unexpected argument 'half_cheetah'"]),
    ],
)
def test_a_bad_override_ends_with_code_2_and_one_sentence(line, parts, capsys):
    with pytest.raises(SystemExit) as stop:
        configs.parse(DEFAULTS, line.split(), "run.py", "")
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.startswith("run.py: ") and err.count("\n") == 1
    for part in parts:
        assert part in err


def test_an_unknown_field_names_every_known_one(capsys):
    with pytest.raises(SystemExit):
        configs.parse(DEFAULTS, ["--nope", "1"], "run.py", "")
    listed = capsys.readouterr().err.split("known ones: ")[1].rstrip(".\n").split(", ")
    own = ["seed", "dataset", "target_entropy"]
    learner = ["beta", "hidden", "limits", "ratio", "entropy_in_backup"]
    assert listed == [f"--{name}" for name in own] + [f"--algorithm.{name}" for name in learner]


def test_help_shows_every_field_with_its_comment_and_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        configs.parse(DEFAULTS, ["--help"], "run.py", "Trains a policy.")
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "Trains a policy." in out and "run.py" in out
    assert "Several fields of one group: --GROUP NAME=VALUE,NAME=VALUE." in out
    for name, comment, default in (
        ("--seed", "seed of every random choice", "0"),
        ("--dataset", "an HDF5 file of real transitions", "None"),
        ("--target-entropy", "None takes the default of the action size", "-2.0"),
        ("--algorithm.beta", "weight of the penalty", "0.01"),
        ("--algorithm.hidden", "sizes of the hidden layers", "64 64"),
        ("--algorithm.entropy-in-backup", "subtract the entropy in the target", "True"),
    ):
        assert name in out and comment in out and f"(default: {default})" in out


def test_to_json_is_plain_and_complete():
    config = replace(DEFAULTS, dataset=Path("a.h5"), algorithm=replace(DEFAULTS.algorithm, beta=math.inf))
    assert configs.to_json(config) == {
        "seed": 0,
        "dataset": "a.h5",
        "target_entropy": -2.0,
        "make": "math:sin",
        "algorithm": {
            "beta": "inf",
            "hidden": [64, 64],
            "limits": [-1.0, 1.0],
            "ratio": "learned",
            "entropy_in_backup": True,
        },
    }
    assert configs.to_json(replace(DEFAULTS, seed={"a": (1, None)}))["seed"] == {"a": [1, None]}
    with pytest.raises(TypeError, match=r"field seed holds a set"):
        configs.to_json(replace(DEFAULTS, seed={1}))


def test_diff_holds_the_changed_fields_only():
    config = configs.parse(DEFAULTS, ["--algorithm.beta", "0.5", "--seed", "0", "--dataset", "x"], "run.py", "")
    assert configs.diff(config, DEFAULTS) == {"algorithm.beta": 0.5, "dataset": "x"}
    assert configs.diff(DEFAULTS, DEFAULTS) == {}


def test_the_hash_is_that_of_the_canonical_json_and_tells_configs_apart():
    canonical = b'{"beta":0.01,"entropy_in_backup":true,"hidden":[64,64],"limits":[-1.0,1.0],"ratio":"learned"}'
    assert configs.config_hash(Learner()) == hashlib.sha256(canonical).hexdigest()
    assert configs.config_hash(Learner(beta=0.02)) != configs.config_hash(Learner())
