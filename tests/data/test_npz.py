"""The `.npz` reader: explicit splits and clients in, every bad array named, nothing unpickled."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.data import read_dataset, read_npz
from fedjax_rec.errors import InputError
from tests.data.test_readers import rows

ARRAYS = {
    "user": np.array([0, 0, 0, 2]),
    "item": np.array([0, 1, 3, 1]),
    "split": np.array([0, 1, 2, 0]),
    "client": np.array([1, 1, 1, 0]),
    "num_users": np.int64(4),
    "num_items": np.int64(5),
    "num_clients": np.int64(3),
}


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **ARRAYS)
    dataset = read_dataset(path, first_id=1)
    assert rows(dataset) == [("1", "1", None), ("1", "2", None), ("1", "4", None), ("3", "2", None)]
    assert dataset.num_users == 4
    assert dataset.num_items == 5
    assert dataset.split is not None
    assert dataset.split.tolist() == [0, 1, 2, 0]
    assert dataset.client is not None
    assert dataset.client[[0, 2]].tolist() == [1, 0]
    np.savez(path, **{k: ARRAYS[k] for k in ("user", "item", "split")}, timestamp=[1, 2, 3, 4])
    dataset = read_npz(path)
    assert dataset.num_users == 3
    assert dataset.client is None
    assert dataset.timestamp is not None
    assert dataset.timestamp.tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": None}, "no array 'split' in it"),
        ({"user": np.array([0.0, 0, 0, 2])}, "'user' is float64"),
        ({"item": np.array([0, 1])}, "'item' has shape"),
        ({"split": np.array([0, 1, 3, 0])}, r"split\[2\] is 3; use 0 train"),
        ({"user": np.array([0, 0, 0, 4])}, r"user\[3\] is 4, outside 0 .. 3"),
        ({"item": np.array([0, 1, -1, 1])}, r"item\[2\] is -1, outside 0 .. 4"),
        ({"item": np.array([0, 1, 0, 1])}, "rows 0 and 2 both hold user 0, item 0"),
        ({"client": np.array([1, 1, 0, 0])}, "a user belongs to one client"),
        ({"client": np.array([1, 1, 1, 3])}, r"client\[3\] is 3, outside 0 .. 2"),
        ({"num_users": np.array([4])}, "'num_users' is not one integer"),
        ({"timestamp": np.array([1, 2, np.nan, 3])}, r"timestamp\[2\] is nan"),
        ({"timestamp": np.array(["a"] * 4)}, "'timestamp' is <U1"),
        ({"user": np.array([0, None, 0, 2], dtype=object)}, "pickled"),
        (
            {k: np.zeros(0, np.int64) for k in ("user", "item", "split", "client")},
            "no interactions",
        ),
    ],
)
def test_bad_npz(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "a.npz"
    arrays = {name: array for name, array in {**ARRAYS, **change}.items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_npz(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


class Bomb:
    """Pickled, it raises on being loaded."""

    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickle was loaded",))


def test_npz_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="pickled"):
        read_npz(path)
    np.savez(path, **{**ARRAYS, "user": np.array([Bomb()] * 4, dtype=object)})
    with pytest.raises(InputError, match="pickled"):
        read_npz(path)
    np.savez(path, **ARRAYS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="truncated"):
        read_npz(path)
    with open(path, "wb") as file:
        np.save(file, np.arange(3))
    with pytest.raises(InputError, match="one array where"):
        read_npz(path)
    with pytest.raises(InputError, match="no such file"):
        read_npz(tmp_path / "b.npz")
