"""The commands of `python -m bdf_jax`: one module each, with `add_arguments(parser)` and `run(arguments)`."""
