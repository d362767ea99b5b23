"""Host work between rounds: communities, k-means, quantization, spectra. NumPy in, NumPy out."""

from fedjax_rec.server.client_groups import Grouping, align_labels, group_clients
from fedjax_rec.server.clustering import kmeans
from fedjax_rec.server.codes import code_dtype, distinct_codes, hash_codes
from fedjax_rec.server.communities import EmptyGraphWarning, communities, modularity
from fedjax_rec.server.coordinates import principal_coordinates, quantize_columns
from fedjax_rec.server.laplace_mean import add_mean_laplace
from fedjax_rec.server.quantize import (
    UnusedCodewordsWarning,
    reconstruct,
    residual_kmeans,
    residual_means,
)
from fedjax_rec.server.rq_vae import rq_vae_codes
from fedjax_rec.server.similarity import cosine_similarity_graph, similarity_graph
from fedjax_rec.server.spectrum import eigenbasis, leading_eigenvectors

__all__ = [
    "EmptyGraphWarning",
    "Grouping",
    "UnusedCodewordsWarning",
    "add_mean_laplace",
    "align_labels",
    "code_dtype",
    "communities",
    "cosine_similarity_graph",
    "distinct_codes",
    "eigenbasis",
    "group_clients",
    "hash_codes",
    "kmeans",
    "leading_eigenvectors",
    "modularity",
    "principal_coordinates",
    "quantize_columns",
    "reconstruct",
    "residual_kmeans",
    "residual_means",
    "rq_vae_codes",
    "similarity_graph",
]
