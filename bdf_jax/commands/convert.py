"""python -m bdf_jax convert FILE --out=DIR [--method=caj] [--dataset=regdb] [--config.SECTION.FIELD=VALUE]."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable

from bdf_jax.commands.configuration import changes_of
from bdf_jax.paths import check_local

TAKES_CONFIG = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("file", metavar="FILE", help="written by torch.save, or safetensors")
    parser.add_argument("--out", required=True, metavar="DIR", help="work folder to make")
    parser.add_argument("--method", default="", metavar="NAME", help="of several with such a network, as agw and caj")
    parser.add_argument(
        "--dataset",
        default="",
        metavar="NAME",
        help="whose recipe and protocol; default: the one with so many training identities, else sysu_mm01",
    )


def run(arguments: argparse.Namespace) -> None:
    """Converts and says what was taken, what was ignored, and what can be done with it."""
    check_local("FILE", [arguments.file])
    check_local("--out", [arguments.out])
    from bdf_jax.published import convert  # after the flags are checked: this imports JAX
    from bdf_jax.published.folder import write_folder

    converted = convert(
        arguments.file,
        method=arguments.method,
        dataset=arguments.dataset,
        changes=changes_of(arguments.overrides),
        texts=True,
    )
    folder = write_folder(converted, arguments.out)
    metadata = converted.metadata
    config, total = metadata.config, converted.used + len(converted.ignored)
    print(f"{arguments.file}: {config.method} for {config.data.dataset}, {metadata.num_classes} identities")
    print(f"{converted.used} of {total} tensors taken, {len(converted.ignored)} ignored{':' * bool(converted.ignored)}")
    for name, count in grouped(converted.ignored):
        print(f"  {name}: {count}")
    if converted.anew:
        print(f"parts of the training that the file lacks, with initial values: {', '.join(converted.anew)}")
    print(f"{folder}: to evaluate it, --workdir={arguments.out} --root=TREE; to train from it, ")
    print(f"--config.network.pretrained={arguments.out} with a --workdir of the training")


def grouped(names: Iterable[str]) -> list[tuple[str, int]]:
    """How many tensors there are below each module, in order; a whole stage of a ResNet is one."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")[:-1] or [name]
        stage = next((i for i, part in enumerate(parts) if part.startswith("layer")), len(parts) - 1)
        leaf = name.rpartition(".")[2]
        counter = leaf == "num_batches_tracked"
        counts["num_batches_tracked" if counter else ".".join(parts[: stage + 1])] += 1
    return list(counts.items())
