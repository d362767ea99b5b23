"""What happens to an upload before it leaves, and what it weighs on the wire."""

from fedjax_rec.uplink.clip import clip_rows
from fedjax_rec.uplink.laplace import laplace
from fedjax_rec.uplink.privacy import epsilon
from fedjax_rec.uplink.published import published_count
from fedjax_rec.uplink.quantize import quantize_rows
from fedjax_rec.uplink.similarities import Similarities, SimilaritySum, SimilarityUplink
from fedjax_rec.uplink.symmetric import pairs, triangle
from fedjax_rec.uplink.transform import Transform, chain, identity
from fedjax_rec.uplink.wire import WireFormat, dense, labels

__all__ = [
    "Similarities",
    "SimilaritySum",
    "SimilarityUplink",
    "Transform",
    "WireFormat",
    "chain",
    "clip_rows",
    "dense",
    "epsilon",
    "identity",
    "labels",
    "laplace",
    "pairs",
    "published_count",
    "quantize_rows",
    "triangle",
]
