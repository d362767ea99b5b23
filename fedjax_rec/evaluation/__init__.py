"""Evaluation: ranks on the device, metrics from ranks, agreement of clusters."""

from fedjax_rec.evaluation.clusters import nmi
from fedjax_rec.evaluation.metrics import hit_ratio, mean, mrr, ndcg, recall
from fedjax_rec.evaluation.published import mrr_published, ndcg_published

__all__ = [
    "hit_ratio",
    "recall",
    "ndcg",
    "mrr",
    "mean",
    "ndcg_published",
    "mrr_published",
    "nmi",
]
