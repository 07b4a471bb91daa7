"""The methods, one file each: `bdf_jax.method.registry` finds them."""
