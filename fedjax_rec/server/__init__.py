"""Host work between rounds: communities, k-means, graphs, spectra. NumPy in, NumPy out."""

from fedjax_rec.server.clustering import kmeans
from fedjax_rec.server.communities import EmptyGraphWarning, communities, modularity
from fedjax_rec.server.laplace_mean import add_mean_laplace
from fedjax_rec.server.similarity import cosine_similarity_graph, similarity_graph
from fedjax_rec.server.spectrum import eigenbasis, leading_eigenvectors

__all__ = [
    "EmptyGraphWarning",
    "add_mean_laplace",
    "communities",
    "cosine_similarity_graph",
    "eigenbasis",
    "kmeans",
    "leading_eigenvectors",
    "modularity",
    "similarity_graph",
]
