"""Score functions as small flax modules: (user slot, item rows) -> logits."""

from fedjax_rec.models.concat import Concat
from fedjax_rec.models.linear_head import LinearHead
from fedjax_rec.models.mf import MF
from fedjax_rec.models.ncf import NCF, user_side_and_network
from fedjax_rec.models.score import score

__all__ = ["Concat", "LinearHead", "MF", "NCF", "score", "user_side_and_network"]
