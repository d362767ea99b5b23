import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec.compare.groups import activity_groups, popularity_groups

_COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=60).map(np.array)


@given(_COUNTS, st.integers(1, 6))
def test_activity_groups_part_users_by_their_numbers(counts, parts):
    groups = activity_groups(counts, parts)
    assert len(groups.of) == len(counts)
    assert sorted(set(groups.of.tolist())) == list(range(len(groups.titles)))
    assert 1 <= len(groups.titles) <= parts
    ends = [(counts[groups.of == g].min(), counts[groups.of == g].max()) for g in set(groups.of)]
    # Ranges that do not meet, in ascending order: equal numbers are in one group.
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))


def test_activity_groups_of_distinct_numbers_are_equally_large():
    groups = activity_groups(np.random.default_rng(0).permutation(100))
    assert np.bincount(groups.of).tolist() == [25] * 4
    assert groups.titles == ("0–24", "25–49", "50–74", "75–99")


@given(st.lists(st.integers(0, 40), min_size=2, max_size=60).map(np.array))
def test_the_head_is_a_fifth_of_the_items_and_the_most_popular(counts):
    groups = popularity_groups(counts)
    head, tail = counts[groups.of == 0], counts[groups.of == 1]
    assert len(head) == int(np.ceil(0.2 * len(counts)))
    assert len(head) + len(tail) == len(counts)
    assert head.min() >= tail.max()


def test_titles_say_the_shares():
    groups = popularity_groups(np.array([1, 1, 1, 6, 1]))
    assert groups.of.tolist() == [1, 1, 1, 0, 1]
    assert groups.titles[0] == "head: top 20 % of items (60 % of interactions)"
