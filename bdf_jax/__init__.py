"""The base-derivative framework for visible-infrared person re-identification, in JAX."""
