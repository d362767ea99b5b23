"""A made-up dataset with planted item clusters and user tastes, for demos, tests and sweeps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fedjax_rec.data.dataset import Dataset
from fedjax_rec.data.options import check_seed
from fedjax_rec.errors import InputError
from fedjax_rec.seeding import Purpose, host_rng

__all__ = ["synthetic"]

MIN_INTERACTIONS = 5
_CHUNK_CELLS = 4_000_000  # users x items held at once: 16 MB of float32, which the caches like.
_FEW_CELLS = 500_000_000  # up to so many users x items, a clock for each of them is quick enough.
_MOST_DRAWS = 16  # draws an item wanted, before repetitions are too many to go on.
_START = 1_600_000_000  # The first possible timestamp, 13 September 2020.
_SPAN = 365 * 86_400  # Users join within a year ...
_GAP = 3_600.0  # ... and interact about once an hour.
_TRUE_GENRES = 0.8  # Share of items whose genre is surely that of their cluster.
_GENRES = (
    *("Noir", "Comedy", "Space", "Western", "Romance", "Horror", "Musical", "Mystery"),
    *("Sports", "Nature", "History", "Fantasy", "Heist", "Anime", "War", "Family"),
)
_ADJECTIVES = (
    *("Silent", "Golden", "Broken", "Hidden", "Electric", "Distant", "Crimson", "Last"),
    *("Wandering", "Paper", "Midnight", "Frozen", "Gentle", "Burning", "Lost", "Second"),
)
_NOUNS = (
    *("Harbor", "Garden", "River", "Letter", "Mirror", "Station", "Summer", "Orchard"),
    *("Compass", "Island", "Promise", "Lantern", "Voyage", "Shadow", "Bridge", "Winter"),
)


def synthetic(
    *,
    users: int = 400,
    items: int = 300,
    clusters: int = 12,
    interactions_per_user: float = 30.0,
    taste: float = 0.15,
    breadth: float = 0.1,
    popularity: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Draws interactions of users whose tastes follow planted clusters of items.

    Item i of cluster c stands at rank r_i in its cluster's popularity and has the weight
    q_i = r_i^(-popularity), scaled to sum to 1 over the cluster (Zipf's law). User u likes
    clusters by t_u ~ Dirichlet(taste) and meets, with the share ``breadth``, things outside of
    that taste:

      p_u(i) ∝ ((1 - breadth) · t_u[c(i)] + breadth / clusters) · q_i

    The user's n_u items are drawn from p_u without replacement, all users at once, as the first
    n_u arrivals of exponential clocks with rates p_u(i) (the Gumbel top-k trick on a log scale).
    Beyond 500 million users x items, they are the first n_u distinct ones of draws with
    replacement, which have the same law and take no time for the items that nobody draws.
    n_u is 5 plus a geometric number, cut at half the items, so that nobody has seen everything.

    Args:
      users: number of users, each with 5 interactions or more.
      items: number of items, at least 10; every one has a column, drawn or not.
      clusters: number of planted clusters, of equal size up to one item.
      interactions_per_user: the mean of n_u before the cut, at least 5.
      taste: concentration of the Dirichlet; small: few clusters a user, large: all alike.
      breadth: share of interactions outside of the user's taste, 0 to 1 (0 excluded).
      popularity: exponent of the long tail; 0: all items of a cluster alike.
      seed: same seed and options, same dataset.

    Returns:
      Rows by user, each user's in order of time. ``item_cluster`` holds the planted truth;
      ``item_genres`` a genre that tells of it but is not the truth itself: the cluster's own for
      80 % of the items, one drawn from all genres for the others; ``item_titles`` made-up titles
      with that genre. Items are numbered at random, so that neighbours in number share nothing.
      Timestamps are whole seconds.

    Raises:
      InputError: an option out of its range.

    Example:
      >>> synthetic(users=50, items=40, clusters=4, interactions_per_user=8, seed=1).num_users
      50

    Reference:
      The clocks: Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006.
    """
    _check(users, items, clusters, interactions_per_user, taste, breadth, popularity)
    check_seed(seed)
    rng = host_rng(seed, 0, Purpose.SYNTHETIC)
    cluster = rng.permutation(np.arange(items) % clusters).astype(np.int32)
    # A rank within the cluster: the order of first appearance, which is random already.
    rank = np.empty(items, np.int64)
    by_cluster = np.argsort(cluster, kind="stable")
    sizes = np.bincount(cluster, minlength=clusters)
    rank[by_cluster] = np.concatenate([np.arange(1, size + 1) for size in sizes])
    weight = rank.astype(np.float64) ** -popularity
    weight /= np.bincount(cluster, weight, minlength=clusters)[cluster]

    likes = (1 - breadth) * rng.dirichlet(np.full(clusters, taste), users) + breadth / clusters
    extra = rng.geometric(1.0 / (interactions_per_user - MIN_INTERACTIONS + 1), users) - 1
    counts = np.minimum(MIN_INTERACTIONS + extra, items // 2)
    draw = _by_clocks if users * items <= _FEW_CELLS else _by_repetition
    item = draw(rng, likes, weight, cluster, counts)

    user = np.repeat(np.arange(users, dtype=np.int32), counts)
    seconds = _START + np.repeat(rng.integers(0, _SPAN, users), counts)
    gaps = np.cumsum(rng.exponential(_GAP, len(user)))
    first = np.repeat(np.cumsum(counts) - counts, counts)
    genres = _genres(rng, cluster, clusters)
    return Dataset(
        name="synthetic",
        user=user,
        item=item,
        timestamp=np.floor(seconds + gaps - gaps[first]),
        user_ids=np.char.add("u", np.arange(users).astype(str)),
        item_ids=np.char.add("i", np.arange(items).astype(str)),
        item_titles=_titles(genres),
        item_genres=genres,
        item_cluster=cluster,
    )


def _by_clocks(
    rng: np.random.Generator,
    likes: np.ndarray,
    weight: np.ndarray,
    cluster: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """Each user's ``counts`` items end to end, [sum of counts] int32, in random order."""
    items, most = len(weight), int(counts.max())
    # An arrival time is Exp(1) / rate; rates factor, so two divisions become products.
    slow_taste = (1.0 / likes).astype(np.float32)
    slow_item = (1.0 / weight).astype(np.float32)
    chunk = max(1, _CHUNK_CELLS // items)
    drawn = []
    for start in range(0, len(counts), chunk):
        rows = slice(start, start + chunk)
        arrival = rng.standard_exponential((len(counts[rows]), items), dtype=np.float32)
        arrival *= slow_item
        arrival *= slow_taste[rows][:, cluster]
        wanted = counts[rows]
        soonest = np.argpartition(arrival, most - 1, axis=1)[:, :most]
        soonest = np.take_along_axis(
            soonest, np.argsort(np.take_along_axis(arrival, soonest, axis=1), axis=1), axis=1
        )
        drawn.append(_mixed(rng, soonest, wanted))
    return np.concatenate(drawn)


def _by_repetition(
    rng: np.random.Generator,
    likes: np.ndarray,
    weight: np.ndarray,
    cluster: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """The same law: drawn with replacement, a cluster and an item of it; repetitions left out."""
    clusters = likes.shape[1]
    by_cluster = np.argsort(cluster, kind="stable")
    share = weight[by_cluster]
    starts = np.searchsorted(cluster[by_cluster], np.arange(clusters + 1))
    # All clusters' distributions end to end, and all users' (below): the k-th lies in k … k + 1.
    item_ends = np.concatenate(
        [k + np.cumsum(share[a:b]) / share[a:b].sum() for k, (a, b) in enumerate(pairwise(starts))]
    )
    most = int(counts.max())
    chunk = max(1, _CHUNK_CELLS // (_MOST_DRAWS * most))
    drawn = []
    for start in range(0, len(counts), chunk):
        rows = slice(start, start + chunk)
        wanted = counts[rows]
        own = likes[rows]
        owner = np.arange(len(own))[:, None]
        cluster_ends = (owner + np.cumsum(own, axis=1) / own.sum(axis=1, keepdims=True)).reshape(-1)

        def draw(columns, own=own, owner=owner, ends=cluster_ends):
            k = np.searchsorted(ends, owner + rng.random((len(own), columns)), side="right")
            k = np.minimum(k - clusters * owner, clusters - 1)
            place = np.searchsorted(item_ends, k + rng.random(k.shape), side="right")
            return by_cluster[np.minimum(place, starts[k + 1] - 1)]

        found = draw(2 * most)
        while True:
            new = _first_seen(found)
            short = new.sum(axis=1) < wanted
            if not short.any() or found.shape[1] >= _MOST_DRAWS * most:
                break
            found = np.concatenate([found, draw(found.shape[1])], axis=1)
        # New items first, in the order in which they came.
        order = np.argsort(~new, axis=1, kind="stable")[:, :most]
        picked = np.take_along_axis(found, order, axis=1)
        mixed = _mixed(rng, picked, wanted)
        ends = np.cumsum(wanted)
        for user in np.flatnonzero(short):  # tastes so narrow that most draws repeat
            who = slice(user, user + 1)
            alone = _by_clocks(rng, own[who], weight, cluster, wanted[who])
            mixed[ends[user] - wanted[user] : ends[user]] = alone
        drawn.append(mixed)
    return np.concatenate(drawn)


def _first_seen(found: np.ndarray) -> np.ndarray:
    """[users, n] bool: whether an item is new in its row, read from the left."""
    order = np.argsort(found, axis=1, kind="stable")
    ordered = np.take_along_axis(found, order, axis=1)
    new = np.ones(found.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    out = np.empty_like(new)
    np.put_along_axis(out, order, new, axis=1)
    return out


def _mixed(rng: np.random.Generator, items: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The first ``wanted`` items of each row, shuffled, end to end.

    Favourites come first, and the held-out last events are not to be the oddest of each user.
    """
    kept = np.arange(items.shape[1]) < wanted[:, None]
    shuffle = np.where(kept, rng.random(kept.shape, dtype=np.float32), np.float32(2.0))
    mixed = np.take_along_axis(items, np.argsort(shuffle, axis=1, kind="stable"), axis=1)
    return mixed[kept].astype(np.int32)


def _genres(rng: np.random.Generator, cluster: np.ndarray, clusters: int) -> np.ndarray:
    """[num_items] str: mostly the genre of the item's cluster, see `synthetic`."""
    # A stream of its own, so that content never changes what rng draws for the interactions.
    own = rng.spawn(1)[0]
    faithful = own.random(len(cluster)) < _TRUE_GENRES
    genre = np.where(faithful, cluster, own.integers(0, clusters, len(cluster)))
    names = [*_GENRES[:clusters], *(f"Genre-{n + 1}" for n in range(len(_GENRES), clusters))]
    return np.array(names, dtype=str)[genre]


def _titles(genres: np.ndarray) -> np.ndarray:
    """ "Silent Harbor (Noir)", numbered on where there are more items than names."""
    titles = []
    pairs = len(_ADJECTIVES) * len(_NOUNS)
    for number, genre in enumerate(genres.tolist()):
        # 37 and 256 share no factor: neighbours get unlike names, and none comes back early.
        pair = (37 * number) % pairs
        name = f"{_ADJECTIVES[pair // len(_NOUNS)]} {_NOUNS[pair % len(_NOUNS)]}"
        part = number // pairs
        titles.append(f"{name}{f' {part + 1}' if part else ''} ({genre})")
    return np.array(titles, dtype=str)


def _check(
    users: int,
    items: int,
    clusters: int,
    interactions_per_user: float,
    taste: float,
    breadth: float,
    popularity: float,
) -> None:
    for name, value in {"users": users, "items": items, "clusters": clusters}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise InputError(f"{name}={value!r} is no integer; give a whole number")
    rules = (
        (users >= 1, f"users={users} is below 1; ask for one or more"),
        (
            items >= 2 * MIN_INTERACTIONS,
            f"items={items} is below {2 * MIN_INTERACTIONS}; users take {MIN_INTERACTIONS} or "
            "more and never over half of the items",
        ),
        (
            1 <= clusters <= items,
            f"clusters={clusters} is outside 1 .. {items} (the items); ask for fewer clusters, "
            "or more items",
        ),
        (
            MIN_INTERACTIONS <= interactions_per_user <= items / 2,
            f"interactions_per_user={interactions_per_user} is outside {MIN_INTERACTIONS} .. "
            f"{items / 2:g} (half of the items); change it, or the items",
        ),
        (0 < taste < np.inf, f"taste={taste} is not a positive number; try 0.15"),
        (0 < breadth <= 1, f"breadth={breadth} is outside 0 (excluded) .. 1; try 0.1"),
        (0 <= popularity <= 5, f"popularity={popularity} is outside 0 .. 5; try 1.0"),
    )
    for holds, message in rules:
        if not holds:
            raise InputError(message)
