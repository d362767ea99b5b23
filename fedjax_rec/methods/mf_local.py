"""Local matrix factorization: FedMF with the federation switched off."""

from __future__ import annotations

from dataclasses import dataclass

from fedjax_rec.methods.alone import alone
from fedjax_rec.methods.contract import Method
from fedjax_rec.methods.mf_training import MFTraining, train_mf
from fedjax_rec.models import MF

__all__ = ["MFLocalConfig", "mf_local"]


@dataclass(frozen=True)
class MFLocalConfig(MFTraining):
    """Options of local matrix factorization: those of FedMF, less its upload."""

    init_std: float = 0.1


def mf_local(config: MFLocalConfig) -> Method:
    """Matrix factorization on every client for itself: nothing goes up, nothing comes down.

    The control of methods that share an MF's items. With one user a client its accuracy on
    held-out items can only be chance; silos of several users learn from one another.

    Args:
      config: options.

    Reference:
      "Local MF" in the tables of FedCIA (Han et al., 2025, arXiv:2504.14208) and RQFedRec.
    """
    return alone(
        "mf-local",
        config,
        model=lambda num_users: MF(num_users, config.init_std),
        embedding="embedding",
        initial_items=config.initial_items,
        train=train_mf,
    )
