"""Titles and genres into vectors: TF-IDF with a truncated SVD, or a sentence encoder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from fedjax_rec.errors import InputError

__all__ = ["item_sentence", "item_tokens", "sentence_vectors", "text_vectors"]

# How often a token stands in an item's text, which is its weight before TF-IDF. Genres and decades
# are common, so that TF-IDF alone would let one rare word of a title outweigh them.
_GENRE_WEIGHT = 2
_DECADE_WEIGHT = 2
_YEAR_WEIGHT = 1

_YEAR = re.compile(r"\((1[89]\d\d|20\d\d)\)")
_WORD = re.compile(r"[^\W_]{2,}")  # Letters and digits; a single one is mostly an article or an 's.
_POWER_ITERATIONS = 16
_NO_NORM = 1e-6  # Of a row whose tokens the kept directions do not see: rounding, no content.


def item_tokens(title: str, genres: str) -> list[str]:
    """What TF-IDF counts of an item: words of its title, its year and decade, whole genres.

    Args:
      title: with its year in brackets, where known.
      genres: separated by ``|``.

    Returns:
      Tokens, repeated by weight: genres and the decade twice. Those that are no words hold a
      colon, which no word does.

    Example:
      >>> item_tokens("Alien (1979)", "Sci-Fi")
      ['alien', 'year:1979', 'decade:197', 'decade:197', 'genre:sci-fi', 'genre:sci-fi']
    """
    tokens = _WORD.findall(_YEAR.sub(" ", title).casefold())
    if years := _YEAR.findall(title):
        tokens += [f"year:{years[-1]}"] * _YEAR_WEIGHT
        tokens += [f"decade:{years[-1][:3]}"] * _DECADE_WEIGHT
    for genre in filter(None, genres.split("|")):
        tokens += [f"genre:{genre.casefold()}"] * _GENRE_WEIGHT
    return tokens


def item_sentence(title: str, genres: str) -> str:
    """What a sentence encoder reads of an item; "" where nothing is known.

    Example:
      >>> item_sentence("Toy Story (1995)", "Animation|Comedy")
      'Toy Story (1995). Genres: Animation, Comedy'
    """
    listed = f"Genres: {', '.join(genres.split('|'))}" if genres else ""
    return ". ".join(filter(None, (title.strip(), listed)))


def text_vectors(
    titles: Sequence[str], genres: Sequence[str], *, width: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Latent semantic analysis of titles and genres.

    X = TF-IDF of `item_tokens`, rows of unit length; X ≈ U Σ Vᵀ keeps the ``width`` largest
    singular values; an item's vector is its row of U Σ, scaled to unit length.

    A token that a single item has says nothing of likeness, so it is left out. One thread, and a
    start of the SVD by seed: same texts and seed, same vectors.

    Args:
      titles: [m] str, "" where unknown.
      genres: [m] str, separated by ``|``, "" where unknown.
      width: w, columns at most; texts with fewer distinct tokens give fewer.
      seed: of the SVD's start.

    Returns:
      rows: [k] int64, ascending, the items that have a vector. The others have no text, or none
        that any other item shares.
      vectors: [k, w] float32, rows of length 1.

    Raises:
      InputError: no two items share a word or a genre.

    Reference:
      Deerwester et al., "Indexing by latent semantic analysis", JASIS 41(6), 1990. The SVD:
      Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53(2), 2011.
      Both as scikit-learn has them.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    tokens = [item_tokens(*text) for text in zip(titles, genres, strict=True)]
    items_with = Counter(token for item in tokens for token in set(item))
    shared = [[token for token in item if items_with[token] > 1] for item in tokens]
    rows = np.flatnonzero([bool(item) for item in shared])
    if not len(rows):
        raise InputError(
            "titles and genres: no two items share a word or a genre, so they tell of no likeness; "
            "give vectors (--semantics PATH.npz) or run --without semantic"
        )
    weighted = TfidfVectorizer(analyzer=list).fit_transform([shared[row] for row in rows])
    # Not ARPACK: where singular values repeat or vanish it starts again at random, and scikit-learn
    # (1.9) passes no seed on for that. (Nor TruncatedSVD, which refuses a single token.) Many power
    # iterations instead, so that few vectors depend on the start.
    with threadpool_limits(1):
        left, values, _ = randomized_svd(
            weighted,
            min(width, *weighted.shape),
            n_iter=_POWER_ITERATIONS,
            power_iteration_normalizer="QR",
            random_state=seed % 2**32,  # scikit-learn takes 32 bits of a seed.
        )
    vectors = left * values
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    seen = norm[:, 0] > _NO_NORM
    return rows[seen], (vectors[seen] / norm[seen]).astype(np.float32)


def sentence_vectors(
    titles: Sequence[str], genres: Sequence[str], *, model: str
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes `item_sentence` with a sentence-transformers model that is on this machine.

    Runs on the CPU, so that vectors do not depend on the accelerator and take none of its memory
    from JAX.

    Args:
      titles: [m] str, "" where unknown.
      genres: [m] str, separated by ``|``, "" where unknown.
      model: a model's name, of which the files are in the Hugging Face cache, or its folder.
        Nothing is downloaded.

    Returns:
      rows: [k] int64, ascending, the items that have text.
      vectors: [k, w] float32, as the model gives them.

    Raises:
      InputError: the package or the model is not on this machine.

    Reference:
      Reimers and Gurevych, "Sentence-BERT: sentence embeddings using Siamese BERT-networks",
      EMNLP 2019.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            f"--semantics sentence-transformers: the package does not load ({error}); pip install "
            '"fedjax-rec[semantics]", or take --semantics text'
        ) from None
    try:
        encoder = SentenceTransformer(model, device="cpu", local_files_only=True)
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"--semantics sentence-transformers:{model}: no such model on this machine ({reason}); "
            "nothing is downloaded, so fetch it beforehand or name the folder that holds it, or "
            "take --semantics text"
        ) from None
    sentences = [item_sentence(*text) for text in zip(titles, genres, strict=True)]
    rows = np.flatnonzero([bool(sentence) for sentence in sentences])
    vectors = encoder.encode([sentences[row] for row in rows], show_progress_bar=False)
    return rows, np.asarray(vectors, np.float32)
