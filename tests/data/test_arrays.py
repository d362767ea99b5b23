"""Archives of arrays: what is written is what is read, and nothing is pickled."""

import errno
import io

import numpy as np
import pytest

from fedjax_rec.data.arrays import load_arrays, write_arrays

ARRAYS = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "none": np.zeros((0, 4), np.int16),
    "scalar": np.float32(2.5),
    "columns": np.asfortranarray(np.eye(3)),
    "text": np.array(["a", "éé"]),
}


@pytest.mark.parametrize("compress", [False, True])
def test_written_then_read(compress, tmp_path) -> None:
    path = tmp_path / "some.npz"
    with open(path, "wb") as file:
        write_arrays(file, ARRAYS, compress=compress)
    found = load_arrays(path, list(ARRAYS), what="an .npz")
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with np.load(path) as archive:
        assert archive.files == list(ARRAYS)  # nothing else


def test_objects_are_refused() -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_arrays(io.BytesIO(), {"bad": np.array([{}], object)})


@pytest.mark.filterwarnings("error")  # an archive that is left open ends in an unraisable one
def test_a_full_disk_is_an_os_error() -> None:
    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) > 5000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space left"), Full() as file:
        write_arrays(file, {"few": np.zeros(100), "many": np.zeros(1000)})
