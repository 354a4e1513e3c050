"""The experiment on finite chains: its numbers, its words for what is wrong with a file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import chain_file, mixing_two_state
from experiments.chain_file import TWO_STATES

SHORT = ["--steps", "4000", "--seeds", "24", "--capacity", "20"]
FILE = Path(mixing_two_state.__file__)


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_default_is_the_two_states_of_the_docs(capsys, tmp_path):
    assert mixing_two_state.main([*SHORT, "--out", str(tmp_path)]) == 0
    told = last_line(capsys)
    assert told["eta_closed"] == pytest.approx(7 / 20)
    assert told["v_closed"] == pytest.approx(91 / 66)
    closed = [(run["eta_closed"], run["v_closed"]) for run in told["runs"]]
    np.testing.assert_allclose(closed, [(7 / 20, 91 / 66), (7 / 20, 91 / 66), (47 / 100, 2491 / 2330)])
    np.testing.assert_allclose(list(told["wrong_v"].values()), [3 / 2, 4 / 3])
    for run in told["runs"]:
        assert abs(run["eta"] - run["eta_closed"]) < max(0.02, 5 * run["eta_error"])
        assert abs(run["v"] - run["v_closed"]) < max(0.06, 5 * run["v_error"])
    assert (tmp_path / "mixing_two_state.png").stat().st_size > 10_000


def test_a_chain_of_ones_own_with_a_discount(capsys, tmp_path):
    rng = np.random.default_rng(0)
    own = {
        "transitions": rng.dirichlet(np.ones(3), (2, 3)).tolist(),
        "rewards": [[0.0, 1.0, 2.0], [0.5, 1.0, 2.0]],
        "features": np.eye(3).tolist(),
        "beta": [0.7, 0.3],
        "q": [0.2, 0.8],
        "gamma": 0.5,
    }
    (tmp_path / "mine.json").write_text(json.dumps(own))
    assert mixing_two_state.main(["--chain", str(tmp_path / "mine.json"), *SHORT]) == 0
    told = last_line(capsys)
    assert [run["name"] for run in told["runs"]] == ["separate stores", "one store"]
    # V = r_b + gamma P_b V by its definition
    laws = [np.linalg.matrix_power(np.array(P), 200)[0] for P in own["transitions"]]
    each = np.array(own["beta"])[:, None] * laws
    w = each / each.sum(axis=0)
    kernel = np.einsum("ks,kst->st", w, own["transitions"])
    value = np.linalg.solve(np.eye(3) - 0.5 * kernel, np.sum(w * own["rewards"], axis=0))
    np.testing.assert_allclose(told["v_closed"], value)
    np.testing.assert_allclose(told["v"], value, atol=0.06)
    np.testing.assert_allclose(told["eta"], told["eta_closed"], atol=0.03)


MISTAKES = {
    "transitions": [
        ([[0.5, 0.5], [0.5, 0.5]], r"transitions has shape \[2, 2\]; give K square matrices"),
        ([[[0.5, 0.5]], [[0.5, 0.5]]], r"transitions has shape \[2, 1, 2\]"),
        ([[[0.5, 0.4], [0.5, 0.5]]] * 2, r"transitions\[0\]\[0\] is \[0.5, 0.4\], sum 0.9; .* add up to 1"),
        ([[[1.5, -0.5], [0.5, 0.5]]] * 2, r"transitions\[0\]\[0\] is \[1.5, -0.5\]"),
        ([[[np.nan, 0.5], [0.5, 0.5]]] * 2, r"transitions\[0\]\[0\] is \[nan, 0.5\]"),
        ([[[0.5, 0.5], [0.5, 0.5]], [[1, 0], [0.5, 0.5]]], r"transitions\[1\] is reducible: state 1 is never reached"),
        ([[[0.5, 0.5], [0, 1]], [[0.5, 0.5], [0.5, 0.5]]], r"transitions\[0\] is reducible: state 0 .* from state 1"),
        ([[[0.5, 0.5], [0.5, 0.5]], [[0, 1], [1, 0]]], r"transitions\[1\] is periodic with period 2; let"),
        ([[[0.5, 0.5], [0.5]]], "transitions is no regular array"),
    ],
    "rewards": [
        ([0, 1, 2], r"rewards has shape \[2, 3\]; .* shape \[2, 2\]"),
        ([0, float("inf")], "rewards is .*inf.* all finite"),
        (["a", 1], "rewards is no regular array of numbers"),
    ],
    "features": [
        ([0, 1], r"features has shape \[2\]"),
        ([[0.0], [0.0]], "features has 1 columns of rank 0"),
        ([[1.0, 2.0], [2.0, 4.0]], "features has 2 columns of rank 1; leave out"),
        ([[1.0, 0.0], [0.0, 1.0]], "features spans the constant.* or give a gamma"),
        ([[1.0], [1.0]], "features spans the constant"),
    ],
    "beta": [
        ([0.5, 0.4], r"beta is \[0.5, 0.4\]; give numbers >= 0 that add up to 1"),
        ([1.5, -0.5], "beta is"),
        ([1.0], r"beta has shape \[1\]"),
    ],
    "q": [
        ([0.5, 0.6], "q is"),
        ([[0.5, 0.5], [0.5, 0.6]], r"q is \[0.5, 0.6\]"),
        ([0, 1], r"q\[0\] is 0 and beta\[0\] is 0.5; visit what is learned from"),
        ([], "q is an empty list|q has shape"),
    ],
    "gamma": [(1.0, "gamma is 1.0; give a number in"), ("0.9", "gamma is '0.9'"), (True, "gamma is True")],
}


@pytest.mark.parametrize(
    ("key", "value", "message"), [(key, *case) for key, cases in MISTAKES.items() for case in cases]
)
def test_each_mistake_has_its_sentence(key, value, message):
    with pytest.raises(ValueError, match=message) as error:
        chain_file.checked(TWO_STATES | {key: value})
    assert "\n" not in str(error.value)


def test_one_hot_features_are_fine_with_a_discount():
    chain_file.checked(TWO_STATES | {"features": [[1, 0], [0, 1]], "gamma": 0.9})


def test_keys_and_files_that_are_wrong(tmp_path, capsys):
    with pytest.raises(ValueError, match="a key 'betta'; it knows"):
        chain_file.checked(TWO_STATES | {"betta": [1]})
    with pytest.raises(ValueError, match="the chain has no 'beta'"):
        chain_file.checked({key: value for key, value in TWO_STATES.items() if key != "beta"})
    for text, message in (("{", "is no JSON"), ("[1]", "holds a list; give an object")):
        (tmp_path / "bad.json").write_text(text)
        assert mixing_two_state.main(["--chain", str(tmp_path / "bad.json")]) == 2
        assert message in capsys.readouterr().err
    assert mixing_two_state.main(["--chain", str(tmp_path / "none.json")]) == 2
    assert mixing_two_state.main(["--steps", "10"]) == 2
    assert "--steps 10 is too small" in capsys.readouterr().err


def test_help_shows_the_form_of_a_chain():
    told = subprocess.run([sys.executable, FILE, "--help"], capture_output=True, text=True, check=True).stdout
    assert json.dumps(TWO_STATES) in told
