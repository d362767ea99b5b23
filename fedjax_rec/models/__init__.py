"""Score functions as small flax modules: (user slot, item rows) -> logits."""

from fedjax_rec.models.concat import Concat
from fedjax_rec.models.fusion import FusionKind, FusionNetwork
from fedjax_rec.models.linear_head import LinearHead, head_rows, score_by_row
from fedjax_rec.models.mf import MF
from fedjax_rec.models.mlp import MLP
from fedjax_rec.models.ncf import NCF, USER_SIDE, user_side_and_network
from fedjax_rec.models.score import score

__all__ = [
    "Concat",
    "FusionKind",
    "FusionNetwork",
    "LinearHead",
    "MF",
    "MLP",
    "NCF",
    "USER_SIDE",
    "head_rows",
    "score",
    "score_by_row",
    "user_side_and_network",
]
