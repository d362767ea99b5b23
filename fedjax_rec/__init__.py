"""Federated recommendation, simulated with all clients as one batched pytree in JAX.

>>> import fedjax_rec
>>> data = fedjax_rec.load_dataset("synthetic", users=40, items=120)
>>> method = fedjax_rec.methods.pfedrec()
>>> result = fedjax_rec.simulate(method, data, rounds=1, progress=False)
>>> list(result.recommend(user=data.user_ids[0], k=3)["rank"])
[1, 2, 3]
"""

from fedjax_rec import evaluation, losses, methods, server
from fedjax_rec.api import simulate
from fedjax_rec.data import Dataset, Problem, load_dataset, make_problem
from fedjax_rec.errors import InputError, TrainingError
from fedjax_rec.simulation import Result

__all__ = [
    "Dataset",
    "InputError",
    "Problem",
    "Result",
    "TrainingError",
    "evaluation",
    "load_dataset",
    "losses",
    "make_problem",
    "methods",
    "server",
    "simulate",
]
