"""What can go wrong while a run is under way: one line, status 2, and nothing lost."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import TINY, error_line, here, process, refused, rows, summary

# Wide embeddings make a checkpoint larger than all else that a run writes.
RUN = ("run", "pfedrec", *TINY, "--dim", "256", "--no-report", "--quiet")


@pytest.fixture(scope="module")
def eight_rounds(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "run"
    here(*RUN, "--rounds", 8, "--checkpoint-every", 2, "--out", out)
    return out


@pytest.fixture
def run_of_four(tmp_path, eight_rounds):
    """A finished run of 4 rounds with checkpoints of rounds 2 and 4."""
    out = tmp_path / "run"
    here(*RUN, "--rounds", 4, "--checkpoint-every", 2, "--out", out)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["2", "4"]
    return out


def test_training_that_diverges_names_round_and_client_and_keeps_the_last_checkpoint(tmp_path):
    out = tmp_path / "run"
    arguments = (*RUN, "--lr", "3e3", "--checkpoint-every", 1, "--out", out)
    done = process(*arguments, "--rounds", 30)
    assert done.returncode == 2
    message = error_line(done.stdout, done.stderr)
    found = re.match(r"training diverged in round (\d+): client \d+ has values that", message)
    assert found, message
    good = int(found[1]) - 1
    assert good >= 1
    assert rows(out)[-1]["round"] == good
    assert str(good) in {p.name for p in (out / "checkpoints").iterdir()}
    assert not (out / "summary.json").exists()

    before = rows(out)
    here(*arguments, "--rounds", good, "--resume")
    assert rows(out) == before
    assert summary(out)["rounds"] == good


@pytest.fixture
def full_disk(tmp_path):
    """A disk of 2 MB on which ``fill(free)`` leaves so many bytes, until ``fill(None)``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (needs root)")
    filler = folder / "filler"

    def fill(free):
        filler.unlink(missing_ok=True)
        if free is not None:
            disk = os.statvfs(folder)
            filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - free))

    yield folder, fill
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("free", "every", "what"),
    [
        (0, 2, "config.json"),
        (24_000, 1000, "metrics.jsonl"),
        (40_000, 2, "a checkpoint"),
    ],
)
def test_a_full_disk_loses_nothing(free, every, what, full_disk, run_of_four, eight_rounds):
    disk, fill = full_disk
    out = disk / "run"
    shutil.copytree(run_of_four, out)
    fill(free)
    more = (*RUN, "--out", out, "--resume", "--checkpoint-every", every)
    done = process(*more, "--rounds", 60)
    assert done.returncode == 2
    message = error_line(done.stdout, done.stderr)
    assert message.startswith("cannot write ")
    assert what in message
    assert re.search(r"No space left on device|the disk is full", message)
    assert "free some space, then go on with --resume" in message
    # Whole lines only, temporary files gone, checkpoints as they were.
    written = rows(out)
    assert written[:8] == rows(eight_rounds)[:8]
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["2", "4"]
    assert [path.name for path in out.glob(".*")] == [".lock"]

    fill(None)
    here(*RUN, "--out", out, "--resume", "--rounds", 8, "--checkpoint-every", 2)
    assert rows(out) == rows(eight_rounds)
    assert summary(out) == summary(eight_rounds)


@pytest.mark.parametrize("place", ["below a file", "/proc/fedjax-rec-run"])
def test_an_out_that_cannot_be_written_is_refused(place, tmp_path, capfd):
    (tmp_path / "file").write_text("here already\n")
    out = tmp_path / "file" / "run" if place == "below a file" else Path(place)
    message = refused(capfd, *RUN, "--rounds", 1, "--out", out)
    assert message.startswith(f"cannot write to {out}: ")
    assert message.endswith("name another --out")
    assert (tmp_path / "file").read_text() == "here already\n"


