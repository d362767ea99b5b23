"""Every reader on small files written here, and on the real ones; every error with its line."""

import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec.data import (
    Dataset,
    load_dataset,
    read_dataset,
    read_delimited,
    read_hetrec,
    read_movielens,
    read_recbole,
    synthetic,
    write_recbole,
)
from fedjax_rec.errors import InputError


def rows(dataset: Dataset) -> list[tuple]:
    """(user id, item id, time) of every interaction, in order."""
    times = [None] * dataset.num_interactions if dataset.timestamp is None else dataset.timestamp
    users, items = dataset.user_ids[dataset.user], dataset.item_ids[dataset.item]
    return [(str(u), str(i), t) for u, i, t in zip(users, items, times, strict=True)]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


EXPECTED = [("u1", "i1", 10.0), ("u2", "i1", 11.0), ("u1", "i2", 12.0)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("u.data", "u1\ti1\t5\t10\nu2\ti1\t1\t11\nu1\ti2\t3\t12\n"),
        ("ratings.dat", "u1::i1::5::10\nu2::i1::1::11\nu1::i2::3::12"),
        ("a.csv", "u1,i1,5,10\r\nu2,i1,1,11\r\nu1,i2,3,12\r\n"),
        ("a.csv", "user,item,rating,timestamp\nu1,i1,5,10\nu2,i1,1,11\nu1,i2,3,12\n"),
        ("a.csv", "\ufeffuserId, movieId, rating, timestamp\nu1,i1,5,10\nu2, i1,1,11\nu1,i2,3,12"),
        ("a.csv", 'ts,"item_id",x,"user_id"\n10,i1,"a,b",u1\n11,i1,c,u2\n12,i2,d,u1\n'),
        ("a.tsv", "user\titem\ttimestamp\nu1\ti1\t10\nu2\ti1\t11\nu1\ti2\t12\n"),
        ("a.txt", "\nu1;i1;5;10\n\nu2;i1;1;11\nu1;i2;3;12\n\n\n"),
        (
            "a.inter",
            "user_id:token\titem_id:token\ttimestamp:float\nu1\ti1\t10\nu2\ti1\t11\nu1\ti2\t12",
        ),
    ],
)
def test_text_formats(tmp_path: Path, name: str, text: str) -> None:
    dataset = read_dataset(write(tmp_path, name, text))
    assert rows(dataset) == EXPECTED
    assert dataset.user_ids.tolist() == ["u1", "u2"]
    assert dataset.user.dtype == dataset.item.dtype == np.int32
    assert dataset.timestamp is not None
    assert dataset.timestamp.dtype == np.float64
    assert dataset.notes == ()


@pytest.mark.parametrize("header", ["", "userID\tartistID\tweight\n"])
def test_hetrec(tmp_path: Path, header: str) -> None:
    path = write(tmp_path, "user_artists.dat", header + "2\t51\t13883\r\n2\t52\t1\r\n3\t51\t7\r\n")
    write(tmp_path, "artists.dat", "id\tname\turl\tpictureURL\n51\tMøme\thttp://x\t\n99\tX\t\t\n")
    dataset = read_hetrec(path)
    assert rows(dataset) == [("2", "51", None), ("2", "52", None), ("3", "51", None)]
    assert dataset.item_titles is not None
    assert dataset.item_titles.tolist() == ["Møme", ""]
    assert rows(read_dataset(tmp_path)) == rows(dataset)


def test_blank_lines_in_a_file_of_two_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,item\n\na,x\n   \r\nb,x\n\n")
    assert rows(read_delimited(path)) == [("a", "x", None), ("b", "x", None)]
    with pytest.raises(InputError, match=r"a\.csv:3: 1 fields where 2"):
        read_delimited(write(tmp_path, "a.csv", "\na,x\nb\n"))


def test_ids_are_any_strings(tmp_path: Path) -> None:
    dataset = read_delimited(
        write(tmp_path, "a.csv", "NA,007,1,1\nnan,7,1,2\nNULL,é,1,3\n1e3,7.0,1,4\n")
    )
    assert dataset.user_ids.tolist() == ["NA", "nan", "NULL", "1e3"]
    assert dataset.item_ids.tolist() == ["007", "7", "é", "7.0"]


