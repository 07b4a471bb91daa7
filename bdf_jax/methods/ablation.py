"""The ablation (a) to (f) of the base-derivative framework: which views there are, and which edges MML and MDL have."""

import dataclasses

from bdf_jax.losses.terms import Triplet
from bdf_jax.method import Method
from bdf_jax.methods.base_derivative import BASE_DERIVATIVE
from bdf_jax.parts import Named

BOTH, VISIBLE, NONE = ("Dv", "Di"), ("Dv",), ()
BASE, ALL = "V>V I>I", "V>V I>I Dv>Dv Di>Di"
BI, BRIDGE = "V<>I", "V<>I V<>Di Dv<>I Dv<>Di"

ROWS = {  # derivatives, edges of MML, edges of MDL
    "a": (NONE, BASE, BI),  # the general losses
    "b": (VISIBLE, BASE, "V<>I Dv<>I"),  # XIV-like
    "c": (BOTH, BASE, BI),  # + DID: four modalities are classified
    "d": (BOTH, ALL, BI),  # + MML
    "e": (BOTH, BASE, BRIDGE),  # + MDL
    "f": (BOTH, ALL, BRIDGE),  # the full method
}


def row(derivatives: tuple[str, ...], mml: str, mdl: str) -> Method:
    """The framework with these derivatives and edges."""
    full = BASE_DERIVATIVE
    edges = {"mml": mml, "mdl": mdl}
    losses = Named(
        {
            name: dataclasses.replace(loss, edges=edges[name]) if isinstance(loss, Triplet) else loss
            for name, loss in full.losses.items()
        }
    )
    return dataclasses.replace(full, views=Named({name: full.views[name] for name in derivatives}), losses=losses)


VARIATIONS = {f"ablation_{letter}": row(*values) for letter, values in ROWS.items()}
