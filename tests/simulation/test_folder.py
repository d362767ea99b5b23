"""The folder of a run: who may write, and what a failed write leaves."""

from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.errors import InputError
from fedjax_rec.simulation.folder import RunFolder, write_whole


def test_a_folder_that_is_only_read_is_never_written(tmp_path: Path) -> None:
    """All processes of a run share its folder and one of them writes: two would race."""
    folder = RunFolder(tmp_path / "run", writes=False)
    folder.write_json("config.json", {"seed": 0})
    folder.write_metrics([{"round": 1}])
    folder.append_metrics([{"round": 2}])
    folder.write_arrays("embeddings.npz", {"items": np.zeros(2)})
    folder.remove("config.json")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_content_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    def half(file) -> None:
        file.write("ne")
        raise OSError(28, "No space left on device")

    folder = RunFolder(tmp_path)
    folder.write_json("config.json", {"seed": 0})
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "config.json", half)
    assert folder.config() == {"seed": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^cannot write to .*; name another --out$"):
        RunFolder(tmp_path / "file" / "run")
