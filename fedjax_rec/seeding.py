"""Every random number derives from (seed, round, purpose, client): one list of purposes.

Host randomness is ``numpy.random.default_rng([seed, round, purpose])``; device randomness folds
the same three numbers, and then the client's id, into a JAX key. No global generator is used, so
the same configuration gives the same run, whatever ran before it. (No JAX in this file: the data
room uses it too.)
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["Purpose", "host_rng"]


class Purpose(IntEnum):
    """What a stream of random numbers is for. Numbers are part of the file format: never reuse."""

    INIT_SERVER = 1
    INIT_CLIENT = 2
    COHORT = 3
    RECEIVE = 4
    LOCAL_UPDATE = 5
    UPLINK = 6
    SERVER_STEP = 7
    BETWEEN_ROUNDS = 8
    SPLIT = 9
    VALIDATION_CANDIDATES = 10
    TEST_CANDIDATES = 11
    SYNTHETIC = 12
    CLICKS = 13
    SWEEP = 14
    STORE = 15
    SERVER_FINISH = 16


def host_rng(seed: int, round_: int, purpose: Purpose, *ids: int) -> np.random.Generator:
    """The host's generator for one purpose in one round (round 0: before training).

    With ``ids``, such as a user's, that one's own.
    """
    return np.random.default_rng([seed, round_, int(purpose), *ids])
