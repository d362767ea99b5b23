"""Item vectors: from text, from a file, from an encoder; every bad source in one line."""

from __future__ import annotations

import pickle
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.data import (
    Dataset,
    MissingSemanticsWarning,
    item_semantics,
    load_dataset,
    synthetic,
)
from fedjax_rec.data.item_text import item_sentence, item_tokens, text_vectors
from fedjax_rec.errors import InputError


def of_items(
    *ids: str, titles: list[str] | None = None, genres: list[str] | None = None
) -> Dataset:
    return Dataset(
        name="toy",
        user=np.zeros(len(ids), np.int32),
        item=np.arange(len(ids), dtype=np.int32),
        timestamp=None,
        user_ids=np.array(["u"]),
        item_ids=np.array(ids),
        item_titles=None if titles is None else np.array(titles),
        item_genres=None if genres is None else np.array(genres),
    )


FILMS = of_items(
    *"abcdef",
    titles=["Star War (1977)", "Star Trek (1979)", "Alien (1979)", "Emma (1996)", "", "Zzz"],
    genres=["Sci-Fi|War", "Sci-Fi", "Sci-Fi|Horror", "Romance", "Romance", ""],
)


# --- text


def test_tokens() -> None:
    assert item_tokens("Seven (Se7en) (1995)", "Crime|Film Noir") == [
        *("seven", "se7en", "year:1995", "decade:199", "decade:199"),
        *("genre:crime", "genre:crime", "genre:film noir", "genre:film noir"),
    ]
    assert item_tokens("Land III (1995) (V)", "") == [
        *("land", "iii", "year:1995", "decade:199", "decade:199")
    ]
    assert item_tokens("1984 (0001)", "") == ["1984", "0001"]
    assert item_tokens("", "") == []


def test_sentences() -> None:
    assert item_sentence("Emma (1996)", "") == "Emma (1996)"
    assert item_sentence(" ", "War|Sci-Fi") == "Genres: War, Sci-Fi"
    assert item_sentence("", "") == ""


