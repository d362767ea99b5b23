"""Evaluation: ranks on the device, metrics from ranks, agreement of clusters."""

from fedjax_rec.evaluation.clusters import nmi
from fedjax_rec.evaluation.metrics import hit_ratio, mean, mrr, ndcg, recall

__all__ = ["hit_ratio", "mean", "mrr", "ndcg", "nmi", "recall"]
