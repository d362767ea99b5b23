import math
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.reports import load_run
from fedjax_rec.reports.words import CHANCE, comparability_notes, headline, setting_text

from .fakes import write_run


def test_the_chance_level_is_that_of_a_random_rank() -> None:
    ranks = np.arange(100)
    gains = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0)
    assert CHANCE["ndcg@10/uni99"] == pytest.approx(gains.mean())
    assert round(100 * CHANCE["ndcg@10/uni99"], 1) == 4.5
    assert CHANCE["hr@10/uni99"] == 0.1


def test_the_headline_names_leader_chance_and_price(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / method, method, rounds=30))
        for method in ("cgfedrec", "pfedrec", "local")
    ]
    first, *others = headline(runs)
    score = f"{100 * runs[1].test['hr@10/uni99']:.1f}\N{NO-BREAK SPACE}%"
    assert f"pfedrec leads with HR@10 {score}" in first
    assert first.index("cgfedrec") < first.index("local")
    assert any(s.startswith("local is within two standard errors of chance") for s in others)
    # 32 floats of 4 bytes against 6 bits an item.
    ratio = math.floor(32 * 32 / 6 + 0.5)
    assert any("cgfedrec downloads 225 B" in s and f"{ratio} times" in s for s in others)


def test_protocols_are_never_ranked_against_each_other(tmp_path: Path) -> None:
    runs = [
        load_run(write_run(tmp_path / protocol, "local", rounds=4, protocol=protocol))
        for protocol in ("leak-free", "published")
    ]
    sentences = headline(runs)
    assert not any("leads" in sentence for sentence in sentences)
    assert sum("reaches HR@10" in sentence for sentence in sentences) == 2
    (note,) = comparability_notes(runs)
    assert "differ in protocol (leak-free, published)" in note
    assert comparability_notes(runs[:1]) == []


def test_one_run_tells_its_round_and_whether_it_finished(tmp_path: Path) -> None:
    config = {"run": {"protocol": "leak-free", "split": "ratio", "rounds": 50}}
    folder = write_run(tmp_path / "run", split="ratio", rounds=5, finished=False, config=config)
    sentences = headline([load_run(folder)])
    assert "Recall@10" in sentences[0]
    assert "chance" not in sentences[0]
    assert "cgfedrec is unfinished: 5 of 50 rounds." in sentences


def test_the_setting_tells_split_point_and_sampling_error(tmp_path: Path) -> None:
    texts = " ".join(setting_text([load_run(write_run(tmp_path / "run", rounds=2, clients=400))]))
    assert "Leave-one-out" in texts
    assert "after they received the server's download" in texts
    assert "±2.5 points" in texts
