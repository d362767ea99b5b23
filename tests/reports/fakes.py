"""Run folders as the engine writes them, with plausible numbers and no training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["write_run", "write_lines", "CURVES"]

# Final HR@10/uni99, how many rounds it takes to get there, and what it falls back to.
CURVES = {
    "cgfedrec": (0.31, 4.0, 0.24),
    "alignfedrec": (0.28, 6.0, 0.28),
    "pfedrec": (0.63, 8.0, 0.62),
    "fedmf": (0.55, 12.0, 0.55),
    "local": (0.108, 2.0, 0.108),
    "popularity": (0.408, 0.1, 0.408),
}


def write_run(
    folder: Path,
    method: str = "cgfedrec",
    *,
    label: str | None = None,
    rounds: int = 40,
    every: int = 1,
    items: int = 300,
    clients: int = 943,
    clusters: int = 60,
    dim: int = 32,
    protocol: str = "leak-free",
    split: str = "loo",
    seed: int = 0,
    dataset: str = "ml-100k",
    finished: bool = True,
    embeddings: bool = True,
    truth: bool = False,
    titles: list[str] | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """Writes config.json, metrics.jsonl, summary.json and embeddings.npz; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, len(method), items])
    (folder / "config.json").write_text(
        json.dumps(
            {
                "method": method,
                "label": label or method,
                "method_options": {"dim": dim, "lr": 0.1, "clusters": clusters},
                "data": {
                    "name": dataset,
                    "users": clients,
                    "items": items,
                    "interactions": clients * 106,
                    "clients": clients,
                    "notes": ["2 users with fewer than 3 interactions were dropped"],
                },
                "run": {
                    "protocol": protocol,
                    "split": split,
                    "rounds": rounds,
                    "seed": seed,
                    "evaluate_at": "download",
                    "cohort": 1.0,
                },
                "versions": {"fedjax-rec": "0.1.0", "jax": "0.10.2"},
                "device": {"platform": "cpu", "kind": "cpu", "count": 2},
                "git_commit": None,
                "command": f"fedjax-rec run {method} --data {dataset} --rounds {rounds}",
            }
            | (config or {})
        )
    )
    rows = _rows(method, rounds, every, items, clients, clusters, dim, protocol, split, truth, rng)
    write_lines(folder / "metrics.jsonl", rows)
    if finished:
        (folder / "summary.json").write_text(
            json.dumps(_summary(method, rows, protocol, split, clients, rounds))
        )
    if embeddings and method != "popularity":
        _write_embeddings(folder, method, items, dim, clusters, truth, titles, rng)
    return folder