def test_like_items_are_near_and_items_without_text_get_the_mean() -> None:
    with pytest.warns(MissingSemanticsWarning) as caught:
        vectors = item_semantics(FILMS)
    assert vectors.dtype == np.float32
    assert vectors.shape[0] == 6
    # Zzz shares nothing with any other item.
    assert [str(w.message) for w in caught] == [
        "1 of 6 items lack a title or genre that another item shares (such as item 'f'): they get "
        "the mean of the others"
    ]
    np.testing.assert_allclose(np.linalg.norm(vectors[:5], axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(vectors[5], vectors[:5].mean(axis=0), atol=1e-6)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > likeness[0, 3] + 0.3
    assert likeness[3, 4] > likeness[3, 0] + 0.3


def test_titles_alone_and_genres_alone_do() -> None:
    with pytest.warns(MissingSemanticsWarning, match=r"3 of 6 items .* \(such as item 'd'\)"):
        item_semantics(replace(FILMS, item_genres=None))
    with pytest.warns(MissingSemanticsWarning, match="1 of 6 items"):
        genres = item_semantics(replace(FILMS, item_titles=None))
    np.testing.assert_allclose(genres[3], genres[4], atol=1e-6)


def test_the_synthetic_genres_bring_clusters_together() -> None:
    dataset = synthetic(users=50, items=300, clusters=6)
    vectors = item_semantics(dataset, width=32)
    assert vectors.shape == (300, 32)
    assert dataset.item_cluster is not None
    same = dataset.item_cluster[:, None] == dataset.item_cluster
    likeness = vectors @ vectors.T
    assert likeness[same].mean() > likeness[~same].mean() + 0.3


def test_same_seed_same_bits() -> None:
    # More columns than the text has directions: singular values of zero are no way to be random.
    dataset = synthetic(users=50, items=300)
    for width in (8, 500):
        first = item_semantics(dataset, "text", seed=2**33 + 1, width=width)
        np.testing.assert_array_equal(first, item_semantics(dataset, seed=2**33 + 1, width=width))


WORDS = st.lists(st.sampled_from(["red", "blue", "(1995)", "(1987)", "x", "No"]), max_size=4)
GENRES = st.lists(st.sampled_from(["War", "Drama", "Sci-Fi"]), max_size=2, unique=True)
TEXTS = st.lists(st.tuples(WORDS.map(" ".join), GENRES.map("|".join)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.integers(1, 20), st.randoms())
def test_any_text_gives_unit_rows_whatever_the_order(
    texts: list[tuple[str, str]], width: int, random
) -> None:
    def likeness(texts: list[tuple[str, str]]) -> np.ndarray:
        rows, vectors = text_vectors(*zip(*texts, strict=True), width=width, seed=0)
        assert vectors.dtype == np.float32
        assert vectors.shape[1] <= width
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
        assert (np.diff(rows) > 0).all()
        full = np.full((len(texts), vectors.shape[1]), np.nan)
        full[rows] = vectors
        return full @ full.T

    counted = [token for text in texts for token in set(item_tokens(*text))]
    if len(counted) == len(set(counted)):
        with pytest.raises(InputError, match="no two items share a word or a genre"):
            likeness(texts)
        return
    order = random.sample(range(len(texts)), len(texts))
    own, other = likeness(texts), likeness([texts[i] for i in order])
    if width >= 20:  # All directions kept: which ones a cut keeps is chance where values tie.
        np.testing.assert_allclose(other, own[np.ix_(order, order)], atol=1e-4)


@pytest.mark.parametrize("source", [None, "text", "sentence-transformers"])
def test_no_text_at_all(source: str | None) -> None:
    for titles in (None, [" ", ""]):
        with pytest.raises(InputError) as caught:
            item_semantics(of_items("a", "b", titles=titles), source)
        message = str(caught.value)
        assert "\n" not in message
        for part in ("toy: no titles and no genres", "--semantics PATH.npz", "--without semantic"):
            assert part in message
        assert "co-occurrence are no substitute" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "minilm"}, "semantics='minilm' is no source of item vectors"),
        ({"source": "vectors.npy"}, r"vectors\.npy.*ends in \.npz"),
        ({"width": 0}, "width=0 is no width"),
        ({"width": 2.0}, r"width=2\.0 is no width"),
        ({"seed": -1}, "seed=-1 is no seed"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        item_semantics(FILMS, **options)


# --- files

GOOD = {
    "item_id": np.array([3, 1, 2, 99]),
    "embedding": np.array([[3, 3], [1, 1], [2, 2], [9, 9]], np.float16),
}
NUMBERED = of_items("1", "2", "3")


@pytest.mark.parametrize("ids", [GOOD["item_id"], GOOD["item_id"].astype(str)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_vectors_are_matched_by_id(tmp_path: Path, ids: np.ndarray, dtype: str) -> None:
    path = tmp_path / "v.npz"
    np.savez_compressed(path, item_id=ids, embedding=GOOD["embedding"].astype(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (path, str(path)):
            vectors = item_semantics(NUMBERED, source)
            assert vectors.dtype == np.float32
            assert vectors.tolist() == [[1, 1], [2, 2], [3, 3]]


def test_items_that_the_file_lacks_get_the_mean(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, item_id=["b", "z"], embedding=[[2.0, 4.0], [99.0, 99.0]])
    with pytest.warns(MissingSemanticsWarning) as caught:
        vectors = item_semantics(of_items("a", "b", "c"), path)
    assert vectors.tolist() == [[2, 4]] * 3
    assert [str(w.message) for w in caught] == [
        f"2 of 3 items lack a vector in {path} (such as item 'a'): they get the mean of the others"
    ]
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_id": None}, "no array 'item_id' in it"),
        ({"embedding": None}, "no array 'embedding' in it .*an .npz of item vectors needs"),
        ({"item_id": np.array([1, None, 3, 4], object)}, "pickled"),
        ({"embedding": np.array([[1, None]] * 4, object)}, "pickled"),
        ({"item_id": np.arange(3)}, r"\(4, 2\) where 3 item ids need \(3, width\)"),
        ({"embedding": np.zeros(4)}, r"\(4,\) where 4 item ids need \(4, width\)"),
        ({"embedding": np.zeros((4, 0))}, r"\(4, 0\) where 4 item ids"),
        ({"embedding": np.zeros((4, 2, 1))}, r"\(4, 2, 1\) where 4 item ids"),
        ({"embedding": np.full((4, 2), "a")}, "'embedding' is <U1"),
        ({"embedding": np.ones((4, 2), complex)}, "'embedding' is complex128"),
        ({"embedding": [[1, 1], [1, 1], [1, np.nan], [np.inf, 1]]}, r"item '2' .*2 in all"),
        ({"embedding": [[1, 1], [1, 1], [1, 1], [1e60, 1]]}, "item '99' holds NaN or infinity"),
        ({"item_id": np.array([3, 1, 3, 2])}, "item '3' stands twice"),
        ({"item_id": np.array([3.0, 1, 2, 9])}, r"'item_id' is float64 of shape \(4,\)"),
        ({"item_id": np.array([[3, 1, 2, 9]])}, r"'item_id' is int64 of shape \(1, 4\)"),
        ({"item_id": np.zeros(0, int), "embedding": np.zeros((0, 2))}, "no items in it"),
        ({"item_id": ["x", "y", "z", "w"]}, r"\(such as 'x'\) is one of toy \(such as '1'\)"),
    ],
)
def test_bad_files(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, **{key: value for key, value in {**GOOD, **change}.items() if value is not None})
    with pytest.raises(InputError, match=message) as caught:
        item_semantics(NUMBERED, path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("own", "ids", "first"), [(["0", "1", "2"], [1, 2, 3], 1), (["2", "1", "3"], [0, 1, 2], 0)]
)
def test_ids_that_are_one_off_are_refused(
    tmp_path: Path, own: list[str], ids: list[int], first: int
) -> None:
    path = tmp_path / "v.npz"
    np.savez(path, item_id=ids, embedding=np.ones((3, 2)))
    with pytest.raises(InputError, match=f"shifted by one.*first_id={first}"):
        item_semantics(of_items(*own), path)
    # A row for padding is none of these.
    np.savez(path, item_id=[0, 1, 2, 3], embedding=np.ones((4, 2)))
    assert item_semantics(of_items(*own), path).shape == (3, 2)


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    with pytest.raises(InputError, match="no such file"):
        item_semantics(NUMBERED, path)
    path.write_text("item,vector\n")
    with pytest.raises(InputError, match=r"not an \.npz archive"):
        item_semantics(NUMBERED, path)
    path.write_bytes(pickle.dumps({"item_id": [1]}))
    with pytest.raises(InputError, match="pickled"):
        item_semantics(NUMBERED, path)
    np.savez_compressed(path, **GOOD)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(InputError, match="truncated"):
        item_semantics(NUMBERED, path)
    garbled = bytearray(whole)
    garbled[60:90] = b"\xff" * 30
    path.write_bytes(garbled)
    with pytest.raises(InputError, match="truncated or not"):
        item_semantics(NUMBERED, path)


@pytest.mark.data
@pytest.mark.parametrize("name", ["ml-100k", "ml-100k-ratio"])
def test_the_supplied_vectors(data_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDJAX_REC_DATA", str(data_dir))
    dataset = load_dataset(name)
    path = data_dir / "ml-100k" / "semantic_minilm_384.npz"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = item_semantics(dataset, path)
    assert vectors.shape == (1682, 384)
    assert dataset.item_titles is not None
    titles = dataset.item_titles.tolist()
    # By their content, so that a shift by one would show.
    for source in (vectors, None):
        if source is None:
            with pytest.warns(MissingSemanticsWarning, match=r"1 of 1,682 .*'267'"):
                source = item_semantics(dataset)
            assert source.shape == (1682, 128)
        nearest = np.argsort(-(source @ source[titles.index("Star Wars (1977)")]))[:6]
        found = {titles[item] for item in nearest}
        assert {"Return of the Jedi (1983)", "Empire Strikes Back, The (1980)"} <= found


@pytest.mark.data
def test_a_split_loaded_without_its_first_id_is_refused(data_dir: Path) -> None:
    dataset = load_dataset(data_dir / "ml-100k-ratio" / "clients_100.npz")
    with pytest.raises(InputError, match=r"shifted by one.*first_id=1"):
        item_semantics(dataset, data_dir / "ml-100k" / "semantic_minilm_384.npz")


# --- the encoder


class Encoder:
    """Stands in for SentenceTransformer: the vector is the length of the sentence."""

    def __init__(self, model: str, *, device: str, local_files_only: bool) -> None:
        assert (device, local_files_only) == ("cpu", True)
        if model == "absent":
            raise OSError("not among the cached files\nsee the web")
        self.model = model

    def encode(self, sentences: list[str], *, show_progress_bar: bool) -> np.ndarray:
        assert not show_progress_bar
        return np.array([[len(sentence), len(self.model)] for sentence in sentences], np.float16)


def test_the_encoder_reads_titles_and_genres(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(SentenceTransformer=Encoder)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)
    films = of_items(*"abc", titles=["Emma (1996)", "", "M"], genres=["War|Drama", "", ""])
    with pytest.warns(MissingSemanticsWarning, match="1 of 3 items lack a title or genre"):
        vectors = item_semantics(films, "sentence-transformers")
    size = len("all-MiniLM-L6-v2")
    assert vectors.tolist() == [[31, size], [16, size], [1, size]]
    assert vectors.dtype == np.float32
    with pytest.warns(MissingSemanticsWarning):
        own = item_semantics(films, "sentence-transformers:./my:model")
    assert own[0, 1] == len("./my:model")
    with pytest.raises(InputError) as caught:
        item_semantics(films, "sentence-transformers:absent")
    assert "no such model on this machine (not among the cached files)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install \"fedjax-rec\[semantics\]\""):
        item_semantics(FILMS, "sentence-transformers")
