"""FedRAP's local training: a personal and a common table of items under one private head."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedjax_rec.batches import Batch, ClientData, Samples, for_each_batch
from fedjax_rec.losses import binary_cross_entropy, nuclear_norm
from fedjax_rec.methods.fusion_teacher import Teacher
from fedjax_rec.methods.traced import traced
from fedjax_rec.models import LinearHead, score

__all__ = ["Penalty", "Ramp", "Terms", "Trained", "penalty", "ramp", "train_tables"]

Ramp = Literal["tanh", "sin", "frac", "square", "fixed"]
Penalty = Literal["l1", "l2", "nuclear"]

_PERIOD = 5  # rounds that a "square" ramp is on, then off


class Terms(NamedTuple):
    """Weights of a round's objective, and its rates.

    Attributes:
      apart: [] λ(t), of −MSE(D, C).
      sparse: [] μ(t), of the penalty on C.
      head_rate, personal_rate, common_rate: [] learning rates at the round's first step, of the
        head, of D and of C.
    """

    apart: jax.Array
    sparse: jax.Array
    head_rate: jax.Array
    personal_rate: jax.Array
    common_rate: jax.Array


class Trained(NamedTuple):
    """What local training leaves.

    Attributes:
      head: LinearHead parameters.
      rows: [T, 2d] the rows that the samples name, D left and C right.
      kept: [2] float32, the factors that weight decay has left of every other row of D and of C.
      loss: [] float32, mean BCE of the batches, each taken before its step.
      epochs: [] int32, epochs until it stopped.
    """

    head: Any
    rows: jax.Array
    kept: jax.Array
    loss: jax.Array
    epochs: jax.Array


def ramp(kind: Ramp, passed: jax.Array) -> jax.Array:
    """How much of λ and μ counts in a round.

    Args:
      kind: "tanh": tanh(t/10). "sin": (sin(t/10) + 1)/2. "frac": 1/(t + 1), which falls.
        "square": 1 and 0 in turns of 5 rounds. "fixed": 1.
      passed: [] int, t, rounds before this one.

    Returns:
      [] float32, from 0 to 1.
    """
    t = jnp.asarray(passed, jnp.float32)
    if kind == "tanh":
        return jnp.tanh(t / 10)
    if kind == "sin":
        return (jnp.sin(t / 10) + 1) / 2
    if kind == "frac":
        return 1 / (t + 1)
    if kind == "square":
        return 1.0 - jnp.floor(t / _PERIOD) % 2
    return jnp.ones_like(t)


def penalty(kind: Penalty, rows: jax.Array, mask: jax.Array) -> jax.Array:
    """What a batch's rows of C are penalized by.

    Args:
      kind: "l1": mean of |x|, "l2": mean of x², both over the rows' entries. "nuclear": the sum
        of the batch's singular values, not a mean.
      rows: [B, d] float.
      mask: [B] bool, which of them count.
    """
    if kind == "nuclear":
        return nuclear_norm(jnp.where(mask[:, None], rows, 0))
    return _mean(jnp.abs(rows) if kind == "l1" else rows**2, mask)


class _Carry(NamedTuple):
    head: Any
    rows: jax.Array
    kept: jax.Array
    fading: jax.Array  # [] what the steps so far have left of the rates
    objective: jax.Array  # [] sum over all samples so far
    samples: jax.Array
    loss: jax.Array
    batches: jax.Array


class _Epochs(NamedTuple):
    carry: _Carry
    done: jax.Array
    mean: jax.Array  # [] objective a sample, over all epochs so far
    stopped: jax.Array


def train_tables(
    key: jax.Array,
    head: Any,
    rows: jax.Array,
    samples: Samples,
    data: ClientData,
    terms: Terms,
    options: Any,
    *,
    num_items: int,
    model: nn.Module | None = None,
    teacher: Teacher | None = None,
) -> Trained:
    """Trains one client by SGD on

        BCE(σ(w·(D_i + C_i) + b)) − λ(t)·MSE(D, C) + μ(t)·penalty(C)

    over each batch's rows, until its last epoch or until an epoch changes little: when the mean
    objective over all epochs so far, relative to that of one epoch earlier, moves by less than
    ``options.tolerance``.

    Weight decay pulls at all m rows in every step. On rows that no sample names it is one factor
    for all of them, so they need not be there.

    Args:
      key: the client's key for this round.
      head: LinearHead parameters.
      rows: [T, 2d] float32, D left and C right, of the items that the samples name.
      samples: the round's, with rows of ``rows`` for items.
      data: the client's positives.
      terms: weights and rates of the round.
      options: ``FedRAPConfig``.
      num_items: m.
      model: another score function, with ``head`` for its parameters; None: the linear head.
      teacher: what draws predictions beside the labels, by row of ``rows``; None: nothing. A client
        does not stop early for it.
    """
    model = LinearHead(data.num_users) if model is None else model
    now = traced(options)
    rates = jnp.stack([terms.personal_rate, terms.common_rate])
    dim = rows.shape[1] // 2
    # Most clients have fewer samples than a batch of thousands: no padding beyond their bucket's.
    batch_size = min(options.batch_size, len(samples.items))

    def objective(head: Any, rows: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        personal, common = jnp.split(rows, 2, axis=1)
        logits = score(model, head, batch.users, personal + common)
        entropy = binary_cross_entropy(logits, batch.labels, batch.mask)
        apart = _mean((personal - common) ** 2, batch.mask)
        sparse = penalty(options.penalty, common, batch.mask)
        value = entropy - terms.apart * apart + terms.sparse * sparse
        if teacher is not None:
            value += teacher.pull(logits, batch)
        return value, entropy

    def step(carry: _Carry, batch: Batch) -> _Carry:
        count = jnp.sum(batch.mask)
        active = count > 0
        (value, entropy), (by_head, by_rows) = jax.value_and_grad(
            objective, argnums=(0, 1), has_aux=True
        )(carry.head, carry.rows[batch.items], batch)
        # A batch of padding has rates of 0: nothing moves, nothing decays.
        fading = jnp.where(active, carry.fading, 0)
        head_rate, row_rate = fading * terms.head_rate, jnp.repeat(fading * rates, dim)
        kept = 1 - fading * rates * now.weight_decay
        return _Carry(
            head=jax.tree.map(
                lambda x, g: x - head_rate * (g + now.weight_decay * x), carry.head, by_head
            ),
            rows=(jnp.repeat(kept, dim) * carry.rows).at[batch.items].add(-row_rate * by_rows),
            kept=kept * carry.kept,
            fading=jnp.where(active, now.step_decay, 1) * carry.fading,
            objective=carry.objective + count * value,
            samples=carry.samples + count,
            loss=carry.loss + entropy,
            batches=carry.batches + active,
        )

    def epoch(at: _Epochs) -> _Epochs:
        carry = for_each_batch(
            jax.random.fold_in(key, 1 + at.done),
            data,
            step,
            at.carry,
            num_items=num_items,
            negatives=options.negatives,
            batch_size=batch_size,
            epochs=1,
            samples=samples,
        )
        mean = carry.objective / jnp.maximum(carry.samples, 1)
        little = jnp.abs(mean - at.mean) < now.tolerance * jnp.abs(at.mean)
        return _Epochs(carry, at.done + 1, mean, (at.done > 0) & little)

    nothing = jnp.float32(0)
    start = _Carry(
        head=head,
        rows=rows,
        kept=jnp.ones(2),
        fading=jnp.float32(1),
        objective=nothing,
        samples=jnp.int32(0),
        loss=nothing,
        batches=jnp.int32(0),
    )
    end = jax.lax.while_loop(
        lambda at: (at.done < options.local_epochs) & ~at.stopped,
        epoch,
        _Epochs(start, jnp.int32(0), nothing, jnp.bool_(False)),
    )
    carry = end.carry
    loss = carry.loss / jnp.maximum(carry.batches, 1)
    return Trained(carry.head, carry.rows, carry.kept, loss, end.done)


def _mean(values, mask):
    """Mean over the entries of the rows that the mask keeps; 0 where it keeps none."""
    total = jnp.sum(jnp.where(mask[:, None], values, 0))
    return total / (jnp.maximum(jnp.sum(mask), 1) * values.shape[1])
