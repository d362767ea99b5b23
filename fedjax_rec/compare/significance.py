"""Is a difference between two methods more than chance? Paired tests over users.

Both methods rank the same held-out items of the same users, so what is tested is each user's own
difference d_u. Under the hypothesis that the methods are alike, every d_u is as likely to have the
other sign. The two-sided p-value of this **paired sign-flip (randomization) test** is the share of
all sign patterns s for which |Σ s_u d_u| ≥ |Σ d_u|: of up to 20 users that differ all patterns are
counted, of more the sum's normal limit is taken, z = Σ d_u / √Σ d_u².

It tests the mean, which is what tables show: the verdict cannot contradict the table's order, as
that of a signed-rank test can, and many users who do not differ at all (NDCG 0 twice) do no harm.
Users are the sample: it speaks of other users of that kind, averaged over these seeds.

Reference:
  Fisher, "The Design of Experiments", 1935. Smucker, Allan & Carterette, "A comparison of
  statistical significance tests for information retrieval evaluation", CIKM 2007. Holm, "A simple
  sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["TEST", "holm", "sign_flip_p"]

#: The test in words, for captions and files.
TEST = "paired two-sided sign-flip (randomization) test over users, Holm-corrected"

_MOST_EXACT = 20  # users that differ: a million sign patterns
_EQUAL = 1e-9  # relative: sums of the same numbers in another order


def sign_flip_p(differences: ArrayLike) -> float:
    """The p-value of the two-sided paired sign-flip test.

    Args:
      differences: [users] float, finite, one method's value minus the other's.

    Returns:
      From 0 to 1; 1 where nobody differs.

    Example:
      >>> sign_flip_p([0.5, 0.25, 0.125])  # 2 of the 8 sign patterns are as extreme
      0.25
    """
    values = np.asarray(differences, np.float64)
    values = values[values != 0]
    if len(values) == 0:
        return 1.0
    seen = abs(values.sum())
    if len(values) > _MOST_EXACT:
        return math.erfc(seen / math.sqrt(2 * np.square(values).sum()))
    # With the first sign fixed, half of the patterns; the others are their mirror images.
    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    slack = _EQUAL * np.abs(values).sum()
    return float(np.mean(np.abs(sums) >= seen - slack))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values for their number.

    The i-th smallest of n becomes max over j ≤ i of min(1, (n − j + 1)·p_j): rejecting what is
    below α keeps the chance of any false rejection at α, whatever the tests have in common.

    Args:
      p_values: of the tests of one family.

    Returns:
      The corrected ones, in the same order.

    Example:
      >>> holm([0.5, 0.25, 0.125])
      [0.5, 0.5, 0.375]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected
