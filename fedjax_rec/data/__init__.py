"""Interactions in: readers, known datasets, the synthetic one, splits, clients. Knows no jax."""

from fedjax_rec.data.centralize import centralize
from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.known import KNOWN_DATASETS, KnownDataset
from fedjax_rec.data.loading import cache_folder, load_dataset, locate
from fedjax_rec.data.negatives import draw_unseen
from fedjax_rec.data.noise import inject_clicks
from fedjax_rec.data.partition import partition
from fedjax_rec.data.prepare import PUBLISHED_NOTE, forbidden_items, make_problem
from fedjax_rec.data.problem import Problem, Protocol, Ragged, SplitName
from fedjax_rec.data.readers import (
    read_dataset,
    read_delimited,
    read_hetrec,
    read_movielens,
    read_npz,
    read_recbole,
)
from fedjax_rec.data.semantics import MissingSemanticsWarning, item_semantics
from fedjax_rec.data.splits import leave_one_out, ratio
from fedjax_rec.data.synthetic import synthetic
from fedjax_rec.data.writers import write_recbole

__all__ = [
    # Data in memory.
    "Dataset",
    "Problem",
    "Protocol",
    "Ragged",
    "SplitName",
    # Getting it.
    "load_dataset",
    "locate",
    "cache_folder",
    "KNOWN_DATASETS",
    "KnownDataset",
    "read_dataset",
    "read_delimited",
    "read_hetrec",
    "read_movielens",
    "read_npz",
    "read_recbole",
    "synthetic",
    "write_recbole",
    # What its items are about.
    "item_semantics",
    "MissingSemanticsWarning",
    # Making it ready.
    "make_problem",
    "centralize",
    "inject_clicks",
    "forbidden_items",
    "leave_one_out",
    "ratio",
    "partition",
    "draw_unseen",
    "PUBLISHED_NOTE",
]
