import errno
import logging
import os
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_rec.errors import InputError
from fedjax_rec.simulation import checkpoint_files
from fedjax_rec.simulation.checkpoint import Checkpoint, Checkpoints, differences


class Server(NamedTuple):
    items: np.ndarray
    known: np.ndarray


def state(round_: int) -> Checkpoint:
    rng = np.random.default_rng(round_)
    server = Server(rng.normal(size=(5, 3)).astype(np.float32), np.bool_(True))
    clients = {"head": rng.normal(size=(4, 3)).astype(ml_dtypes.bfloat16), "count": np.arange(4)}
    return Checkpoint(round_, server, clients, {"history": [{"round": round_}], "seed": 0})


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), tree)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_bitwise(tmp_path):
    saved = state(3)
    Checkpoints(tmp_path / "c").save(saved)
    found = Checkpoints(tmp_path / "c").load(3, shapes(saved.server), shapes(saved.clients))
    assert found.round == 3
    assert found.record == saved.record
    for tree, other in ((found.server, saved.server), (found.clients, saved.clients)):
        assert jax.tree.structure(tree) == jax.tree.structure(other)
        for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_the_latest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.latest_round() is None
    for round_ in (1, 2, 10):
        checkpoints.save(state(round_))
    assert names(tmp_path / "c") == ["10", "2"]
    assert checkpoints.latest_round() == 10
    assert checkpoints.record(2)["history"] == [{"round": 2}]


def test_looking_for_checkpoints_creates_nothing(tmp_path):
    assert Checkpoints(tmp_path / "c").latest_round() is None
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("call", [1, 2])
def test_a_disk_that_fills_up_while_saving_leaves_the_one_before(
    call, tmp_path, monkeypatch, caplog, capfd
):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state(1))
    calls = 0

    def full(file):
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_files, "_settle", full)
    with pytest.raises(InputError) as error:
        checkpoints.save(state(2))
    assert str(error.value) == (
        f"cannot write a checkpoint to {tmp_path / 'c'}: the disk is full; those before it are "
        "kept: free some space, then go on with --resume"
    )
    assert names(tmp_path / "c") == ["1"]
    assert checkpoints.load(1, *map(shapes, state(1)[1:3])).round == 1
    assert not caplog.records
    assert capfd.readouterr().err == ""
    assert not logging.getLogger("absl").filters


def test_what_a_killed_save_left_is_no_checkpoint_and_goes_with_the_next_save(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state(1))
    leftover = tmp_path / "c" / "2.orbax-checkpoint-tmp" / "default"
    leftover.mkdir(parents=True)
    (leftover / "arrays.npz").write_bytes(b"half")
    assert checkpoints.latest_round() == 1
    checkpoints.save(state(2))
    assert names(tmp_path / "c") == ["1", "2"]


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write a checkpoint to .*--resume") as error:
        Checkpoints(tmp_path / "file" / "c").save(state(1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            lambda s: s._replace(items=s.items[:2]),
            r"0 is float32\[5, 3\], .* float32\[2, 3\]",
        ),
        (lambda s: s._replace(items=s.items.astype(np.float16)), r"float32\[5, 3\], .* float16"),
        (lambda s: (*s, s.items), r"server2 is missing, this run needs float32\[5, 3\]"),
    ],
)
def test_a_state_of_another_shape_is_anothers(change, what, tmp_path):
    saved = state(1)
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(saved)
    with pytest.raises(InputError, match=what + ".*another run; use another --out"):
        checkpoints.load(1, shapes(change(saved.server)), shapes(saved.clients))


configs = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.text("ab", max_size=2),
    lambda leaf: st.dictionaries(st.sampled_from("xyz"), leaf, max_size=3),
)
mappings = st.dictionaries(st.sampled_from("xyz"), configs, max_size=3)


@given(mappings, mappings)
def test_differences_are_none_exactly_when_configurations_agree(a, b):
    assert differences(a, a) == []
    # A missing key and one that is None ask for the same.
    assert bool(differences(a, b)) == (_without_none(a) != _without_none(b))
    assert len(differences(a, b)) == len(differences(b, a))


def _without_none(tree):
    if not isinstance(tree, dict):
        return tree
    return {k: _without_none(v) for k, v in tree.items() if v is not None}


def test_differences_name_the_key_and_both_values():
    saved = {"run": {"seed": 0, "split": "loo"}, "method": "local"}
    wanted = {"run": {"seed": 1, "split": "loo"}, "method": "local"}
    assert differences(saved, wanted) == ["run.seed: 0 in the checkpoint, 1 asked for"]
