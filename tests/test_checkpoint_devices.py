"""A checkpoint saved on some number of devices comes back bit for bit on any other: real processes, real shards."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from hybrid_jax.checkpoint import Checkpointer

ROOT = Path(__file__).parents[1]
# The spec of each leaf over a mesh with one axis of all devices.
SPECS = {"rows": ("d",), "columns": (None, "d"), "half": ("d",), "replicated": (), "keys": ("d",), "one": ()}


def numbers() -> dict[str, np.ndarray]:
    """The oracle: numpy's, so that every process makes the same without a device."""
    rng = np.random.default_rng(3)
    return {
        "rows": rng.standard_normal((16, 3)).astype(np.float32),
        "columns": rng.integers(-9, 9, (5, 8)).astype(np.int8),
        "half": rng.standard_normal(24).astype(jnp.bfloat16),
        "replicated": np.array([np.nan, -0.0, np.inf, 1e-45], np.float32),
        "keys": rng.integers(0, 2**32, (8, 2), np.uint32),
        "one": np.uint32(2**32 - 1).reshape(()),
    }


def state() -> dict[str, jax.Array]:
    made = {name: jnp.asarray(array) for name, array in numbers().items()}
    return made | {"keys": jax.random.wrap_key_data(made["keys"])}


def spread(tree: dict[str, jax.Array]) -> dict[str, jax.Array]:
    mesh = jax.make_mesh((jax.device_count(),), ("d",))
    return {name: jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*SPECS[name]))) for name, leaf in tree.items()}


def same(tree: dict[str, jax.Array]) -> bool:
    raw = tree | {"keys": jax.random.key_data(tree["keys"])}
    wanted = numbers()
    return raw.keys() == wanted.keys() and all(
        raw[name].dtype == wanted[name].dtype and np.asarray(raw[name]).tobytes() == wanted[name].tobytes()
        for name in wanted
    )


def save(folder: str, devices: int) -> None:
    spreaded = spread(state())
    assert len(spreaded["rows"].addressable_shards) == len(spreaded["replicated"].sharding.device_set) == devices
    assert spreaded["keys"].addressable_shards[0].data.shape == (8 // devices,)
    with Checkpointer(Path(folder)) as checkpoints:
        checkpoints.save(1, spreaded, {})


def restore(folder: str, devices: int) -> None:
    """Compares what comes back, and again after spreading it over this process' devices."""
    assert jax.device_count() == devices
    with Checkpointer(Path(folder)) as checkpoints:
        found, _, _ = checkpoints.restore(jax.eval_shape(state))
    assert same(found) and same(spread(found))
    assert not same(found | {"rows": found["rows"].at[-1, -1].add(1.0)})


def process(act: str, folder: Path, devices: int) -> subprocess.Popen:
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    code = f"from tests import test_checkpoint_devices as it; it.{act}({str(folder)!r}, {devices})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def ended(children: list[subprocess.Popen]) -> None:
    for child in children:
        _, told = child.communicate(timeout=120)
        assert child.returncode == 0, told


@pytest.mark.parametrize(("saving", "restoring"), [(4, (1, 2, 8)), (1, (4,))])
def test_the_number_of_devices_does_not_matter(tmp_path, saving, restoring):
    ended([process("save", tmp_path, saving)])
    ended([process("restore", tmp_path, devices) for devices in restoring])
