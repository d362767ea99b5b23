"""Residual quantization on the host: an item as a few code ids, its vector as a sum of codewords.

    v_i ≈ Σ_l B^l[q_l(i)]

``residual_kmeans`` finds codes and codebooks together, ``residual_means`` the codebooks of codes
that are given.
"""

from __future__ import annotations

import warnings

import numpy as np

from fedjax_rec.errors import InputError, RunWarning
from fedjax_rec.server.clustering import require_finite
from fedjax_rec.server.codes import code_dtype, require_codes, require_codewords, require_counts

__all__ = [
    "UnusedCodewordsWarning",
    "residual_kmeans",
    "residual_means",
    "reconstruct",
]

# Beyond this many multiply-adds an iteration (items · dim · codewords), k-means goes by mini-batch.
# At 3·10¹⁰ a level took 63 s in full, and 11 s by mini-batch, which left 3 % more error (one core).
FULL_UP_TO = 2e10
# A bound on time: levels were measured to settle within it, or to gain 0.1 % of the error by more.
_ITERATIONS = 50
_SEEDED_FROM = 4_096
_BLOCK_ENTRIES = 2_000_000


class UnusedCodewordsWarning(RunWarning):
    """A level has fewer distinct residuals than codewords: the rest of its codebook is unused."""


