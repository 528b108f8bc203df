"""Compare batches of resident rows with transferred batches on several devices, for test_resident.

    python run_resident.py DATASET

The step returns the batches of all devices. The script ends with an error where they differ.
"""

import os
import sys
from pathlib import Path

import jax
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main(dataset: str) -> None:
    from jaxrec.config.loading import load_config
    from jaxrec.data.storage.dataset import Dataset
    from jaxrec.runtime import mesh, multihost, parallel_step
    from jaxrec.tasks.ranking import RankingTask
    from jaxrec.training.inputs import resident_rows
    from jaxrec.training.inputs.input_pipeline import training_input

    multihost.initialize(multihost.find_cluster(os.environ))
    resident_rows._CHUNK_BLOCKS = 2  # so that there are several chunks, each with rows of two devices
    config = load_config(str(ROOT / "configs/tiny.py"))
    config.train.resident = "always"
    data = Dataset(dataset)
    rows = data.rows("train")
    assert rows.blocks >= 3  # so that the devices hold different rows

    def everything(state, host, _):
        return state, jax.lax.all_gather(host, mesh.AXIS)

    for target_in_sequence in (False, True):  # with packed histories, and without
        config.model.target_in_sequence = target_in_sequence
        task = RankingTask(config, data.layout, data.manifest["completion_threshold"], 4, 40)
        inputs = training_input(task, rows)
        for mapping in ("pmap", "shard_map"):
            by_words = parallel_step.parallelize_step(everything, mapping)
            by_index = parallel_step.parallelize_step(everything, mapping, rows=inputs.rows)
            for t in (0, 5, 30):
                state = mesh.replicate(np.uint32(0))
                expected = by_words(state, inputs.stored[t], None)[1]
                actual = by_index(mesh.replicate(np.uint32(0)), inputs.source[t], None)[1]
                jax.tree.map(np.testing.assert_array_equal, *jax.device_get((actual, expected)))


if __name__ == "__main__":
    main(*sys.argv[1:])
