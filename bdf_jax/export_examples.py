"""The programs that an export has beside it, which need nothing of this project."""

from __future__ import annotations

EXAMPLE_OF_JAX = '''"""python {name} IMAGES.npy FEATURES.npy [visible|infrared]: needs nothing but jax and flatbuffers.

IMAGES.npy holds (N, {height}, {width}, 3) uint8, RGB; manifest.json says how they are to be made.
"""

import json
import pathlib
import sys

import jax.export
import jax.numpy as jnp

here = pathlib.Path(__file__).parent
manifest = json.loads((here / "manifest.json").read_text())
modality = (sys.argv[3:] or [{modality!r}])[0]
if len(sys.argv) < 3 or not sys.argv[1].endswith(".npy") or modality not in manifest["artifacts"]:
    sys.exit(f"{{__doc__}}\\nModalities here: {{', '.join(manifest['artifacts'])}}.")
program = here / manifest["artifacts"][modality]["file"]
images = jnp.load(sys.argv[1])
try:
    features = jax.export.deserialize(bytearray(program.read_bytes())).call(images)
except Exception as error:
    if images.dtype != jnp.uint8 or images.shape[1:] != ({height}, {width}, 3):
        sys.exit(f"{{sys.argv[1]}}: expected (N, {height}, {width}, 3) uint8, found {{images.shape}} {{images.dtype}}")
    reason = " ".join(str(error).split())[:200]
    sys.exit(
        f"{{program.name}} was written on {{manifest['exported']}} by JAX {{manifest['jax']}}, and JAX "
        f"{{jax.__version__}} here does not run it ({{reason}}). JAX reads such a program for about six months: "
        f"install that version (pip install jax=={{manifest['jax']}}), or write the program again from the run or from "
        "weights.safetensors, which does not age: python -m bdf_jax export --model=FOLDER --out=NEW_FOLDER"
    )
jnp.save(sys.argv[2], features)
print(features.shape, features.dtype)
'''

EXAMPLE_OF_NUMPY = '''"""python {name}: every weight by name; needs nothing but numpy."""

import json
import pathlib

import numpy as np

data = (pathlib.Path(__file__).parent / "{weights}").read_bytes()
start = 8 + int.from_bytes(data[:8], "little")
header = json.loads(data[8:start])
weights = {{
    name: np.frombuffer(data[start + about["data_offsets"][0] : start + about["data_offsets"][1]], np.float32)
    .reshape(about["shape"])
    for name, about in header.items()
    if name != "__metadata__"
}}
for name, array in sorted(weights.items()):
    print(name, array.shape, f"{{array.mean():.6g}}")
'''

EXAMPLE_OF_ONNX = '''"""python {name} IMAGES.npy FEATURES.npy [visible|infrared]: needs numpy and onnxruntime alone.

IMAGES.npy holds (N, {height}, {width}, 3) uint8, RGB; manifest.json says how they are to be made.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime

here = pathlib.Path(__file__).parent
programs = json.loads((here / "manifest.json").read_text())["onnx"]["artifacts"]
modality = (sys.argv[3:] or [{modality!r}])[0]
if len(sys.argv) < 3 or not sys.argv[1].endswith(".npy") or modality not in programs:
    sys.exit(f"{{__doc__}}\\nModalities here: {{', '.join(programs)}}.")
session = onnxruntime.InferenceSession(str(here / programs[modality]["file"]), providers=["CPUExecutionProvider"])
(features,) = session.run(None, {{"images": np.load(sys.argv[1])}})
np.save(sys.argv[2], features)
print(features.shape, features.dtype)
'''
