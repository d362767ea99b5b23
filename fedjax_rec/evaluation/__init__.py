"""Evaluation: ranks on the device, metrics from ranks, agreement of clusters."""

from fedjax_rec.evaluation.clusters import nmi
from fedjax_rec.evaluation.metrics import f1, hit_ratio, mean, mrr, ndcg, precision, recall
from fedjax_rec.evaluation.published import mrr_published, ndcg_published

__all__ = [
    "hit_ratio",
    "recall",
    "precision",
    "f1",
    "ndcg",
    "mrr",
    "mean",
    "ndcg_published",
    "mrr_published",
    "nmi",
]
