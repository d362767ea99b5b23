"""``fedjax-rec compare`` on tiny data: what it runs, what it says, how it survives."""

import json
import re
import shutil
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pandas as pd
import pytest

from fedjax_rec.compare.significance import sign_flip_p
from fedjax_rec.evaluation import hit_ratio, ndcg
from tests.cli.commands import here, refused
from tests.compare.scene import InProcess, command, in_process

METHODS = "popularity,pfedrec:dim=4:label=small"
OPTIONS = ("--rounds", 2, "--seeds", 2, "--checkpoint-every", 1)
METRIC = "ndcg@10/uni99"
TIMES = ("seconds_per_round", "clients_per_second")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison run to its end: its folder and what it printed."""
    out = tmp_path_factory.mktemp("compare") / "out"
    executor = InProcess()
    printed = StringIO()
    with in_process(executor, figures=True), redirect_stdout(printed):
        here(*command(out, METHODS, *OPTIONS))
    assert len(executor.started) == 4
    return out, printed.getvalue()


def told(out):
    return json.loads((out / "comparison.json").read_text())


def timeless(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def ranks(out, word):
    """Seed -> ranks.npz of a contestant's runs."""
    found = {}
    for folder in sorted((out / "trials").glob(f"{word}_*")):
        with np.load(folder / "ranks.npz", allow_pickle=False) as arrays:
            seed = json.loads((folder / "config.json").read_text())["run"]["seed"]
            found[seed] = {name: arrays[name] for name in arrays.files}
    return found


def test_the_figures_follow_from_the_ranks(finished):
    out, _ = finished
    content = told(out)
    (standings,) = content["standings"]
    assert standings["metric"] == METRIC
    rows = {row["label"]: row for row in standings["methods"]}
    assert list(rows) == sorted(rows, key=lambda label: -rows[label][METRIC])
    for label, row in rows.items():
        by_seed = ranks(out, label)
        assert list(by_seed) == [0, 1]
        for name, metric in {METRIC: ndcg, "hr@10/uni99": hit_ratio}.items():
            means = [metric(r["test_uni99"], 10).mean() for r in by_seed.values()]
            assert row[name] == pytest.approx(np.mean(means))
            assert row[f"{name} std"] == pytest.approx(np.std(means, ddof=1))
        full = [hit_ratio(r["test_full"], 10).mean() for r in by_seed.values()]
        assert row["hr@10/full"] == pytest.approx(np.mean(full))


def test_the_best_is_tested_against_the_other(finished):
    out, _ = finished
    best, other = told(out)["standings"][0]["methods"]
    users = {
        row["label"]: np.mean(
            [ndcg(r["test_uni99"], 10) for r in ranks(out, row["label"]).values()], axis=0
        )
        for row in (best, other)
    }
    gap = users[other["label"]] - users[best["label"]]
    assert best["p"] is best["p_holm"] is None
    assert best["difference"] == 0
    assert other["difference"] == pytest.approx(gap.mean())
    assert other["difference"] == pytest.approx(other[METRIC] - best[METRIC])
    assert other["p"] == other["p_holm"] == pytest.approx(sign_flip_p(gap))


def test_groups_are_partitions(finished):
    out, _ = finished
    for row in told(out)["standings"][0]["methods"]:
        users, items = row["by_activity"], row["by_popularity"]
        assert sum(group["count"] for group in users) == 24
        total = sum(group["count"] * group["score"] for group in users)
        assert total / 24 == pytest.approx(row[METRIC])
        assert sum(group["count"] for group in items) == 24  # one held-out item a user
        total = sum(group["count"] * group["score"] for group in items if group["count"])
        assert total / 24 == pytest.approx(row["hr@10/uni99"])


def test_head_and_tail_are_told_by_training_counts(finished):
    out, _ = finished
    row = next(r for r in told(out)["standings"][0]["methods"] if r["label"] == "small")
    hits = []
    for found in ranks(out, "small").values():
        head = np.argsort(-found["item_users"], kind="stable")[:8]  # a fifth of 40
        mine = np.isin(found["test_items"], head)
        hits.append((found["test_uni99"][mine] < 10).mean())
    assert row["by_popularity"][0]["score"] == pytest.approx(np.mean(hits))


def test_cost_is_counted(finished):
    """PFedRec of 4 dimensions: a head of 4 + 1 is kept, 40 × 4 items travel both ways."""
    out, _ = finished
    rows = {row["label"]: row for row in told(out)["standings"][0]["methods"]}
    small = rows["small"]
    assert small["client_state_values"] == 5
    assert small["download_values"] == 160
    assert small["uplink_bytes"] == small["downlink_bytes"] == 640
    (best,) = {float(b) for b in [small["best_round"]]}
    assert small["uplink_bytes_to_best"] == 640 * best
    assert rows["popularity"]["client_state_values"] == 0
    assert small["seconds_per_round"] > 0
    assert small["clients_per_second"] > 0


def test_the_files_agree(finished):
    out, _ = finished
    frame = pd.read_parquet(out / "comparison.parquet")
    rows = told(out)["standings"][0]["methods"]
    assert frame["label"].tolist() == [row["label"] for row in rows]
    for name in (METRIC, "difference", "uplink_bytes"):
        assert frame[name].tolist() == [row[name] for row in rows]
    runs = pd.read_parquet(out / "results.parquet")
    assert len(runs) == 4
    assert set(runs["label"]) == {"popularity", "small"}
    assert (runs.groupby("label")[METRIC].mean() == frame.set_index("label")[METRIC]).all()


