"""Host work between rounds: communities, k-means, similarity graphs. NumPy in, NumPy out."""

from fedjax_rec.server.clustering import kmeans
from fedjax_rec.server.communities import EmptyGraphWarning, communities, modularity
from fedjax_rec.server.similarity import cosine_similarity_graph

__all__ = [
    "EmptyGraphWarning",
    "communities",
    "cosine_similarity_graph",
    "kmeans",
    "modularity",
]
