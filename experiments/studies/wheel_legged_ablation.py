"""The wheel-legged robot with 1 % of the log, under half the gap: which part of H2O costs it there?

There H2O falls behind the plain mix of its own rows (wheel_legged.py); between the two stand H2O without its weight and
without its penalty. The runs' metrics tell the rest: discriminators' accuracies, mean weight, penalty.
"""

from dataclasses import replace

from experiments.studies import wheel_legged
from experiments.study_grid import Study


def study() -> Study:
    whole = wheel_legged.study()
    return replace(
        whole,
        name="wheel_legged_ablation",
        title="Wheel-legged robot: what of H2O costs it when the log is small",
        tasks={name: replace(task, gaps={"0.5": task.gaps["0.5"]}) for name, task in whole.tasks.items()},
        methods=("mix", "h2o_no_weight", "h2o_no_penalty", "h2o"),
        shares=(0.01,),
        episodes_of=None,
    )
