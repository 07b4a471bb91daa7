"""A synthetic visible-infrared world, written in the layouts of the published data sets.

Both real data sets are under licence; this one is not. The same reader, protocols and commands run on it.
What the same person shares across modalities is shape, the edges between garments and a share of brightness
(`correlation`); colour does not carry over.
"""

from bdf_jax.data.world.render import person_strip, render
from bdf_jax.data.world.write import write_world

__all__ = ["person_strip", "render", "write_world"]
