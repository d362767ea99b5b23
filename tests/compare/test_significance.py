import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedjax_rec.compare.significance import holm, sign_flip_p

# As NDCG@10 of one held-out item: 0, or a value of a rank.
_GAINS = [0.0, *(1 / math.log2(rank + 2) for rank in range(10))]
_VALUES = st.lists(st.sampled_from(_GAINS), min_size=1, max_size=9)


@given(st.lists(st.tuples(st.sampled_from(_GAINS), st.sampled_from(_GAINS)), max_size=9))
def test_of_few_users_every_sign_pattern_counts(pairs):
    gaps = np.array([a - b for a, b in pairs])
    seen = abs(gaps.sum())
    patterns = [np.dot(signs, gaps) for signs in itertools.product((-1, 1), repeat=len(gaps))]
    wanted = np.mean([abs(total) >= seen - 1e-9 for total in patterns])
    assert sign_flip_p(gaps) == pytest.approx(wanted)


def test_it_is_scipys_exact_paired_permutation_test():
    gaps = np.random.default_rng(3).normal(0.3, 1.0, 11)
    theirs = stats.permutation_test(
        (gaps, np.zeros(11)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    assert sign_flip_p(gaps) == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.06])
def test_of_many_users_the_limit_is_near_scipys_resampling(shift):
    rng = np.random.default_rng(7)
    gaps = rng.choice(_GAINS, 300) - rng.choice(_GAINS, 300) + shift
    theirs = stats.permutation_test(
        (gaps, np.zeros(300)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        batch=2_000,
        rng=np.random.default_rng(1),
    )
    assert sign_flip_p(gaps) == pytest.approx(theirs.pvalue, abs=0.015)


def test_the_limit_takes_over_without_a_jump():
    gaps = np.random.default_rng(0).normal(0.3, 1.0, 21)
    exact, limit = sign_flip_p(gaps[:20]), sign_flip_p(gaps)
    z = abs(gaps[:20].sum()) / math.sqrt(np.square(gaps[:20]).sum())
    assert exact == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)
    assert limit == pytest.approx(2 * stats.norm.sf(gaps.sum() / math.sqrt(np.sum(gaps**2))))


@given(_VALUES, st.integers(0, 30))
def test_signs_and_users_that_do_not_differ_change_nothing(gaps, zeros):
    p = sign_flip_p(gaps)
    assert 0 < p <= 1
    assert sign_flip_p([-gap for gap in gaps]) == p
    assert sign_flip_p([*gaps, *[0.0] * zeros]) == p


def test_alike_is_no_evidence():
    assert sign_flip_p([]) == sign_flip_p([0.0] * 50) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_procedure_rejects(p_values):
    """Step down from the smallest; stop at the first that is not below its share of α."""
    corrected = holm(p_values)
    for alpha in (0.01, 0.05, 0.3):
        rejected = set()
        order = sorted(range(len(p_values)), key=lambda i: p_values[i])
        for place, index in enumerate(order):
            if (len(p_values) - place) * p_values[index] >= alpha:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(corrected) if p < alpha} == rejected
    assert all(ours >= p for ours, p in zip(corrected, p_values, strict=True))
