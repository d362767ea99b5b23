"""Titles and genres from the files beside the interactions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.data import Dataset, load_dataset, read_dataset, synthetic, write_recbole
from fedjax_rec.data.titles import ItemText, find_titles, read_titles, with_titles
from fedjax_rec.errors import InputError


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def u_item(number: str, title: str, *set_flags: int) -> str:
    flags = ["1" if flag in set_flags else "0" for flag in range(19)]
    return "|".join([number, title, "01-Jan-1995", "", "http://x", *flags]) + "\n"


def test_u_item(tmp_path: Path) -> None:
    lines = u_item("1", "Toy Story (1995)", 3, 4, 5) + u_item("267", "unknown", 0)
    path = write(tmp_path, "u.item", lines + u_item("9", "Last (1999)", 18) + "7|Cut (1990)|x\n")
    assert read_titles(path) == {
        "1": ItemText("Toy Story (1995)", "Animation|Children's|Comedy"),
        "267": ItemText("unknown", ""),
        "9": ItemText("Last (1999)", "Western"),
        "7": ItemText("Cut (1990)", ""),
    }
    write(tmp_path, "u.item", u_item("1", "A", 3) + u_item("2", "B", 3).replace("|1|", "|yes|"))
    with pytest.raises(InputError, match=r"u\.item:2: 'yes' where a genre's flag is 0 or 1"):
        read_titles(path)


def test_movies(tmp_path: Path) -> None:
    path = write(tmp_path, "movies.dat", b"7::Caf\xe9 (1996)::Sci-Fi|Drama\n8::No genre (1997)\n")
    assert read_titles(path) == {
        "7": ItemText("Café (1996)", "Sci-Fi|Drama"),
        "8": ItemText("No genre (1997)", ""),
    }
    text = 'movieId,title,genres\n1,"Heat, The (2013)",Crime|Film Noir\n2,B,(no genres listed)\n'
    path = write(tmp_path, "movies.csv", text)
    assert read_titles(path) == {
        "1": ItemText("Heat, The (2013)", "Crime|Film Noir"),
        "2": ItemText("B", ""),
    }


@pytest.mark.parametrize(
    ("column", "value", "genres"),
    [
        ("class:token_seq", "Animation Children's  Comedy", "Animation|Children's|Comedy"),
        ("class:token_seq", "unknown", ""),
        ("class:token_seq", "", ""),
        ("genre:token_seq", "Sci-Fi", "Sci-Fi"),
        ("movie_genres:token_seq", "Sci-Fi|War Drama", "Sci-Fi|War|Drama"),
        ("genre:token", "Film Noir", "Film Noir"),
        ("genre", "Film Noir|War", "Film Noir|War"),
        ("subclass:token_seq", "Sci-Fi", ""),
    ],
)
def test_recbole_genres(tmp_path: Path, column: str, value: str, genres: str) -> None:
    path = write(tmp_path, "x.item", f"item_id:token\ttitle:token_seq\t{column}\n1\tA\t{value}\n")
    assert read_titles(path) == {"1": ItemText("A", genres)}


def test_artists_have_names_only(tmp_path: Path) -> None:
    path = write(
        tmp_path, "artists.dat", "id\tname\turl\tpictureURL\n1\tMGMT\thttp://x\thttp://y\n"
    )
    assert read_titles(path) == {"1": ItemText("MGMT", "")}


def test_what_no_item_has_is_none(tmp_path: Path) -> None:
    data = write(tmp_path, "x.inter", "user_id:token\titem_id:token\n1\t7\n1\t8\n")
    assert read_dataset(data).item_genres is None
    write(tmp_path, "x.item", "item_id:token\ttitle:token_seq\n7\tA\n")
    dataset = read_dataset(data)
    assert dataset.item_titles is not None
    assert dataset.item_titles.tolist() == ["A", ""]
    assert dataset.item_genres is None
    write(
        tmp_path, "x.item", "item_id:token\ttitle:token_seq\tclass:token_seq\n8\t\tWar\n9\tB\tX\n"
    )
    dataset = read_dataset(data)
    assert dataset.item_titles is None
    assert dataset.item_genres is not None
    assert dataset.item_genres.tolist() == ["", "War"]
    assert find_titles(data) == tmp_path / "x.item"
    assert with_titles(dataset, None) is dataset


NAMES = st.text("abcÄ'-", min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.text("abc é", max_size=5), st.lists(NAMES, max_size=3)), min_size=1, max_size=6
    )
)
def test_titles_and_genres_are_written_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, list[str]]]
) -> None:
    titles = [" ".join(title.split()) for title, _ in texts]
    genres = ["|".join(names) for _, names in texts]
    dataset = Dataset(
        name="x",
        user=np.zeros(len(texts), np.int32),
        item=np.arange(len(texts), dtype=np.int32),
        timestamp=None,
        user_ids=np.array(["u"]),
        item_ids=np.arange(len(texts)).astype(str),
        item_titles=np.array(titles),
        item_genres=np.array(genres),
    )
    path = tmp_path_factory.mktemp("texts") / "x.inter"
    write_recbole(dataset, path)
    again = read_dataset(path)
    for found, meant in ((again.item_titles, titles), (again.item_genres, genres)):
        assert (None if found is None else found.tolist()) == (meant if any(meant) else None)


def test_writing_genres_without_titles_and_with_blanks(tmp_path: Path) -> None:
    dataset = synthetic(users=20, items=30, clusters=3, interactions_per_user=6)
    genres = np.array(["Film Noir|War", ""] * 15)
    dataset = replace(dataset, item_titles=None, item_genres=genres)
    _, items = write_recbole(dataset, tmp_path / "x.inter")
    assert items.read_text().splitlines()[:3] == [
        "item_id:token\ttitle:token_seq\tgenre:token_seq\tcluster:token",
        f"i0\t\tFilm-Noir War\t{dataset.item_cluster[0]}",
        f"i1\t\t\t{dataset.item_cluster[1]}",
    ]
    plain = replace(dataset, item_genres=None)
    assert write_recbole(plain, tmp_path / "y.inter") == (tmp_path / "y.inter",)


@pytest.mark.data
@pytest.mark.parametrize("name", ["ml-100k", "ml-100k-ratio", "ml-100k-ratio-943"])
def test_real_genres(data_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDJAX_REC_DATA", str(data_dir))
    dataset = load_dataset(name)
    assert dataset.item_genres is not None
    of_item = dict(zip(dataset.item_ids.tolist(), dataset.item_genres.tolist(), strict=True))
    assert of_item["1"] == "Animation|Children's|Comedy"
    assert of_item["1682"] == "Drama"
    assert [item for item, genres in of_item.items() if not genres] == ["267", "1373"]
    assert len({genre for genres in of_item.values() for genre in genres.split("|")} - {""}) == 18
