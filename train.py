"""Trains and evaluates: python train.py --config=configs/demo.py --workdir=runs/demo [--config.SECTION.FIELD=VALUE]."""

from absl import flags

from bdf_jax import cli, launch
from bdf_jax.training.preemption import preemptible

CONFIG = cli.define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics.jsonl; made where missing.")
PROCESSES = launch.define_flags()


def main(_) -> None:
    """Checks the configuration, then trains."""
    config = cli.read_config(CONFIG)
    workdir = cli.required(WORKDIR)
    with launch.joined(PROCESSES), preemptible():
        from bdf_jax.training.loop import run  # the configuration is checked before a second is spent on imports

        run(config, workdir)


if __name__ == "__main__":
    cli.main(main)
