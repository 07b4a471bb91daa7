"""What a test does with the commands and snippets of the documents: the tables to edit when a document changes.

A command in a document runs for real, in a folder that looks like a checkout with a trained network in it, unless
`NOT_RUN` says why it cannot. Nothing has to be entered here for a command that runs as it stands.
"""

import shutil
import types
from pathlib import Path

import numpy as np

# Written in a document -> used by the test ({sysu_mm01}, {regdb}, {llcm}: tiny worlds in those layouts).
REPLACED = (
    ("/data/SYSU-MM01", "{sysu_mm01}"),
    ("/data/RegDB", "{regdb}"),
    ("/data/LLCM", "{llcm}"),
    # No hub can be reached; tests/models read files of every kind into every backbone.
    ("--config.network.pretrained=timm/resnet50.tv_in1k", ""),
)

TINY = (
    "--config.network.trunk.kind=Tiny --config.network.pool.stripes=1 --config.data.image_size=32,16 "
    "--config.augment.pad=2 --config.data.identities=4 --config.data.images=2 "
    "--config.training.steps=2 --config.training.log_every=1 "
    "--config.data.world.train_ids=6 --config.data.world.test_ids=3 --config.data.world.images=2 "
    "--config.data.world.size=32,16 --config.evaluation.batch_size=16 --config.evaluation.baselines=False"
)
# Regular expression of a command -> flags added at its end, where the last one of a name wins: less of the same.
ADDED = (
    (r"^python train\.py ", TINY),
    (r"^python -m bdf_jax\.data\.world ", "--train-ids=4 --test-ids=2 --images=2 --height=32 --width=16"),
    # The reader's feature files are of the real test set, the test's are of a tiny world's.
    (r"^python evaluate\.py --features=.*--dataset=sysu_mm01", "--root={sysu_mm01}"),
    (r"^python benchmarks/retrieval\.py", "--sizes=300 --dimensions=8 --queries=4 --block=128"),
)

# Regular expression of a command -> why it does not run here. Its files and flags are checked all the same.
NOT_RUN = (
    (r"^(python|python3) -m venv ", "makes an environment, which the tests stand in already"),
    (r"^(\S*/)?pip install ", "downloads packages"),
    (r"=gs://BUCKET", "needs a bucket; tests/test_buckets.py has them"),
    (r"^python -m pytest", "is what runs this test"),
    (r"^python benchmarks/ablation\.py", "takes hours; bdf_jax's own runs are tested with every configuration"),
    (
        r"^python -m bdf_jax (trials|ablation|compare --config)",
        "trains many networks; tests/commands and tests/comparison run short ones",
    ),
    (
        r"^python benchmarks/evaluation\.py",
        "measures at the real sizes; tests/evaluation compares with plain loops",
    ),
    (
        r"^python benchmarks/(compiled|scaling)\.py",
        "compile ResNet-50; tests/training/test_analysis.py runs small ones",
    ),
    (r"^python tests/training/devices\.py", "takes a minute; tests/training/test_devices.py runs it"),
    (
        r"=runs/agw\b",
        "needs a published file, which nobody may hand on; tests/models/test_published.py converts some like it",
    ),
    (r"--format=onnx", "needs packages of an extra; tests/commands/test_export.py runs it where they are"),
    (r"^gcloud ", "needs a TPU pod"),
    (r"^srun ", "needs a SLURM cluster"),
    (r"--coordinator=", "waits for the other process; tests/training/test_processes.py starts both"),
    (r"^python benchmarks/real_pixels\.py", "takes half an hour; tests/real_pixels runs short versions"),
    (
        r"^(\S+=\S+ )*python benchmarks/(train_step|modalities)\.py",
        "take minutes; tests/test_benchmarks_train_step.py runs small ones",
    ),
    (
        r"^python benchmarks/(roofline|input|startup|release)\.py",
        "take minutes; tests/test_benchmarks.py and tests/test_startup.py run small ones",
    ),
)


def given(place: Path, trees: dict[str, Path]) -> dict[str, object]:
    """What a snippet may use without making it: the reader's own features and network outputs."""
    from bdf_jax.datasets import read_tree

    index = read_tree("sysu_mm01", trees["sysu_mm01"]).splits["test"]
    rng = np.random.default_rng(0)
    features_ND = rng.standard_normal((len(index), 8)).astype(np.float32)
    for name in ("ours", "theirs"):
        columns = {"pids": index.pids, "cams": index.cams, "modality": index.modalities, "names": index.names}
        np.savez(place / f"{name}.npz", features=features_ND + rng.standard_normal(features_ND.shape), **columns)
    np.save(place / "gallery.npy", rng.standard_normal((50, 8)).astype(np.float32))
    infrared = sorted((trees["sysu_mm01"] / "cam3").glob("*/*.jpg"))
    (place / "photos").mkdir()
    for i, path in enumerate(infrared[:4], 1):
        shutil.copy(path, place / "photos" / f"{i:04}.jpg")
    shutil.copytree(trees["sysu_mm01"] / "cam1", place / "people")
    return {
        # PyTorch is not installed: the three methods that the snippet calls, on NumPy arrays.
        "torch": types.SimpleNamespace(cat=lambda parts: _Tensor(np.concatenate(parts))),
        "features": np.array_split(features_ND, 3),
        "pids": index.pids.tolist(),
        "cams": index.cams.tolist(),
        "modality": index.modalities.tolist(),
        "names": index.names.tolist(),
        "queries_QD": rng.standard_normal((3, 8)).astype(np.float32),
        "features_PKMD": rng.standard_normal((4, 2, 4, 8)).astype(np.float32),
    }


class _Tensor:
    def __init__(self, values):
        self.values = values

    def cpu(self):
        return self

    def numpy(self):
        return self.values