def test_the_page_needs_nothing_else(finished):
    out, printed = finished
    html = (out / "comparison.html").read_text()
    assert printed.endswith(f"report: {out / 'comparison.html'}\n")
    assert not re.search(r"(?:src|srcset|href)=\"(?!data:)", html)
    assert "<script" not in html
    assert "url(" not in html
    names = {path.name for path in out.glob("*.png")}
    kinds = ("pareto", "users", "activity", "popularity")
    assert names == {f"comparison-{kind}-leak-free.png" for kind in kinds}
    assert html.count("<img ") == 4
    assert "sign-flip" in html
    assert "Holm" in html
    assert "±" in html


def test_again_nothing_is_run_and_more_is_added(finished, capsys):
    out, _ = finished
    before = told(out)
    again = InProcess()
    with in_process(again):
        here(*command(out, METHODS, *OPTIONS))
    assert again.started == []
    assert told(out)["standings"] == before["standings"]
    more = InProcess()
    with in_process(more):
        here(*command(out, f"{METHODS},local", *OPTIONS[:2], "--seeds", "1", *OPTIONS[4:]))
    assert [name.partition("_")[0] for name in more.started] == ["local"]
    assert "not compared here, its folder stays: small_seed=1_" in capsys.readouterr().err
    rows = told(out)["standings"][0]["methods"]
    assert {row["label"]: row["seeds"] for row in rows} == dict.fromkeys(
        ("popularity", "small", "local"), 1
    )
    assert all(row[f"{METRIC} std"] is None for row in rows)
    with in_process(InProcess()):
        here(*command(out, METHODS, *OPTIONS))  # as it was


def test_killed_anywhere_it_goes_on_and_ends_the_same(finished, tmp_path, monkeypatch, capsys):
    """The first run is cut off within a round, the comparison itself before the third."""
    from fedjax_rec.simulation.folder import RunFolder

    out = tmp_path / "out"
    append = RunFolder.append_metrics

    def cut(self, rows):
        append(self, rows)
        if rows[0]["round"] == 2 and "seed=0" in self.path.name:
            raise KeyboardInterrupt

    def before(job):
        if "small_seed=0" in job.name:
            raise KeyboardInterrupt

    arguments = command(out, METHODS, *OPTIONS)
    monkeypatch.setattr(RunFolder, "append_metrics", cut)
    with in_process(InProcess(before)), pytest.raises(SystemExit) as end:
        here(*arguments)
    assert end.value.code == 130
    monkeypatch.setattr(RunFolder, "append_metrics", append)
    states = [t["status"] for t in json.loads((out / "compare.json").read_text())["trials"]]
    assert states == ["killed", "finished", "killed", "waiting"]

    again = InProcess()
    with in_process(again):
        here(*arguments)
    assert [name.rpartition("_")[0] for name in again.started] == [
        *("popularity_seed=0", "small_seed=0", "small_seed=1")
    ]
    (log,) = [line for line in capsys.readouterr().err.splitlines() if "reach round" in line]
    assert "popularity_seed=0" in log
    ours, theirs = told(out)["standings"][0], told(finished[0])["standings"][0]
    assert timeless(ours["methods"]) == timeless(theirs["methods"])


def test_a_failure_is_listed_and_the_rest_is_compared(tmp_path, capsys):
    out = tmp_path / "out"

    def before(job):
        if "small_seed=1" not in job.name:
            return None
        with open(job.log, "a", encoding="utf-8") as log:
            log.write("fedjax-rec: error: something is wrong with it\n")
        return 2

    with in_process(InProcess(before)), pytest.raises(SystemExit) as end:
        here(*command(out, METHODS, *OPTIONS[:4], "--rounds", 1))
    assert end.value.code == 1
    told_ = capsys.readouterr().out
    assert "1 of 2 seeds" in " ".join(told_.split())
    assert told_.splitlines()[-1].startswith("failed: small_seed=1_")
    (failed,) = told(out)["unfinished"]
    assert failed["error"] == "something is wrong with it"
    rows = {row["label"]: row for row in told(out)["standings"][0]["methods"]}
    assert (rows["small"]["seeds"], rows["popularity"]["seeds"]) == (1, 2)
    html = (out / "comparison.html").read_text()
    assert "something is wrong with it" in html


def test_other_data_need_another_folder(finished, capfd):
    out, _ = finished
    before = (out / "compare.json").read_bytes()
    words = command(out, METHODS, *OPTIONS, "--client-limit", 20)
    assert "holds a comparison with client_limit = None, not 20: name another" in refused(
        capfd, *words
    )
    words = command(out, METHODS, *OPTIONS, "--data-options", "users=30")
    assert "holds a comparison with data_options = {'users': 24" in refused(capfd, *words)
    assert (out / "compare.json").read_bytes() == before


def test_runs_that_cannot_be_compared(finished, tmp_path, capfd):
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    (out / "compare.json").unlink()  # trials are found by their folders
    (folder,) = (out / "trials").glob("small_seed=1_*")
    whole = (folder / "ranks.npz").read_bytes()
    arrays = ranks(out, "small")[1]
    arrays["test_items"] = np.roll(arrays["test_items"], 1, axis=0)
    np.savez(folder / "ranks.npz", **arrays)
    words = command(out, METHODS, *OPTIONS)
    with in_process(InProcess()):
        assert "were run on other data under the same name" in refused(capfd, *words)
        (folder / "ranks.npz").write_bytes(whole[:100])
        assert "ranks.npz: cannot be read (" in refused(capfd, *words)
        (folder / "ranks.npz").unlink()
        assert "has no ranks.npz: an older version ran it" in refused(capfd, *words)


def test_the_terminal_shows_it_within_80_columns(finished):
    _, printed = finished
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80 or len(max(lines, key=len).split()) == 2  # a path
    assert "synthetic · leave-one-out · leak-free protocol" in printed
    assert any(line.split()[0] == "small" for line in lines if line.strip())
    assert "mean ± standard deviation over 2 seeds" in " ".join(printed.split())