def test_options_override_what_is_sniffed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "when|who|what\n3|a,b|x\n4|c|y\n")
    dataset = read_delimited(path, separator="|", user="who", item=2, timestamp="when")
    assert rows(dataset) == [("a,b", "x", 3.0), ("c", "y", 4.0)]
    # "user" may be an id as well as a heading.
    assert rows(read_delimited(write(tmp_path, "b.txt", "user,item\na,b\n"), header=False)) == [
        ("user", "item", None),
        ("a", "b", None),
    ]
    plain = write(tmp_path, "c.txt", "1,2,30\n2,2,40\n")
    assert rows(read_delimited(plain, user="0", item="1", timestamp="2"))[1] == ("2", "2", 40.0)


def test_ratings_of_zero_or_less_are_dropped_with_a_note(tmp_path: Path) -> None:
    dataset = read_delimited(write(tmp_path, "a.csv", "a,x,0,1\nb,y,0.5,2\nb,z,-1,3\n"))
    assert rows(dataset) == [("b", "y", 2.0)]
    assert dataset.user_ids.tolist() == ["b"]
    assert dataset.notes == (
        "a.csv: 2 rows with a rating of 0 or less dropped (only ratings above 0 are positives)",
    )


def test_duplicates(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,item,rating,time\na,x,1,1\nb,x,1,2\na,x,1,3\na,y,1,4\n")
    with pytest.raises(InputError, match=r"a\.csv:4: user 'a' and item 'x' .* line 2;.*duplicates"):
        read_delimited(path)
    assert rows(read_delimited(path, duplicates="first")) == [
        ("a", "x", 1.0),
        ("b", "x", 2.0),
        ("a", "y", 4.0),
    ]
    last = read_delimited(path, duplicates="last")
    assert rows(last) == [("b", "x", 2.0), ("a", "x", 3.0), ("a", "y", 4.0)]
    assert "1 repeated (user, item) rows dropped, the last" in last.notes[0]
    with pytest.raises(InputError, match=r"duplicates='lsat' is unknown .did you mean last"):
        read_delimited(path, duplicates="lsat")  # type: ignore[arg-type]


def test_a_retracted_rating_is_settled_before_it_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "a,x,5,1\na,y,5,2\na,x,0,3\n")
    assert rows(read_delimited(path, duplicates="last")) == [("a", "y", 2.0)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "no interactions in it"),
        ("a.csv", "user,item,rating\n", "no interactions"),
        ("a.csv", "\n \n\n", "no interactions in it"),
        ("a.csv", "a b c\n", r"a\.csv:1: no comma, tab, semicolon"),
        ("a.csv", "a,x,1,2\nb,y,2\n", r"a\.csv:2: 3 fields where 4"),
        ("a.csv", "a,x,1,2\n\nb,y,2,3,4\n", r"a\.csv:3: 5 fields where 4"),
        ("a.csv", "user,item,rating,time\na,x,1,2,3\n", r"a\.csv:2: 5 fields where 4"),
        ("a.csv", "a,x,1,2\nb,y,good,2\n", r"a\.csv:2: the rating is not a finite number in 'b,y,"),
        ("a.csv", "a,x,1,2\n\nb,y,1,inf\n", r"a\.csv:3: the timestamp is not a finite"),
        ("a.csv", "a,x,1,2\nb,y,nan,2\nc,z,x,1", r"a\.csv:2: the rating is not a finite"),
        ("a.csv", "a,x,1,2\nb,y,1,\n", r"a\.csv:2: the timestamp is not a finite"),
        ("a.csv", "a,x,1,2\n,y,1,3\n", r"a\.csv:2: the user is empty"),
        ("a.csv", "a,x,1,2\nb,,1,3\n", r"a\.csv:2: the item is empty"),
        ("a.csv", "a,x,0,2\n", "no rating above 0"),
        ("a.csv", 'a,x,1,2\nb,"y,1,3\nc,z,1,2\n', "opened and never closed"),
        ("a.csv", b"a,x,1,2\nb,\xe9,1,3\n", r"a\.csv:2: not UTF-8|a\.csv: not UTF-8"),
        ("a.csv", "who,what,stars\na,x,1\n", r"a\.csv:1: no user column among 'who, what, stars'"),
        ("u.data", "1\t2\t3\t4\n1\t2\t3\n", r"u\.data:2: 3 fields where 4"),
        ("ratings.dat", "1::2::3::4\n1::3::x::4\n", r"ratings\.dat:2: the rating is not"),
        ("ratings.dat", "1::2::3::4\n1::3::4\n", r"ratings\.dat:2: 3 fields where 4"),
        ("a.inter", "user_id\titem_id\n1\t2\n", "column 'user_id' has no type"),
        ("a.inter", "uid:token\tsong:token\n1\t2\n", "no item column"),
    ],
)
def test_bad_text(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_bad_options(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,item,rating\na,x,1\n")
    with pytest.raises(InputError, match="unknown column item='film': the header has user, item"):
        read_delimited(path, item="film")
    with pytest.raises(InputError, match="positions go from 0 to 2"):
        read_delimited(path, item=3)
    with pytest.raises(InputError, match="user and item both name the column 'user'"):
        read_delimited(path, item=0)
    with pytest.raises(InputError, match="no tab on the line"):
        read_delimited(path, separator="tab")
    with pytest.raises(InputError, match="is no separator"):
        read_delimited(path, separator="ab")
    with pytest.raises(InputError, match=r"seperator= is no option .*did you mean separator"):
        read_dataset(path, seperator=",")
    with pytest.raises(InputError, match="no such file"):
        read_dataset(tmp_path / "b.csv")
    with pytest.raises(InputError, match="no such file"):
        read_delimited(tmp_path / "b.csv")
    with pytest.raises(InputError, match="a folder where a file"):
        read_delimited(tmp_path)
    with pytest.raises(InputError, match="3 fields where MovieLens has user"):
        read_movielens(path)
    four = write(tmp_path, "b.tsv", "1\t2\t3\t4\n")
    with pytest.raises(InputError, match="4 fields where HetRec has user"):
        read_hetrec(four)


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no interactions in the folder"):
        read_dataset(tmp_path)
    inner = tmp_path / "inner"
    inner.mkdir()
    write(inner, "a.csv", "a,x\n")
    assert read_dataset(tmp_path).num_interactions == 1
    write(inner, "b.csv", "a,x\n")
    with pytest.raises(InputError, match=r"several files .*a\.csv, b\.csv.*; name one"):
        read_dataset(tmp_path)
    write(inner, "ratings.csv", "a,x\nb,x\n")
    assert read_dataset(tmp_path).num_interactions == 2


def test_titles_beside_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "u.data", "1\t7\t5\t10\n2\t8\t5\t10\n2\t9\t5\t10\n")
    assert read_dataset(path).item_titles is None
    write(
        tmp_path,
        "x.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\n7\tUp\t2009\n8\tM\t\n",
    )
    titles = read_dataset(path).item_titles
    assert titles is not None
    assert titles.tolist() == ["Up (2009)", "M", ""]
    write(tmp_path, "u.item", b"7|Am\xe9lie (2001)|x\n8|M (1931)|\n")
    titles = read_dataset(path).item_titles
    assert titles is not None
    assert titles.tolist() == ["Amélie (2001)", "M (1931)", ""]
    write(tmp_path, "ratings.dat", "1::7::5::10\n")
    write(tmp_path, "movies.dat", "7::Star Trek: First Contact (1996)::Action\n")
    titles = read_movielens(tmp_path / "ratings.dat").item_titles
    assert titles is not None
    assert titles.tolist() == ["Star Trek: First Contact (1996)"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id:token\ttitle:token\n", r"a\.item:1: the header needs item_id"),
        ("item_id:token\ttitle:token\n1\n", r"a\.item:2: 1 fields where the header has 2"),
        (b"item_id:token\ttitle:token\n1\t\xff\n", r"a\.item: not utf-8"),
    ],
)
def test_bad_titles(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = write(tmp_path, "a.inter", "user_id:token\titem_id:token\n1\t1\n")
    write(tmp_path, "a.item", text)
    with pytest.raises(InputError, match=message):
        read_recbole(path)


def test_an_archive_is_read_and_a_climbing_one_is_not(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.zip", tmp_path / "bad.tar.gz"
    with zipfile.ZipFile(good, "w") as packed:
        packed.writestr("inner/u.data", "1\t2\t3\t4\n")
    assert rows(read_dataset(good)) == [("1", "2", 4.0)]
    with tarfile.open(bad, "w:gz") as unpacked:
        info = tarfile.TarInfo("../u.data")
        info.size = 8
        unpacked.addfile(info, io.BytesIO(b"1\t2\t3\t4\n"))
    with pytest.raises(InputError, match="climbs out of its folder"):
        read_dataset(bad)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.tar.gz", "good.zip"]


# Ids: anything but what ends a field or a line; no blanks around it, which readers skip.
IDS = st.text(
    st.characters(blacklist_characters="\t\r\n\0", blacklist_categories=("Cs",)),
    min_size=1,
    max_size=6,
).filter(lambda text: text.strip() and text == text.strip(" ") and text[0] != "\ufeff")


@given(
    st.lists(st.tuples(IDS, IDS), min_size=1, max_size=12, unique=True),
    st.integers(0, 2**31),
    st.booleans(),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], time: int, timed: bool
) -> None:
    users = list(dict.fromkeys(user for user, _ in pairs))
    items = list(dict.fromkeys(item for _, item in pairs))
    dataset = Dataset(
        name="a",
        user=np.array([users.index(user) for user, _ in pairs], np.int32),
        item=np.array([items.index(item) for _, item in pairs], np.int32),
        timestamp=time + np.arange(len(pairs)) / 4 if timed else None,
        # dtype object: NumPy's own strings lose trailing NULs only, but keep hypothesis honest.
        user_ids=np.array(users, object),
        item_ids=np.array(items, object),
    )
    path = tmp_path_factory.mktemp("round") / "a.inter"
    write_recbole(dataset, path)
    assert rows(read_recbole(path)) == rows(dataset)


def test_writing_titles_and_refusals(tmp_path: Path) -> None:
    dataset = synthetic(users=20, items=30, interactions_per_user=6)
    written = write_recbole(dataset, tmp_path / "s.inter")
    assert [p.name for p in written] == ["s.inter", "s.item"]
    again = read_dataset(tmp_path / "s.inter")
    assert rows(again) == rows(dataset)
    assert again.item_titles is not None
    assert dataset.item_titles is not None
    own = dict(zip(dataset.item_ids.tolist(), dataset.item_titles.tolist(), strict=True))
    assert again.item_titles.tolist() == [own[i] for i in again.item_ids.tolist()]
    with pytest.raises(InputError, match=r"named \.inter"):
        write_recbole(dataset, tmp_path / "s.csv")
    tabbed = replace(dataset, user_ids=np.array(["a\tb"] * 20))
    with pytest.raises(InputError, match="cannot stand between tabs"):
        write_recbole(tabbed, tmp_path / "t.inter")
    with pytest.raises(InputError, match="cannot be written"):
        write_recbole(dataset, tmp_path / "s.inter" / "t.inter")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.inter", "s.item"]


@pytest.mark.data
@pytest.mark.parametrize(
    ("path", "sizes", "title"),
    [
        ("ml-100k/u.data", (943, 1682, 100_000), "Kolya (1996)"),
        ("ml-100k/ml-100k.inter", (943, 1682, 100_000), "Kolya (1996)"),
        ("amazon/ratings.dat", (8072, 11_830, 63_836), None),
        ("lastfm-2k/user_artists.dat", (1892, 17_632, 92_834), None),
        ("ml-100k-ratio/clients_100.npz", (943, 1682, 100_000), None),
        ("ml-100k-ratio/clients_943.npz", (943, 1682, 100_000), None),
        ("ml-1m-ratio/clients_100.npz", (6040, 3952, 1_000_209), None),
    ],
)
def test_real_files(data_dir: Path, path: str, sizes: tuple, title: str | None) -> None:
    dataset = read_dataset(data_dir / path)
    assert (dataset.num_users, dataset.num_items, dataset.num_interactions) == sizes
    assert (None if dataset.item_titles is None else dataset.item_titles[0]) == title
    assert dataset.notes == ()


@pytest.mark.data
def test_both_layouts_of_ml_100k_hold_the_same(data_dir: Path) -> None:
    folder = data_dir / "ml-100k"
    assert rows(read_movielens(folder / "u.data")) == rows(read_recbole(folder / "ml-100k.inter"))
    assert rows(load_dataset(folder)) == rows(read_movielens(folder / "u.data"))
