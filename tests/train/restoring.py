"""A program: saves a state of some size, or restores it on another mesh and prints what that took, as JSON.

    python -m tests.train.restoring WORKDIR save|restore DATA FSDP TENSOR

TOY_JOB: see `tests/train/toy.py`.
"""

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmduplex_jax.sharding import make_mesh
from mmduplex_jax.train.distributed import Job, take_part
from mmduplex_jax.train.step import make_program
from mmduplex_jax.weights.checkpoint import Checkpoints, RunFacts
from tests.train.toy import ToyTask, make_data, toy_config

ROWS, COLUMNS = 4096, 4096


class WideTask(ToyTask):
    """The toy with 64 MB of parameters more, and twice as much of moments."""

    def init(self, rng):
        make = nn.with_logical_partitioning(jax.nn.initializers.normal(1.0), ("embed", "mlp"))
        return super().init(rng) | {"wide": make(rng, (ROWS, COLUMNS), jnp.float32)}


class PeakMemory:
    """How many bytes of memory a block took more than there was before, at most."""

    def __enter__(self):
        self._begin, self.bytes, self._over = self._now(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._over.set()
        self._thread.join()

    def _watch(self):
        while not self._over.is_set():
            self.bytes = max(self.bytes, self._now() - self._begin)
            time.sleep(0.002)

    @staticmethod
    def _now() -> int:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()


def main() -> int:
    workdir, what, *sizes = sys.argv[1:]
    program = make_program(WideTask(), toy_config(), make_mesh(*map(int, sizes)))
    with Checkpoints(Path(workdir), 1, RunFacts({}, "")) as checkpoints:
        if what == "save":
            state = program.init_state()
            checkpoints.save(1, state, json.dumps(make_data().get_state()), {})
            checkpoints.finish()
            return 0
        with PeakMemory() as peak:
            state = jax.block_until_ready(checkpoints.restore(program.target, make_data()))
        held = [shard.data.nbytes for leaf in jax.tree.leaves(state) for shard in leaf.addressable_shards]
        wide = state.params["wide"]
        # Of the rows and columns that this process holds: compared with those of one that holds all.
        known = np.random.default_rng(0).integers(0, (ROWS, COLUMNS), (2000, 2))
        values = {}
        for shard in wide.addressable_shards:
            rows, columns = (range(*cut.indices(size)) for cut, size in zip(shard.index, wide.shape))
            data = np.asarray(shard.data)
            for row, column in known:
                if row in rows and column in columns:
                    values[f"{row},{column}"] = float(data[row - rows.start, column - columns.start])
        found = {"peak": peak.bytes, "held": sum(held), "values": values}
        found["whole"] = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        print(json.dumps(found), flush=True)
        return 0


if __name__ == "__main__":
    if "TOY_JOB" in os.environ:
        coordinator, *numbers = os.environ["TOY_JOB"].split()
        take_part(Job(coordinator, *map(int, numbers)), main)
    sys.exit(main())