def write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rows(
    method: str,
    rounds: int,
    every: int,
    items: int,
    clients: int,
    clusters: int,
    dim: int,
    protocol: str,
    split: str,
    truth: bool,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    top, speed, end = CURVES[method]
    if protocol == "published":
        top = end = 0.95 if method != "popularity" else top
    silent = method in ("local", "popularity")
    up = 0 if silent else items * dim * 4
    down = 0 if silent else up
    if method == "cgfedrec":
        down = items * int(np.ceil(np.log2(clusters))) / 8
    seconds = {"local": 0.4, "pfedrec": 0.5, "fedmf": 0.6, "popularity": 0.01}.get(method, 9.0)
    rows = []
    evaluated = [1] if method == "popularity" else range(every, rounds + 1, every)
    for number in evaluated:
        rise = 0.1 + (top - 0.1) * (1 - np.exp(-number / speed))
        hit = rise + (end - top) * (1 - np.exp(-max(0, number - 3 * speed) / (4 * speed)))
        compile_seconds = 6.0 if number == evaluated[0] else 0.0
        share = rng.dirichlet(np.full(clusters, 0.4 + 4 / number))
        for part in ("val", "test"):
            noisy = float(np.clip(hit + rng.normal(0, 0.006), 0, 1))
            row: dict[str, Any] = {"round": number, "split": part}
            if split == "loo":
                row |= {"hr@10/uni99": noisy, "ndcg@10/uni99": noisy * 0.57}
            row |= {
                "hr@10/full": noisy * 0.21,
                "ndcg@10/full": noisy * 0.11,
                "recall@10/full": noisy * 0.2,
                "mrr@10/full": noisy * 0.09,
                "train_loss": float(0.3 + 0.4 * np.exp(-number / 6)),
                "clients": clients,
                "uplink_bytes": up,
                "downlink_bytes": 0 if number == 1 and method == "cgfedrec" else down,
                "uplink_bytes_total": up * clients * number,
                "downlink_bytes_total": down * clients * (number - (method == "cgfedrec")),
                "seconds": seconds * every + compile_seconds + 0.2,
                "compile_seconds": compile_seconds,
                "device_seconds": seconds * every * 0.9,
                "host_seconds": seconds * every * 0.1,
                "eval_seconds": 0.15,
            }
            if method == "alignfedrec":
                # The first round's graph has no edge yet.
                row["modularity"] = None if number == 1 else 0.4 - 0.3 / number
                row["similar_pairs"] = 40 * number - 40
            if method in ("cgfedrec", "alignfedrec"):
                sizes = np.sort(rng.multinomial(items - clusters, share) + 1)[::-1]
                row["communities"] = len(sizes)
                if truth:
                    row["nmi"] = 1 - float(np.exp(-number / 9))
                row["cluster_sizes"] = [int(size) for size in sizes]
            rows.append(row)
    return rows


def _summary(
    method: str,
    rows: list[dict[str, Any]],
    protocol: str,
    split: str,
    clients: int,
    rounds: int,
) -> dict[str, Any]:
    selection = "hr@10/uni99" if split == "loo" else "recall@10/full"
    validation = [row for row in rows if row["split"] == "val"]
    test = [row for row in rows if row["split"] == "test"]
    best = max(range(len(validation)), key=lambda index: validation[index][selection])

    def metrics(row: dict[str, Any]) -> dict[str, float]:
        return {key: value for key, value in row.items() if "@" in key}

    def total(key: str) -> float:
        return sum(row[key] for row in test)

    return {
        "method": method,
        "label": method,
        "protocol": protocol,
        "split": split,
        "evaluate_at": "download",
        "rounds": rounds,
        "best_round": validation[best]["round"],
        "selection": selection,
        "validation": metrics(validation[best]),
        "test": metrics(test[best]),
        "final_test": metrics(test[-1]),
        "uplink_bytes_total": test[-1]["uplink_bytes_total"],
        "downlink_bytes_total": test[-1]["downlink_bytes_total"],
        "uplink_bytes_to_best": test[best]["uplink_bytes_total"],
        "downlink_bytes_to_best": test[best]["downlink_bytes_total"],
        "clients_per_second": clients * rounds / total("device_seconds"),
        "wall_seconds": total("seconds"),
        "compile_seconds": total("compile_seconds"),
        "device_seconds": total("device_seconds"),
        "host_seconds": total("host_seconds"),
        "eval_seconds": total("eval_seconds"),
        "peak_rss_bytes": 812_000_000,
        "warnings": [],
    }


def _write_embeddings(
    folder: Path,
    method: str,
    items: int,
    dim: int,
    clusters: int,
    truth: bool,
    titles: list[str] | None,
    rng: np.random.Generator,
) -> None:
    planted = rng.integers(0, max(1, clusters // 3), items)
    centres = rng.normal(0, 1.0, (planted.max() + 1, dim))
    vectors = (centres[planted] + rng.normal(0, 1.6, (items, dim))).astype(np.float32)
    arrays: dict[str, np.ndarray] = {
        "item_embeddings": vectors,
        "item_id": np.array([f"i{index}" for index in range(items)]),
    }
    if method == "cgfedrec":
        anchors = vectors[rng.choice(items, min(clusters, items), replace=False)]
        distance = ((vectors[:, None] - anchors[None]) ** 2).sum(axis=2)
        arrays["labels"] = distance.argmin(axis=1).astype(np.int32)
    if truth:
        arrays["truth"] = planted.astype(np.int32)
    if titles is not None:
        arrays["title"] = np.array([titles[index % len(titles)] for index in range(items)])
    np.savez(folder / "embeddings.npz", **arrays)
