"""Stages of a training: which are kept, what an archive gives back, and a whole training on the point mass."""

import numpy as np
import pytest

from envs import point_mass
from experiments import stages, train_policies
from hybrid_jax import evaluate


def _stage(steps, score, value=0.0):
    return stages.Stage(steps, score, {"a": {"kernel": np.full((2, 3), value), "bias": np.full(3, value)}})


def test_the_first_stage_to_reach_each_level_is_kept():
    seen = [_stage(i, score) for i, score in enumerate((0.0, 1.0, 0.5, 4.0, 3.0, 10.0, 9.0))]
    kept = stages.chosen(seen, 5)  # levels 0, 2.5, 5, 7.5, 10
    assert [stage.steps for stage in kept] == [0, 3, 5]
    assert [stage.steps for stage in stages.chosen(seen, 1)] == [0]


def test_qualities_by_hand():
    archive = [_stage(i, score) for i, score in enumerate((-100.0, 0.0, 290.0, 310.0, 900.0, 850.0))]
    steps = {q: [s.steps for s in stages.of_quality(archive, q)] for q in ("medium", "medium_replay", "expert")}
    assert steps == {"medium": [3], "medium_replay": [0, 1, 2, 3], "expert": [4]}  # 40 % of the way is 300
    assert [s.steps for s in stages.of_quality(archive, "medium_expert")] == [3, 4]


def test_an_archive_gives_back_half_precision(tmp_path):
    path = tmp_path / "deep" / "task.npz"
    rng = np.random.default_rng(0)
    saved = [_stage(i, i / 3, rng.normal()) for i in range(3)]
    stages.save(path, saved)
    for before, after in zip(saved, stages.load(path), strict=True):
        assert (after.steps, after.score) == (before.steps, np.float32(before.score))
        np.testing.assert_array_equal(after.actor["a"]["bias"], stages.rounded(before.actor)["a"]["bias"])
        np.testing.assert_allclose(after.actor["a"]["kernel"], before.actor["a"]["kernel"], rtol=2**-11)
    with pytest.raises(ValueError, match="there is no stage"):
        stages.save(path, [])
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match="holds x; it is no archive of stages"):
        stages.load(tmp_path / "other.npz")


def test_a_training_leaves_its_course(tmp_path):
    out = tmp_path / "point_mass.npz"
    words = ["--training.steps", "400", "--training.warmup", "100", "--training.evaluate_every", "100"]
    words += ["--training.chunk", "50", "--training.algorithm.hidden", "8", "--training.algorithm.batch_real", "16"]
    assert train_policies.main(["point_mass", "--out", str(out), "--test_episodes", "2", *words]) == 0
    curve = np.loadtxt(out.with_suffix(".csv"), delimiter=",", skiprows=1)
    np.testing.assert_array_equal(curve[:, 0], [100, 200, 300, 400])
    env = point_mass.make_real()
    for stage in stages.load(out):  # the returns are those of the policies as the archive gives them back
        episodes = evaluate.real_episodes(env, stage.policy, 2, 0, point_mass.SPEC.episode_length)
        assert np.mean([episode.total for episode in episodes]) == pytest.approx(stage.score, rel=1e-5)
    assert train_policies.main([]) == 2 and train_policies.main(["point_mass", "--training.steps", "130"]) == 2
