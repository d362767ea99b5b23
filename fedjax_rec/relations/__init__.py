"""How clients relate: what a server computes on its devices from all uploads of a round at once.

Pure functions on arrays whose first axis is the R rows of ``Uploads``, in an order of the engine's
and sharded over the devices. ``present`` [R] says which rows are clients of the round: the others
have no part in any result, whatever their content. Nothing here knows methods.
"""

from fedjax_rec.relations.draws import draw_clients
from fedjax_rec.relations.elbow import elbow_group
from fedjax_rec.relations.neighbours import neighbour_weights
from fedjax_rec.relations.simplex import project_to_simplex
from fedjax_rec.relations.subspaces import (
    complementarity,
    component_similarity,
    first_component,
    principal_basis,
)
from fedjax_rec.relations.tables import Mixed, add_blocks, cosine_similarities, mix_tables

__all__ = [
    "Mixed",
    "add_blocks",
    "complementarity",
    "component_similarity",
    "cosine_similarities",
    "draw_clients",
    "elbow_group",
    "first_component",
    "mix_tables",
    "neighbour_weights",
    "principal_basis",
    "project_to_simplex",
]
