"""H2O's own table: HalfCheetah, three gaps, D4RL's three full data sets, the paper's sizes, five seeds of ours.

For an accelerator, where the seeds of a cell run at once; 15 or 45 runs of a million updates a method. The paper does
not tell its number of seeds. The logs are D4RL's `halfcheetah_medium-v2.hdf5` and so on, put into `data/d4rl/`; sets of
`experiments/collect.py` under these names serve as well, but are not the paper's. Cut runs go on from their last
checkpoint. ReBRAC has its coefficients of medium-replay.
"""

from dataclasses import replace

from experiments import half_cheetah_gravity_h2o
from experiments.experiment import DATA
from experiments.studies.half_cheetah import GAPS
from experiments.study_grid import Study, Task
from hybrid_jax import trainer
from hybrid_jax.datasets.normalised import D4RL

METHODS = ("sim_only", "cql", "cql_tuned", "rebrac", "rlpd_utd1", "mix", "darc", "darc_plus", "h2o")
LOGS = {"medium": "medium", "medium-replay": "medium_replay", "medium-expert": "medium_expert"}
ALONE = {"gravity": "4,513 +- 513", "friction": "2,684 +- 2,646", "joint noise": "4,137 +- 805"}
# (gap, data): CQL, DARC, DARC+, H2O of Niu et al. 2022, then H2O of D2C: mean and std over seeds of the real return
PUBLISHED = {
    ("gravity", "medium"): ("6,066 +- 73", "5,011 +- 456", "5,706 +- 440", "7,085 +- 416", "6,690 +- 93"),
    ("friction", "medium"): ("6,066 +- 73", "6,113 +- 104", "6,047 +- 112", "6,848 +- 445", "6,967 +- 259"),
    ("joint noise", "medium"): ("6,066 +- 73", "5,484 +- 171", "5,314 +- 520", "7,212 +- 236", "7,032 +- 82"),
    ("gravity", "medium-replay"): ("5,774 +- 214", "5,105 +- 460", "4,958 +- 540", "6,813 +- 289", "6,543 +- 230"),
    ("friction", "medium-replay"): ("5,774 +- 214", "5,503 +- 263", "5,288 +- 100", "5,928 +- 896", "5,506 +- 816"),
    ("joint noise", "medium-replay"): ("5,774 +- 214", "5,137 +- 225", "5,230 +- 209", "6,747 +- 427", "6,873 +- 150"),
    ("gravity", "medium-expert"): ("3,748 +- 892", "4,759 +- 353", "72 +- 109", "4,707 +- 779", "5,112 +- 436"),
    ("friction", "medium-expert"): ("3,748 +- 892", "9,038 +- 1,480", "7,989 +- 3,999", "6,745 +- 562", "4,890 +- 177"),
    ("joint noise", "medium-expert"): (
        "3,748 +- 892",
        "5,288 +- 104",
        "733 +- 767",
        "5,280 +- 1,329",
        "5,268 +- 1,493",
    ),
}
SOURCES = {
    "Niu et al. 2022 (arXiv 2206.13464), from its authors' slides": {
        place: {"sim_only": ALONE[place[0]], **dict(zip(("cql", "darc", "darc_plus", "h2o"), told[:4], strict=True))}
        for place, told in PUBLISHED.items()
    },
    "D2C, the same laboratory's library, at a million updates": {
        place: {"h2o": told[4]} for place, told in PUBLISHED.items()
    },
}  # fmt: skip


def study() -> Study:
    base = replace(
        half_cheetah_gravity_h2o.config(),
        rates=trainer.Rates(sims=10, unroll=100, updates=1_000, sim_capacity=1_000_000),
        updates=1_000_000,
        checkpoint_every=5,
    )
    logs = {label: {"dataset": DATA / "d4rl" / f"halfcheetah_{name}-v2.hdf5"} for label, name in LOGS.items()}
    return Study(
        name="half_cheetah_paper",
        title="HalfCheetah: H2O's table at the paper's sizes",
        tasks={"half_cheetah": Task(base, GAPS, logs, D4RL["halfcheetah"], SOURCES)},
        methods=METHODS,
        seeds=5,
        curves=True,
    )
