"""``fedjax-rec run``: every method and option, and what a run leaves behind."""

import dataclasses
import json
import re

import numpy as np
import pytest

from fedjax_rec.methods import PRESETS, REGISTRY
from tests.cli.commands import TINY, here, process, rows, summary

METRICS = (
    *("hr@10/uni99", "ndcg@10/uni99"),
    *("hr@10/full", "ndcg@10/full", "recall@10/full", "mrr@10/full"),
    *("precision@10/full", "f1@10/full"),
)
KEYS = {
    *("round", "split", *METRICS, "train_loss", "clients"),
    *("communities", "nmi", "cluster_sizes"),
    *("uplink_bytes", "downlink_bytes", "uplink_bytes_total", "downlink_bytes_total"),
    *("seconds", "compile_seconds", "device_seconds", "host_seconds", "eval_seconds"),
}
DATA_AND_RUN_OPTIONS = (
    *("data", "data-options", "protocol", "split", "clients", "client-limit", "rounds", "cohort"),
    *("seed", "eval-every", "chunk", "evaluate-at", "checkpoint-every", "out", "resume", "debug"),
    *("devices", "label", "no-report", "quiet", "click-noise"),
)


def config(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run by the installed command, report and all: its folder and what it said."""
    out = tmp_path_factory.mktemp("cli") / "run"
    done = process("run", "cgfedrec", *TINY, "--clusters", 5, "--rounds", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done


def test_help_names_every_option(capsys):
    for method, entry in REGISTRY.items():
        with pytest.raises(SystemExit) as end:
            here("run", method, "--help")
        assert end.value.code == 0
        told = capsys.readouterr().out
        own = dataclasses.asdict(entry.config())
        switched_off = (f"no-{name}" for name, value in own.items() if value is True)
        settings = (name for name, value in own.items() if value is not True)
        wanted = [*DATA_AND_RUN_OPTIONS, *switched_off, *settings]
        wanted = [name.replace("_", "-") for name in wanted]
        missing = [name for name in wanted if not re.search(rf"--{name}\b", told)]
        assert not missing, (method, missing)
        assert "``" not in told
        assert "{None}" not in told


def test_help_names_every_command_and_method(capsys):
    told = {}
    for words in ((), ("run",), ("data",)):
        with pytest.raises(SystemExit) as end:
            here(*words, "--help")
        assert end.value.code == 0
        told[words] = capsys.readouterr().out
    assert all(word in told[()] for word in ("run", "sweep", "compare", "data", "report"))
    assert all(method in told["run",] for method in REGISTRY)
    assert all(command in told["data",] for command in ("list", "info", "get", "synth"))


def test_the_artifacts_are_there(run):
    out, _ = run
    names = {path.name for path in out.iterdir() if path.suffix != ".png"}
    assert names == {
        *("config.json", "metrics.jsonl", "summary.json", "checkpoints", "embeddings.npz"),
        *("ranks.npz", "report.html", ".lock"),
    }
    assert list(out.glob("*.png"))


def test_metric_lines_have_their_keys(run):
    out, _ = run
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["round"], line["split"]) for line in lines] == [
        *((1, "val"), (1, "test"), (2, "val"), (2, "test"))
    ]
    for line in lines:
        assert set(line) == KEYS
        assert all(0 <= line[metric] <= 1 for metric in METRICS)
        assert sum(line["cluster_sizes"]) == 40
        assert line["communities"] == len(line["cluster_sizes"]) == 5
        assert 0 <= line["nmi"] <= 1


def test_the_configuration_is_resolved(run):
    out, _ = run
    found = config(out)
    assert found["method"] == found["label"] == "cgfedrec"
    assert found["method_options"]["clusters"] == 5
    assert found["method_options"]["temperature"] == 0.1
    assert found["data"]["users"] == found["data"]["clients"] == 24
    assert found["data"]["items"] == 40
    assert found["run"] == {
        **{"protocol": "leak-free", "split": "loo", "seed": 0, "cohort": 24, "rounds": 2},
        **{"evaluate_at": "download", "eval_every": 1, "checkpoint_every": 10, "chunk": "auto"},
        **{"state": "device", "state_dtype": "float32", "precision": "default"},
        **{"kernel": "xla"},
    }
    assert set(found["device"]) == {"platform", "kind", "count", "processes"}
    assert {"python", "jax", "fedjax-rec"} <= set(found["versions"])
    assert "git_commit" in found
    assert found["command"].startswith("fedjax-rec run cgfedrec --data-options users=24")


def test_click_noise_is_on_record(tmp_path):
    common = ("run", "popularity", *TINY, "--rounds", 1, "--no-report", "--quiet")
    here(*common, "--out", tmp_path / "clean")
    here(*common, "--click-noise", 0.5, "--out", tmp_path / "noisy")
    clean, noisy = (config(tmp_path / name)["data"] for name in ("clean", "noisy"))
    assert noisy["interactions"] > clean["interactions"]
    assert noisy["fingerprint"] != clean["fingerprint"]
    (note,) = set(noisy["notes"]) - set(clean["notes"])
    assert note.startswith("click noise 0.5: ")


def test_the_summary_says_what_matters(run):
    out, _ = run
    found = json.loads((out / "summary.json").read_text())
    validation = {r["round"]: r["hr@10/uni99"] for r in rows(out) if r["split"] == "val"}
    assert found["selection"] == "hr@10/uni99"
    assert found["best_round"] == max(validation, key=lambda r: (validation[r], -r))
    assert set(found["test"]) == set(METRICS)
    assert found["protocol"] == "leak-free"
    assert found["uplink_bytes_total"] == rows(out)[-1]["uplink_bytes_total"] == 2 * 24 * 40 * 128
    assert found["clients_per_second"] > 0
    assert found["peak_rss_bytes"] > 0


def test_the_item_embeddings_come_with_ids_titles_labels_and_truth(run):
    out, _ = run
    with np.load(out / "embeddings.npz", allow_pickle=False) as arrays:
        assert arrays["item_embeddings"].shape == (40, 32)
        for name in ("labels", "item_id", "title", "truth"):
            assert arrays[name].shape == (40,), name


def test_the_terminal_shows_a_line_a_round_and_ends_with_a_table_and_the_report(run):
    out, done = run
    said = done.stderr.splitlines()
    assert said[0].startswith("cgfedrec on synthetic: 24 clients, 24 users, 40 items")
    assert [line[:9] for line in said if line.startswith("round")] == ["round 1/2", "round 2/2"]
    table = done.stdout.splitlines()
    assert "leak-free protocol" in table[0]
    assert any(line.startswith("cgfedrec") for line in table)
    assert table[-1] == f"report: {out / 'report.html'}"
    assert max(map(len, table[:-1])) <= 80


def test_the_report_is_self_contained_and_says_the_protocol(run):
    html = (run[0] / "report.html").read_text()
    assert "leak-free" in html
    assert not re.search(r'(src|href)="(?!data:|#|https?://)[^"]*\.(png|js|css)"', html)


EVERY_OPTION = {
    "cgfedrec-leiden": (
        *("cgfedrec", "--clustering", "leiden", "--similarity-threshold", "0.2"),
        *("--contrast-weight", "0.01", "--temperature", "0.2", "--base-temperature", "0.4"),
        *("--init-std", "0.5", "--anchors", "positive", "--bits", "8", "--local-epochs", "1"),
        *("--dim", "8", "--batch-size", "64", "--negatives", "2", "--optimizer", "adam"),
        *("--lr", "0.01", "--item-lr-scale", "0.02", "--cohort", "0.5", "--seed", "3"),
        *("--eval-every", "2", "--evaluate-at", "trained", "--checkpoint-every", "1"),
        *("--chunk", "4", "--devices", "1", "--client-limit", "20", "--label", "mine"),
    ),
    "cgfedrec-louvain": ("cgfedrec", "--clustering", "louvain", "--similarity-threshold", "0.2"),
    "pfedrec": ("pfedrec", "--cohort", "7", "--evaluate-at", "download", "--dim", "8"),
    "fedmf": ("fedmf", "--optimizer", "adam", "--lr", "0.01", "--item-lr-scale", "0.02"),
    "local": ("local", "--clients", "6", "--split", "ratio"),
    "popularity": ("popularity", "--split", "ratio", "--protocol", "published"),
}


@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_method_and_option_runs_and_is_on_record(name, tmp_path):
    method, *options = EVERY_OPTION[name]
    out = tmp_path / "run"
    here("run", method, *TINY, "--rounds", 2, *options, "--quiet", "--no-report", "--out", out)
    found = config(out)
    assert found["method"] == method
    assert rows(out)[-1]["round"] == 2
    record = {**found["method_options"], **found["run"], "label": found["label"]}
    record |= {"clients": found["data"]["clients"], "client_limit": found["data"]["clients"]}
    record["devices"] = found["device"]["count"]
    record["cohort"] = {10: "0.5"}.get(record["cohort"], record["cohort"])  # of 20 clients
    for option, value in zip(options[::2], options[1::2], strict=True):
        assert str(record[option[2:].replace("-", "_")]) == value, option


def test_a_preset_sets_defaults_and_options_beside_it_win(tmp_path):
    wanted = {**PRESETS["alignfedrec"]["leak-free"], "dim": 6, "threshold": 0.4}
    for number, preset in enumerate((("--preset", "leak-free"), ("--preset=leak-free",))):
        out = tmp_path / f"run{number}"
        options = (*TINY, "--dim", 6, "--threshold", 0.4, "--rounds", 1, "--out", out)
        here("run", "alignfedrec", *preset, *options, "--no-report", "--quiet")
        resolved = config(out)["method_options"]
        assert {key: resolved[key] for key in wanted} == wanted


def test_debug_gives_the_same_figures(tmp_path):
    common = ("run", "pfedrec", *TINY, "--rounds", 2, "--dim", 4, "--client-limit", 4, "--quiet")
    common += ("--no-report", "--devices", 1)
    here(*common, "--out", tmp_path / "fast")
    here(*common, "--out", tmp_path / "debug", "--debug")
    for ours, theirs in zip(rows(tmp_path / "debug"), rows(tmp_path / "fast"), strict=True):
        assert ours.pop("train_loss") == pytest.approx(theirs.pop("train_loss"), rel=1e-4)
        assert ours == theirs


def test_published_says_why_its_figures_are_inflated(tmp_path, capfd):
    out = tmp_path / "run"
    here("run", "popularity", *TINY, "--protocol", "published", "--rounds", 1, "--out", out)
    told, said = capfd.readouterr()
    (line,) = [line for line in said.splitlines() if line.startswith("note: protocol published")]
    assert "never trained as negatives" in line
    assert "figures are inflated" in line
    assert "published protocol" in told
    assert config(out)["run"]["protocol"] == "published"
    assert json.loads((out / "summary.json").read_text())["protocol"] == "published"
    assert any("inflated" in note for note in summary(out)["warnings"])
    assert "published" in (out / "report.html").read_text()


def test_clip_and_laplace_give_an_epsilon_a_round_and_composed(tmp_path, capfd):
    out = tmp_path / "run"
    arguments = ("run", "fedmf", *TINY, "--rounds", 2, "--no-report", "--out", out)
    here(*arguments, "--clip", "1.0", "--laplace", "2.0")
    found = rows(out)
    each = found[0]["epsilon_per_round"]
    assert each > 0
    assert [row["epsilon"] for row in found] == pytest.approx([each, each, 2 * each, 2 * each])
    assert summary(out)["epsilon"] == pytest.approx(2 * each)
    assert "gives no ε" not in capfd.readouterr().err


def test_laplace_without_clip_says_that_there_is_no_epsilon(tmp_path, capfd):
    out = tmp_path / "run"
    here("run", "fedmf", *TINY, "--rounds", 1, "--no-report", "--out", out, "--laplace", "0.01")
    assert "note: --laplace 0.01 without --clip: such noise gives no ε\n" in capfd.readouterr().err
    assert "epsilon" not in rows(out)[0]
    assert summary(out)["epsilon"] is None


def test_bits_shrink_what_goes_up(tmp_path):
    out = tmp_path / "run"
    here("run", "fedmf", *TINY, "--rounds", 1, "--quiet", "--no-report", "--out", out, "--bits", 4)
    # 4 bits a value, and a float32 minimum and scale a row.
    assert rows(out)[0]["uplink_bytes"] == 40 * 32 // 2 + 40 * 2 * 4
    assert rows(out)[0]["downlink_bytes"] == 40 * 32 * 4


def test_runs_without_out_are_numbered_and_resume_takes_the_latest(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    arguments = ("run", "popularity", *TINY, "--no-report", "--quiet", "--seed", 5)
    first = "popularity-synthetic-leak-free-seed5"
    for _ in range(2):
        here(*arguments, "--rounds", 1)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [first, f"{first}-2"]
    assert capfd.readouterr().out.endswith(f"run: runs/{first}-2\n")
    here(*arguments, "--rounds", 2, "--resume")
    assert summary(tmp_path / "runs" / f"{first}-2")["rounds"] == 2
    assert summary(tmp_path / "runs" / first)["rounds"] == 1


@pytest.mark.data
def test_a_round_on_movielens(data_dir, tmp_path):
    out = tmp_path / "run"
    arguments = ("--data", "ml-100k", "--rounds", 1, "--client-limit", 40, "--no-report")
    done = process("run", "cgfedrec", *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("cgfedrec on ml-100k: 40 clients, 40 users, 1,682 items")
    row = rows(out)[0]
    assert row["uplink_bytes"] == 1682 * 32 * 4
    assert sum(row["cluster_sizes"]) == 1682
