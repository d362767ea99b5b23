"""What a client of RQFedRec does last in a round: it fits the codebooks to the items it trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.losses import mix, reconstruct, sum_by_code

__all__ = ["Channel", "CodebookFit", "Channels", "fit_codebooks", "rebuild"]


class Channel(NamedTuple):
    """One way to make items of code embeddings.

    Attributes:
      codebook: [L, M, d] float32, M codewords in each of L levels.
      codes: [n, L] unsigned or signed integers, an item's codeword in each level.
    """

    codebook: jax.Array
    codes: jax.Array


class Channels(NamedTuple):
    """RQFedRec's two channels, and how they are mixed.

    Attributes:
      semantic: codes from the items' content.
      collaborative: codes from the items' embeddings.
      weight: [] float32, λ, the collaborative channel's share.
    """

    semantic: Channel
    collaborative: Channel
    weight: jax.Array


@dataclass(frozen=True)
class CodebookFit:
    """How codebooks are fitted to items. The paper leaves all of it open but the squared error.

    Attributes:
      fit: "joint": one squared error, of the mixed channels. "separate": each channel is fitted to
        the items by itself.
      fit_solver: "cg": conjugate gradients, which need no rate. "adam".
      fit_steps: steps of the solver. The error is a quadratic, so few steps of "cg" go far.
      fit_lr: learning rate of "adam".
      fit_items: how much an item counts in the error: "each" item that the client touched alike;
        "samples": as often as it was among the round's samples.
    """

    fit: Literal["joint", "separate"] = "joint"
    fit_solver: Literal["cg", "adam"] = "cg"
    fit_steps: int = 15
    fit_lr: float = 0.01
    fit_items: Literal["each", "samples"] = "samples"

    def __post_init__(self) -> None:
        check_choice("fit", self.fit, ("joint", "separate"))
        check_choice("fit_solver", self.fit_solver, ("cg", "adam"))
        check_choice("fit_items", self.fit_items, ("each", "samples"))
        if self.fit_steps < 1:
            raise InputError(f"fit_steps={self.fit_steps} must be at least 1")
        if not 0 < self.fit_lr < float("inf"):
            raise InputError(f"fit_lr={self.fit_lr} must be a positive number")


def rebuild(channels: Channels) -> jax.Array:
    """[n, d] items of both channels: (1 − λ)·Σ_ℓ B^{s,ℓ}[q^{s,ℓ}] + λ·Σ_ℓ B^{c,ℓ}[q^{c,ℓ}].

    Reference:
      RQFedRec, Eq. 9.
    """
    return mix(
        reconstruct(*channels.semantic), reconstruct(*channels.collaborative), channels.weight
    )


def fit_codebooks(
    channels: Channels, target: jax.Array, importance: jax.Array, options: CodebookFit
) -> tuple[jax.Array, jax.Array]:
    """Fits the channels' codebooks, from where they stand, to given items; codes stay.

    Minimizes the weighted mean of ‖v_i − v̂_i‖²/d over the items, where v̂ is what ``rebuild``
    makes of both channels ("joint"), or one channel's own reconstruction, for each of the two
    ("separate"). At λ = 0 the collaborative codebook, and at λ = 1 the semantic one, is returned
    as it is: nothing of it travels or counts.

    Args:
      channels: codebooks to start from, with the codes of the n items; λ must not depend on the
        client, so that a channel without weight is skipped instead of computed in vain.
      target: [n, d] float32, the items v.
      importance: [n] float32, how much each counts, 0 or more; 0 for padding.
      options: objective and solver.

    Returns:
      The semantic and the collaborative codebook, [L, M, d] each. Codewords that no counted item
      uses are as before.
    """
    semantic, collaborative, weight = channels
    one = jnp.float32(1)

    def alone(channel: Channel) -> jax.Array:
        return _solve([channel], [one], target, importance, options)[0]

    def both() -> tuple[jax.Array, jax.Array]:
        if options.fit == "separate":
            return alone(semantic), alone(collaborative)
        shares = [1 - weight, weight]
        books = _solve([semantic, collaborative], shares, target, importance, options)
        return books[0], books[1]

    return jax.lax.switch(
        (weight > 0).astype(jnp.int32) + (weight >= 1),
        [
            lambda: (alone(semantic), collaborative.codebook),
            both,
            lambda: (semantic.codebook, alone(collaborative)),
        ],
    )


def _solve(channels, shares, target, importance, options) -> list[jax.Array]:
    """Fits Σ_c shares_c · reconstruct(B_c, codes_c) to the target; all codebooks at once."""
    rows = importance[:, None]

    def items(books):
        return _sum(
            s * reconstruct(b, c.codes) for s, b, c in zip(shares, books, channels, strict=True)
        )

    def by_code(errors):
        return [
            s * sum_by_code(errors, c.codes, codewords=c.codebook.shape[1])
            for s, c in zip(shares, channels, strict=True)
        ]

    books = [channel.codebook for channel in channels]
    if options.fit_solver == "cg":
        return _conjugate_gradients(items, by_code, books, target, rows, options.fit_steps)

    rule = optax.adam(options.fit_lr)
    scale = 2 / jnp.maximum(jnp.sum(importance) * target.shape[1], 1)

    def step(_, carry):
        books, state = carry
        gradient = [g * scale for g in by_code(rows * (items(books) - target))]
        updates, state = rule.update(gradient, state)
        return optax.apply_updates(books, updates), state

    return jax.lax.fori_loop(0, options.fit_steps, step, (books, rule.init(books)))[0]


def _conjugate_gradients(items, by_code, books, target, rows, steps):
    """Conjugate gradients on the normal equations (CGLS), for the change of the codebooks.

    The system is singular, since adding a vector to one level and taking it from another changes
    nothing. From a change of zero, the method stays in the range of its transpose, so it goes to
    the smallest of all changes that fit best, and a codeword without items does not move.
    """

    def dot(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> jax.Array:
        return _sum(jnp.vdot(x, y) for x, y in zip(a, b, strict=True))

    def plus(a, factor, b):
        return [x + factor * y for x, y in zip(a, b, strict=True)]

    residual = target - items(books)
    gradient = by_code(rows * residual)

    def step(_, carry):
        books, residual, direction, squared = carry
        moved = items(direction)
        curvature = jnp.sum(rows * moved**2)
        # Nothing left to gain: 0/0 would be the step's length, and the direction is 0 anyway.
        length = squared / jnp.where(curvature > 0, curvature, 1)
        books = plus(books, length, direction)
        residual = residual - length * moved
        gradient = by_code(rows * residual)
        following = dot(gradient, gradient)
        direction = plus(gradient, following / jnp.where(squared > 0, squared, 1), direction)
        return books, residual, direction, following

    carry = (books, residual, gradient, dot(gradient, gradient))
    return jax.lax.fori_loop(0, steps, step, carry)[0]


def _sum(terms):
    total, *rest = terms
    for term in rest:
        total = total + term
    return total
