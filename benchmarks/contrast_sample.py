"""CGFedRec with sampled contrastive denominators, ``contrast_sample``, against all pairs.

--part error: the loss and its gradient on the item embeddings of trained clients, against exact.
--part step: seconds and memory of one gradient at 25,612 items.
--part plan: a client's round at 25,612 items, and what 94,762 clients would come to. These are the
counts of the largest dataset of the CGFedRec release, those of Amazon Reviews 2023, Video Games,
5-core, with 814,586 interactions; the data here are synthetic.
--part quality: leak-free accuracy on ML-100K (the longest; runs/ keeps what is finished).

Each part writes a file of its own, ``contrast_sample_PART.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from harness import Options, Table, dataset, main, median, metrics_at, round_seconds

import fedjax_rec
from fedjax_rec.data import Dataset
from fedjax_rec.losses import draw_sample, supervised_contrastive
from fedjax_rec.losses.structural import normalize

__all__ = ["ContrastSampleOptions", "Estimate", "derivative_of_the_value", "estimate", "run"]

ITEMS, CLIENTS, INTERACTIONS = 25_612, 94_762, 814_586
TAU, TAU0 = 0.1, 0.5  # CGFedRec's temperature and base temperature
_EXACT = 0  # as a sample: all items
_MOST_PAIRS = 1 << 26  # plain autodiff holds several [m, N] arrays: 256 MB each, no more


@dataclass(frozen=True)
class ContrastSampleOptions(Options):
    """Options of this benchmark.

    Attributes:
      part: what to measure, see above.
      samples: N; by default a ladder that fits the part. 0 is the exact loss.
      draws: error: samples drawn for each client's embeddings.
      clients: error: clients whose embeddings are used. plan: clients that train.
      train_clients: error: clients that take part in making the embeddings.
      train_rounds: error: exact rounds of CGFedRec before the embeddings are taken.
      init_stds: error, quality: of the item embeddings that clients start from.
      dims: step: d.
      turns: step, plan: timed repeats, after those that compile.
      rounds: quality: rounds.
      runs: quality: folder of the runs' own artifacts; with --toy, none.
    """

    part: Literal["error", "step", "plan", "quality"] = "error"
    samples: tuple[int, ...] = ()
    draws: int = 8
    clients: int = 4
    train_clients: int = 16
    train_rounds: int = 5
    init_stds: tuple[float, ...] = (1.0, 0.01)
    dims: tuple[int, ...] = (32, 64)
    turns: int = 3
    rounds: int = 12
    runs: Path = Path("runs/contrast_sample")


def run(options: ContrastSampleOptions) -> Table:
    """Measures one part."""
    parts: dict[str, Callable[[ContrastSampleOptions], Table]] = {
        "error": _error,
        "step": _step,
        "plan": _plan,
        "quality": _quality,
    }
    return parts[options.part](options)


# Error -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """How an estimated loss and its gradient stand to the exact ones.

    Attributes:
      bias: mean of the estimated loss less the exact one.
      error: mean over draws of ‖g − G‖/‖G‖, with the exact gradient G.
      cosine: mean over draws of the cosine between g and G.
      mean_error: ‖mean of g − G‖/‖G‖: what is left of the error after that many draws.
    """

    bias: float
    error: float
    cosine: float
    mean_error: float


def estimate(loss: Any, items: jax.Array, exact: Any, samples: jax.Array) -> Estimate:
    """Compares a sampled loss with the exact one.

    Args:
      loss: ([m, d] items, [N] sample) -> (scalar, [m, d] gradient), compiled.
      items: [m, d].
      exact: the exact (scalar, gradient).
      samples: [draws, N] int32.
    """
    value, whole = exact
    whole = np.asarray(whole, np.float64)
    norm = np.linalg.norm(whole)
    values, errors, cosines = [], [], []
    total = np.zeros_like(whole)
    for sample in samples:
        sampled_value, gradient = loss(items, sample)
        gradient = np.asarray(gradient, np.float64)
        values.append(float(sampled_value))
        errors.append(np.linalg.norm(gradient - whole) / norm)
        cosines.append((gradient * whole).sum() / (np.linalg.norm(gradient) * norm))
        total += gradient
    return Estimate(
        bias=float(np.mean(values) - float(value)),
        error=float(np.mean(errors)),
        cosine=float(np.mean(cosines)),
        mean_error=float(np.linalg.norm(total / len(samples) - whole) / norm),
    )


def derivative_of_the_value(items: jax.Array, labels: jax.Array, sample: jax.Array) -> jax.Array:
    """The sampled loss as plain JAX, whose derivative by autodiff is the other estimator.

    Equal to ``supervised_contrastive(…, sample=sample)`` in value, not in gradient.
    """
    m, count = len(items), len(sample)
    unit, _ = normalize(items)
    sums = jax.ops.segment_sum(unit, labels, num_segments=m)
    sizes = jax.ops.segment_sum(jnp.ones(m), labels, num_segments=m)[labels]
    attraction = jnp.sum(unit * (sums[labels] - unit), axis=1) / jnp.maximum(sizes - 1, 1)
    itself = jnp.arange(m)[:, None] == sample[None, :]
    push = jnp.where(itself, 0.0, jnp.exp((unit @ unit[sample].T - 1) / TAU))
    scale = (m - 1) / (count - jnp.sum(itself, axis=1))
    repulsion = jnp.log(scale * jnp.sum(push, axis=1)) + 1 / TAU
    return TAU / TAU0 * jnp.sum(jnp.where(sizes > 1, repulsion - attraction / TAU, 0.0)) / m


def _error(options: ContrastSampleOptions) -> Table:
    table = Table("contrast_sample_error", "Sampled contrastive loss against exact", options)
    for name, std, items, labels in _trained(options):
        m = items.shape[1]
        exact = jax.jit(jax.value_and_grad(_contrastive), static_argnums=2)
        ours = jax.jit(jax.value_and_grad(_contrastive))
        other = jax.jit(jax.value_and_grad(derivative_of_the_value))
        ladder = options.samples or ((16, 32) if options.toy else (64, 128, 256, 512, 1024, 4096))
        ladder = tuple(dict.fromkeys([*(min(count or m, m) for count in ladder), m]))
        truths = [exact(client, labels, None) for client in items]
        for count in ladder:
            sides: dict[str, list[Estimate]] = {"ours": [], "derivative": []}
            if count * m > _MOST_PAIRS:
                continue
            for index, (client, truth) in enumerate(zip(items, truths, strict=True)):
                samples = _samples(options.seed, index, m, count, options.draws)
                for side, loss in (("ours", ours), ("derivative", other)):
                    with_labels = partial(_given_labels, loss, labels)
                    sides[side].append(estimate(with_labels, client, truth, samples))
            means = {
                side: {key: float(np.mean([vars(e)[key] for e in found])) for key in vars(found[0])}
                for side, found in sides.items()
            }
            table.add(
                **{
                    "embeddings": name,
                    "init std": std,
                    "items": m,
                    "N": count,
                    "exact loss": float(np.mean([value for value, _ in truths])),
                    "loss bias": means["ours"]["bias"],
                    "gradient error": means["ours"]["error"],
                    "cosine": means["ours"]["cosine"],
                    f"error of {options.draws} draws' mean": means["ours"]["mean_error"],
                    "derivative's error": means["derivative"]["error"],
                    "derivative's cosine": means["derivative"]["cosine"],
                }
            )
    table.note(
        "Of the whole loss, attraction included, with respect to E; relative norms, means over "
        f"{options.clients} clients and {options.draws} draws each. Embeddings after "
        f"{options.train_rounds} exact rounds of CGFedRec under leak-free, and the labels that the "
        "server made of them; 'none' is N(0, 1) with random labels."
    )
    table.note(
        "'derivative': the derivative of the sampled value by autodiff, from the same samples; "
        "'ours' is the symmetric estimator of fedjax_rec.losses.sampled."
    )
    return table


def _contrastive(items, labels, sample):
    return supervised_contrastive(
        items, labels, temperature=TAU, base_temperature=TAU0, sample=sample
    )


def _given_labels(loss, labels, items, sample):
    return loss(items, labels, sample)


def _samples(seed, client, num_items, count, draws):
    key = jax.random.fold_in(jax.random.key(seed), client)
    if count >= num_items:
        return jnp.arange(num_items, dtype=jnp.int32)[None]  # every draw is this one
    drawn = [draw_sample(k, num_items, count) for k in jax.random.split(key, draws)]
    return jnp.stack([x for x in drawn if x is not None])


def _trained(options: ContrastSampleOptions) -> Iterator[tuple[str, float, jax.Array, jax.Array]]:
    """Name, initial spread, [clients, m, d] items and [m] labels, of each set of embeddings."""
    sets: list[tuple[str, str, float]] = [("ml-100k", "loo", s) for s in options.init_stds]
    # A catalogue ten times as large; its data have no times, hence the ratio split.
    sets += [("lastfm-2k", "ratio", options.init_stds[-1])] if not options.toy else []
    clusters = 12 if options.toy else 60
    num_items = 0
    for name, split, std in sets:
        result = fedjax_rec.simulate(
            fedjax_rec.methods.cgfedrec(clusters=clusters, init_std=std),
            dataset(name, options),
            rounds=options.train_rounds,
            split=split,
            client_limit=max(options.train_clients, options.clients),
            seed=options.seed,
            eval_every=options.train_rounds,
            devices=options.devices,
            progress=False,
        )
        items = jnp.asarray(result.client_states.items[: options.clients])
        num_items = num_items or items.shape[1]
        labels = jnp.asarray(result.server_state.labels.labels)
        yield ("synthetic" if options.toy else name), std, items, labels
    rng = np.random.default_rng(options.seed)
    fresh = jnp.asarray(rng.normal(size=(options.clients, num_items, 32)), jnp.float32)
    yield "none", 1.0, fresh, jnp.asarray(rng.integers(0, clusters, num_items), jnp.int32)


# Step ------------------------------------------------------------------------------------------


def _step(options: ContrastSampleOptions) -> Table:
    items = 600 if options.toy else ITEMS
    table = Table("contrast_sample_step", f"One contrastive gradient, m = {items:,}", options)
    ladder = options.samples or ((64, _EXACT) if options.toy else (512, 1024, 2048, _EXACT))
    rng = np.random.default_rng(options.seed)
    for dim in options.dims:
        embeddings = jnp.asarray(rng.normal(size=(items, dim)), jnp.float32)
        labels = jnp.asarray(rng.integers(0, 60, items), jnp.int32)
        rows: list[dict[str, Any]] = []
        for count in ladder:
            program = jax.jit(partial(_drawn_gradient, count=count or None))
            program = program.lower(embeddings, labels, jax.random.key(0)).compile()
            account = program.memory_analysis()
            seconds = []
            for turn in range(1 + options.turns):
                key = jax.random.key(turn)
                start = time.perf_counter()
                jax.block_until_ready(program(embeddings, labels, key))
                seconds.append(time.perf_counter() - start)
            rows.append(
                {
                    "d": dim,
                    "N": count or items,
                    "loss": "sampled" if count else "exact",
                    "ms": 1e3 * median(seconds[1:]),
                    "temporary MB": None if account is None else account.temp_size_in_bytes / 1e6,
                }
            )
        exact = next((row["ms"] for row in rows if row["loss"] == "exact"), None)
        for row in rows:
            table.add(**row, **{"times as fast": None if exact is None else exact / row["ms"]})
    table.note(
        "One client on one device: the draw, and the gradient with respect to [m, d] embeddings. "
        f"Medians of {options.turns}. Temporary memory: the compiler's own account."
    )
    return table


def _drawn_gradient(embeddings, labels, key, *, count):
    sample = draw_sample(key, len(embeddings), count)
    return jax.grad(_contrastive)(embeddings, labels, sample)


# Plan ------------------------------------------------------------------------------------------


def _plan(options: ContrastSampleOptions) -> Table:
    items, clients = (300, 4) if options.toy else (ITEMS, max(options.clients, 2))
    title = f"CGFedRec at {items:,} items: {clients} clients measured, {CLIENTS:,} extrapolated"
    table = Table("contrast_sample_plan", title, options)
    each = 6.0 if options.toy else INTERACTIONS / CLIENTS
    data = fedjax_rec.load_dataset(
        "synthetic", users=clients, items=items, interactions_per_user=each, seed=options.seed
    )
    ladder = options.samples or ((64, _EXACT) if options.toy else (512, 1024, 2048, _EXACT))
    for count in ladder:
        method = fedjax_rec.methods.cgfedrec(contrast_sample=count or None)
        result = fedjax_rec.simulate(
            method,
            data,
            rounds=2 + options.turns,
            seed=options.seed,
            eval_every=2 + options.turns,
            devices=options.devices,
            progress=False,
        )
        # The first round has no labels; the second meets the contrastive program.
        device = median(result.timings["device_seconds"].iloc[2:])
        host = median(result.timings["host_seconds"].iloc[2:])
        table.add(
            **{
                "N": count or items,
                "loss": "sampled" if count else "exact",
                "clients measured": clients,
                "s a client": device / clients,
                "clustering s a round": host,
                f"h a round of {CLIENTS:,} (extrapolated)": (
                    (device / clients * CLIENTS + host) / 3600
                ),
            }
        )
    dim = fedjax_rec.methods.cgfedrec().config.dim
    state = items * dim * 4 * CLIENTS / 1e9
    table.note(
        f"Extrapolated, not measured: seconds a client times {CLIENTS:,}, plus one clustering. "
        f"Synthetic interactions, {data.num_interactions / clients:.1f} a client (that dataset has "
        f"{INTERACTIONS / CLIENTS:.1f}), 2 local epochs, d = {dim}, on all devices of this machine."
    )
    table.note(
        f"CGFedRec's clients keep their own embeddings: {state:,.0f} GB of states for {CLIENTS:,} "
        f"clients in float32, {state / 4:,.0f} GB with --state-dtype int8 (one scale a row aside); "
        "--state disk. Reading and writing them is not in these figures."
    )
    return table


# Quality ---------------------------------------------------------------------------------------


def _quality(options: ContrastSampleOptions) -> Table:
    title = "CGFedRec with sampled denominators, ML-100K, leak-free, uni99, test (percent)"
    table = Table("contrast_sample_quality", title, options)
    data = dataset("ml-100k", options)
    ladder = options.samples or ((16, _EXACT) if options.toy else (128, 512, _EXACT))
    for std in options.init_stds:
        for count in ladder:
            table.add(**_accuracy(data, options, std, count))
    table.note(
        f"Reference hyper-parameters, SGD, 2 local epochs, {options.rounds} rounds; best round by "
        "validation HR@10, and the last. Seconds: median of a round without compilation and "
        "evaluation, its draws included. Chance is 10.0 / 4.5."
    )
    return table


def _accuracy(
    data: Dataset, options: ContrastSampleOptions, std: float, count: int
) -> dict[str, Any]:
    name = f"cgfedrec-sample{count}-std{std:g}-seed{options.seed}"
    result = fedjax_rec.simulate(
        fedjax_rec.methods.cgfedrec(
            clusters=12 if options.toy else 60, init_std=std, contrast_sample=count or None
        ),
        data,
        rounds=options.rounds,
        seed=options.seed,
        protocol="leak-free",
        eval_every=1,
        devices=options.devices,
        progress=False,
        out=None if options.toy else options.runs / name,
        resume=not options.toy,
        label=name,
    )
    best = int(result.summary["best_round"])
    row: dict[str, Any] = {
        "init std": std,
        "N": count or result.problem.num_items,
        "loss": "sampled" if count else "exact",
        "best round": best,
    }
    for prefix, found in {"": best, "last ": None}.items():
        scores = metrics_at(result.history, found)
        row[f"{prefix}HR@10"] = 100 * scores["hr@10/uni99"]
        row[f"{prefix}NDCG@10"] = 100 * scores["ndcg@10/uni99"]
    row["s/round"] = median(round_seconds(result.timings, skip=2))
    return row


if __name__ == "__main__":
    main(ContrastSampleOptions, run, __doc__ or "")