def test_a_folder_that_holds_a_run_is_not_overwritten(run_of_four, capfd):
    before = (run_of_four / "metrics.jsonl").read_bytes()
    message = refused(capfd, *RUN, "--rounds", 1, "--out", run_of_four)
    assert message == (
        f"{run_of_four} already holds a run: add --resume to go on with it, or name another --out"
    )
    assert (run_of_four / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("damage", ["truncate", "corrupt", "delete"])
@pytest.mark.parametrize("name", ["arrays.npz", "record.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_works(
    damage, name, run_of_four, eight_rounds, capfd
):
    newest = run_of_four / "checkpoints" / "4"
    (file,) = newest.rglob(name)
    content = file.read_bytes()
    half = len(content) // 2
    if damage == "truncate":
        file.write_bytes(content[:half])
    elif damage == "corrupt":
        file.write_bytes(content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :])
    else:
        file.unlink()
    before = (run_of_four / "metrics.jsonl").read_bytes()
    more = (*RUN, "--rounds", 8, "--checkpoint-every", 2, "--out", run_of_four, "--resume")
    message = refused(capfd, *more)
    assert message.startswith(f"checkpoint {newest} cannot be read (")
    assert message.endswith("delete that folder to resume after round 2")
    assert (run_of_four / "metrics.jsonl").read_bytes() == before

    shutil.rmtree(newest)
    here(*more)
    assert rows(run_of_four) == rows(eight_rounds)


def test_a_truncated_checkpoint_is_one_line_from_the_installed_command(run_of_four):
    (file,) = (run_of_four / "checkpoints" / "4").rglob("arrays.npz")
    os.truncate(file, 100)
    done = process(*RUN, "--rounds", 8, "--out", run_of_four, "--resume")
    assert done.returncode == 2
    assert "cannot be read" in error_line(done.stdout, done.stderr)


def test_without_a_checkpoint_before_the_damaged_one_the_remedy_is_another_folder(
    run_of_four, capfd
):
    shutil.rmtree(run_of_four / "checkpoints" / "2")
    (file,) = (run_of_four / "checkpoints" / "4").rglob("arrays.npz")
    file.unlink()
    message = refused(capfd, *RUN, "--rounds", 8, "--out", run_of_four, "--resume")
    assert message.endswith("there is none before it, so start anew with another --out")


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (("--seed", "7"), "run.seed: 0 in the checkpoint, 7 asked for"),
        (("--lr", "0.2"), "method_options.lr: 0.1 in the checkpoint, 0.2 asked for"),
        (("--cohort", "0.5"), "run.cohort: 24 in the checkpoint, 12 asked for"),
        (
            ("--protocol", "published"),
            "run.protocol: 'leak-free' in the checkpoint, 'published' asked for",
        ),
        (("--client-limit", "9"), "data.clients: 24 in the checkpoint, 9 asked for"),
        (
            ("--data-options", "users=24", "items=40", "interactions_per_user=8", "breadth=0.5"),
            "data: other interactions under the same name and of the same size",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(other, difference, run_of_four, capfd):
    before = {name: (run_of_four / name).read_bytes() for name in ("config.json", "metrics.jsonl")}
    message = refused(capfd, *RUN, "--rounds", 8, "--out", run_of_four, "--resume", *other)
    assert message.startswith(f"{run_of_four} holds another run (")
    assert difference in message
    assert message.endswith("use its configuration, or another --out")
    for name, content in before.items():
        assert (run_of_four / name).read_bytes() == content


def test_another_method_is_refused_without_listing_its_options(run_of_four, capfd):
    arguments = ("run", "fedmf", *RUN[2:], "--rounds", 8, "--out", run_of_four, "--resume")
    message = refused(capfd, *arguments)
    assert "(method: 'pfedrec' in the checkpoint, 'fedmf' asked for)" in message


def test_a_run_without_checkpoint_is_not_taken_over_by_another(run_of_four, capfd):
    shutil.rmtree(run_of_four / "checkpoints")
    message = refused(capfd, *RUN, "--seed", 7, "--rounds", 8, "--out", run_of_four, "--resume")
    assert "run.seed: 0 in the checkpoint, 7 asked for" in message
    assert len(rows(run_of_four)) == 8


def test_fewer_rounds_than_done_are_refused(run_of_four, capfd):
    message = refused(capfd, *RUN, "--rounds", 3, "--out", run_of_four, "--resume")
    assert message == f"{run_of_four} is at round 4 already: use --rounds 4 or more"
    assert json.loads((run_of_four / "config.json").read_text())["run"]["rounds"] == 4