def residual_kmeans(
    vectors: np.ndarray,
    *,
    levels: int,
    codewords: int,
    seed: int,
    mini_batch: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Residual k-means: every level clusters what the levels before leave of the vectors.

        q_l(i) = argmin_c ‖r_i^l − B^l[c]‖²,    r_i^{l+1} = r_i^l − B^l[q_l(i)],    r_i^1 = v_i

    Each level is scikit-learn's k-means (k-means++ start, Lloyd's iterations or mini-batches),
    followed in float64 by nearest centers, their means and nearest centers again. So the squared
    error never rises from level to level, up to float32 rounding, however far k-means came.

    The order of the items is no part of the result: k-means meets the distinct residuals in
    lexicographic order, weighted by how many items share them. Equal items get equal codes.

    A codeword that no item is nearest to moves to the item served worst. Where a level has no more
    distinct residuals than codewords, these residuals are the codewords, the error is zero, and
    codewords left over are zero vectors.

    In hundreds of dimensions, late residuals are about as far from each other as from anything:
    k-means then gives outliers a codeword each and leaves most items to a single one, and many
    items share all codes. The codes of the leading principal components (some 32), with
    ``residual_means`` of the vectors themselves, are spread better and may even leave less error;
    ``benchmarks/residual_kmeans.py`` shows both.

    Args:
      vectors: [m, d] float, finite; computed in float32.
      levels: L, 1 or more.
      codewords: M, from 1 to m.
      seed: of the starts and the mini-batches, 0 ≤ seed < 2³².
      mini_batch: fit on batches instead of all items. None: where an iteration would take more than
        2·10¹⁰ multiply-adds (m·d·M), as for 38,000 items of 512 dimensions and 1,024 codewords.

    Returns:
      codebooks: [L, M, d] float32.
      codes: [m, L], the smallest unsigned integer type that holds M − 1.

    Raises:
      InputError: levels or codewords out of range, or a vector that is not finite.

    Warns:
      UnusedCodewordsWarning: once a call, with each level that has unused codewords.

    Example:
      >>> vectors = np.array([[0.0, 0.0], [0.0, 1.0], [8.0, 0.0], [8.0, 1.0]])
      >>> codebooks, codes = residual_kmeans(vectors, levels=2, codewords=2, seed=0)
      >>> reconstruct(codebooks, codes)
      array([[0., 0.],
             [0., 1.],
             [8., 0.],
             [8., 1.]], dtype=float32)

    Reference:
      Chen, Guan & Wang, "Approximate nearest neighbor search by residual vector quantization",
      Sensors 2010. RQFedRec makes its codes so.
    """
    from threadpoolctl import threadpool_limits

    with np.errstate(over="ignore"):  # what float32 cannot hold is reported as not finite
        residual = require_finite(np.array(vectors, np.float32))
    m, d = residual.shape
    require_codewords(levels, codewords, m)
    codebooks = np.zeros((levels, codewords, d), np.float32)
    codes = np.zeros((m, levels), code_dtype(codewords))
    unused = {}
    # One thread: sums run in one order. Two gain nothing here, and lose a lot on a busy machine.
    with threadpool_limits(1):
        for level in range(levels):
            rows, inverse, weights = _distinct(residual)
            if len(rows) <= codewords:
                centers, nearest = rows, np.arange(len(rows))
                unused[level + 1] = codewords - len(rows)
            else:
                rng = np.random.default_rng([seed, level])
                centers, nearest = _cluster(rows, weights, codewords, rng, mini_batch)
            codebooks[level, : len(centers)] = centers
            codes[:, level] = nearest[inverse]
            residual -= centers[codes[:, level]]
    _warn_of_unused(unused, codewords)
    return codebooks, codes


def residual_means(
    targets: np.ndarray, codes: np.ndarray, *, codewords: int, sweeps: int = 1
) -> np.ndarray:
    """Codebooks for codes that are given: level by level, means of what the levels before leave.

        B^l[c] = mean over { i : q_l(i) = c } of ( t_i − Σ_{k≠l} B^k[q_k(i)] ),   B = 0 at first

    Each level is the least-squares answer to the others as they stand (block coordinate descent on
    Σ_i ‖t_i − Σ_l B^l[q_l(i)]‖²), so the error never rises over levels and sweeps.

    Args:
      targets: [m, d] float, finite.
      codes: [m, L] int, 0 ≤ code < M.
      codewords: M.
      sweeps: passes over the levels, 1 or more; from the second on, each level is refitted to what
        all others leave.

    Returns:
      [L, M, d] float32; a codeword without items is zero.

    Raises:
      InputError: codes that are out of range or not one row a target, sweeps below 1, or a target
        that is not finite.

    Example:
      >>> targets = np.array([[1.0], [3.0], [5.0]])
      >>> residual_means(targets, np.array([[0], [0], [2]]), codewords=3)
      array([[[2.],
              [0.],
              [5.]]], dtype=float32)
    """
    remaining = require_finite(targets).astype(np.float64)
    codes = np.asarray(codes)
    if codes.ndim != 2 or len(codes) != len(remaining):
        raise InputError(
            f"codes {list(codes.shape)} for {len(remaining)} targets: give each item a row of codes"
        )
    levels = codes.shape[1]
    require_counts(levels, codewords)
    require_codes(codes, codewords)
    if sweeps < 1:
        raise InputError(f"sweeps={sweeps} must be 1 or more")
    codebooks = np.zeros((levels, codewords, remaining.shape[1]))
    for sweep in range(sweeps):
        for level in range(levels):
            own = codes[:, level]
            if sweep:
                remaining += codebooks[level][own]
            codebooks[level] = _means(remaining, own, codewords)
            remaining -= codebooks[level][own]
    return codebooks.astype(np.float32)


def reconstruct(codebooks: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The vectors that codes stand for: Σ_l B^l[q_l(i)].

    Args:
      codebooks: [L, M, d] float.
      codes: [m, L] int, 0 ≤ code < M.

    Returns:
      [m, d] float32.

    Raises:
      InputError: codes that are no ids of these codebooks.
    """
    codebooks, codes = np.asarray(codebooks), np.asarray(codes)
    if codebooks.ndim != 3 or codes.ndim != 2 or codes.shape[1] != len(codebooks):
        raise InputError(
            f"codes {list(codes.shape)} do not fit codebooks {list(codebooks.shape)}: they must be "
            "[items, levels] and [levels, codewords, dim]"
        )
    levels, codewords, dim = codebooks.shape
    require_codes(codes, codewords)
    total = np.zeros((len(codes), dim), np.float32)
    for level in range(levels):
        total += codebooks[level][codes[:, level]]
    return total


def _warn_of_unused(unused: dict[int, int], codewords: int) -> None:
    found = [f"level {level}: {count}" for level, count in unused.items() if count]
    if found:
        warnings.warn(
            f"fewer distinct residuals than the {codewords} codewords of a level; unused at "
            + ", ".join(found),
            UnusedCodewordsWarning,
            stacklevel=3,
        )


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct rows in lexicographic order, each row's place among them, and their counts."""
    # −0.0 + 0.0 is 0.0: the two zeros are one value.
    found, inverse, counts = np.unique(
        rows + np.float32(0), axis=0, return_inverse=True, return_counts=True
    )
    return found, inverse.reshape(-1), counts


