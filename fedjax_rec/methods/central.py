"""Centralized references: all users' data in one place, as if privacy were no concern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax

from fedjax_rec.batches import Batch, ClientData
from fedjax_rec.losses import binary_cross_entropy
from fedjax_rec.methods.alone import alone
from fedjax_rec.methods.contract import Info, Method
from fedjax_rec.methods.memory import Memory, Remembering, train_remembering
from fedjax_rec.methods.mf_training import MFTraining, train_mf
from fedjax_rec.methods.ncf_training import NCFTraining
from fedjax_rec.models import MF, score

__all__ = ["MFCentralConfig", "NCFCentralConfig", "mf_central", "ncf_central"]


@dataclass(frozen=True)
class MFCentralConfig(MFTraining):
    """Options of centralized matrix factorization. A round is an epoch over all data.

    Adam goes on from round to round. Rate, negatives and initialization are those of NCF's paper;
    its batches of 256 are made larger, which costs little accuracy and saves most of the time.
    """

    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    item_lr: float | None = 1e-3
    batch_size: int = 1024
    init_std: float = 0.01
    keep_optimizer: bool = True


@dataclass(frozen=True)
class NCFCentralConfig(NCFTraining, Remembering):
    """Options of centralized NCF. A round is an epoch over all data.

    Adam goes on from round to round. Rate, negatives and initialization are those of the paper;
    its batches of 256 are made larger, which costs little accuracy and saves most of the time.
    """

    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = 1e-3
    item_lr: float | None = 1e-3
    batch_size: int = 1024
    init_std: float = 0.01
    keep_optimizer: bool = True


def mf_central(config: MFCentralConfig) -> Method:
    """Matrix factorization on all users' data in one place: a reference without a federation.

    However the users are grouped, they are one client's. Nothing travels, and nothing is private.

    Args:
      config: options.

    Reference:
      He et al., "Neural Collaborative Filtering", WWW 2017, section 3.2 (its GMF with weights 1).
    """
    return alone(
        "mf-central",
        config,
        model=lambda num_users: MF(num_users, config.init_std),
        embedding="embedding",
        initial_items=config.initial_items,
        train=train_mf,
        centralized=True,
    )


def ncf_central(config: NCFCentralConfig) -> Method:
    """Neural collaborative filtering on all users' data in one place: what FedNCF falls short of.

    However the users are grouped, they are one client's. Nothing travels, and nothing is private.

    Args:
      config: options.

    Differs from the paper: GMF and MLP are trained together from the start, without pretraining.

    Reference:
      He et al., "Neural Collaborative Filtering", WWW 2017.
    """

    def train(
        key: jax.Array,
        parameters: Any,
        items: jax.Array,
        memory: Memory,
        data: ClientData,
        options: NCFCentralConfig,
    ) -> tuple[Any, jax.Array, Memory, Info]:
        model = options.model(data.num_users)

        def objective(parameters: Any, rows: jax.Array, batch: Batch) -> jax.Array:
            logits = score(model, parameters, batch.users, rows)
            return binary_cross_entropy(logits, batch.labels, batch.mask)

        return train_remembering(key, objective, parameters, items, memory, data, options)

    return alone(
        "ncf-central",
        config,
        model=config.model,
        embedding="user_gmf",
        initial_items=config.initial_items,
        train=train,
        centralized=True,
    )