def _cluster(
    rows: np.ndarray,
    weights: np.ndarray,
    codewords: int,
    rng: np.random.Generator,
    mini_batch: bool | None,
) -> tuple[np.ndarray, np.ndarray]:
    """One level, for more distinct rows than codewords.

    Returns:
      centers [M, d] float32, each of which has a row, and each row's nearest one [n] int.
    """
    if mini_batch is None:
        mini_batch = rows.size * codewords > FULL_UP_TO
    centers, nearest = _assign(rows, _fit(rows, weights, codewords, rng, mini_batch))
    # Means of any partition have no more error than zero, so this level cannot add any; k-means
    # itself promises that only where it converged.
    centers = _means(rows, nearest, codewords, weights).astype(np.float32)
    return _assign(rows, centers)


def _fit(
    rows: np.ndarray,
    weights: np.ndarray,
    codewords: int,
    rng: np.random.Generator,
    mini_batch: bool,
) -> np.ndarray:
    """scikit-learn's centers, [M, d] float32."""
    from sklearn.cluster import KMeans, MiniBatchKMeans, kmeans_plusplus
    from sklearn.exceptions import ConvergenceWarning

    # Centered and of unit scale: scikit-learn squares in float32, and late residuals are tiny.
    mean = rows.mean(axis=0, dtype=np.float64)
    scale = np.abs(rows - mean).max()
    unit = ((rows - mean) / scale).astype(np.float32)
    # The start is most of the time (M steps over all rows); a sample finds it as well.
    size = max(_SEEDED_FROM, 4 * codewords)
    sample = np.arange(len(rows))
    if len(rows) > size:
        sample = np.sort(rng.choice(len(rows), size, replace=False))
    start, _ = kmeans_plusplus(
        unit[sample],
        codewords,
        sample_weight=weights[sample],
        random_state=int(rng.integers(2**32)),
    )
    settings = {"init": start, "n_init": 1, "random_state": int(rng.integers(2**32))}
    if mini_batch:
        model = MiniBatchKMeans(codewords, batch_size=max(1_024, 4 * codewords), **settings)
    else:
        model = KMeans(codewords, max_iter=_ITERATIONS, **settings)
    with warnings.catch_warnings():
        # Rows that differ only beyond float32's reach may leave centers empty: _assign fills them.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(unit, sample_weight=weights)
    return (model.cluster_centers_ * scale + mean).astype(np.float32)


def _assign(rows: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest centers in float64, after which no center is without a row.

    A center that no row is nearest to moves to the row that is farthest from its own. There is
    always such a row at a distance above zero, since the rows are distinct and more than M.
    """
    wide = centers.astype(np.float64)
    half = np.sum(wide**2, axis=1) / 2
    nearest = np.zeros(len(rows), np.int64)
    distance = np.zeros(len(rows))
    block = max(1, _BLOCK_ENTRIES // max(centers.shape))
    for start in range(0, len(rows), block):
        part = rows[start : start + block].astype(np.float64)
        own = np.argmin(half - part @ wide.T, axis=1)
        nearest[start : start + block] = own
        distance[start : start + block] = np.sum((part - wide[own]) ** 2, axis=1)

    centers = centers.copy()
    counts = np.bincount(nearest, minlength=len(centers))
    while not counts.all():
        empty, far = int(np.argmin(counts)), int(np.argmax(distance))
        counts[nearest[far]] -= 1
        counts[empty] = 1
        centers[empty], nearest[far], distance[far] = rows[far], empty, 0
    return centers, nearest


def _means(
    rows: np.ndarray, codes: np.ndarray, codewords: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """[M, d] float64 weighted means of the rows of each code; zero for a code without rows."""
    from scipy.sparse import csr_array

    if weights is None:
        weights = np.ones(len(rows))
    places = (codes.astype(np.int64), np.arange(len(rows)))
    members = csr_array((weights.astype(np.float64), places), shape=(codewords, len(rows)))
    totals = np.asarray(members.sum(axis=1)).reshape(-1, 1)
    return (members @ rows) / np.where(totals > 0, totals, 1)
