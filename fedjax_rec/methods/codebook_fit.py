"""What a client of RQFedRec does last in a round: it fits the codebooks to the items it trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_rec.data.options import check_choice
from fedjax_rec.errors import InputError
from fedjax_rec.losses import mix, normal_product, reconstruct, sum_by_code
from fedjax_rec.losses.kernel_choice import chosen_kernel
from fedjax_rec.native import fit_by_conjugate_gradients

__all__ = ["Channel", "CodebookFit", "Channels", "fit_codebooks", "rebuild"]

_LEAST_GAIN = 1e-10  # share of the first squared error: items within 1e-5 of the best fit
_LEAST_SQUARED = 1e-11  # share of the first squared gradient: 3e-6 of its length


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
      fit: "separate": each channel is fitted to the items by itself, so that items hardly move as
        λ goes from one to the other. "joint": one squared error, of the mixed channels, which fits
        better in a round, but leaves channels that differ: items jump with every change of λ.
      fit_solver: "cg": conjugate gradients, which need no rate. "adam".
      fit_steps: steps of the solver. The error is a quadratic, so few steps of "cg" go far.
      fit_lr: learning rate of "adam".
      fit_items: how much an item counts in the error: "each" item that the client touched alike;
        "samples": as often as it was among the round's samples.
    """

    fit: Literal["separate", "joint"] = "separate"
    fit_solver: Literal["cg", "adam"] = "cg"
    fit_steps: int = 15
    fit_lr: float = 0.01
    fit_items: Literal["each", "samples"] = "samples"

    def __post_init__(self) -> None:
        check_choice("fit", self.fit, ("separate", "joint"))
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
    """Fits Σ_c shares_c · reconstruct(B_c, codes_c) to the target; all codebooks at once.

    Channels are stacked: levels of one codebook, each with its channel's share.
    """
    books = jnp.concatenate([channel.codebook for channel in channels])
    codes = jnp.concatenate([channel.codes for channel in channels], axis=1)
    levels = len(channels[0].codebook)
    shares = jnp.repeat(jnp.stack(shares), levels)
    if options.fit_solver == "adam":
        found = _adam(books, shares[:, None, None], codes, target, importance, options)
    elif chosen_kernel().kernel == "native":
        found = fit_by_conjugate_gradients(
            books,
            shares,
            codes,
            target,
            importance,
            steps=options.fit_steps,
            least_gain=_LEAST_GAIN,
            least_squared=_LEAST_SQUARED,
        )
    else:
        shares = shares[:, None, None]
        found = _conjugate_gradients(books, shares, codes, target, importance, options.fit_steps)
    return jnp.split(found, len(channels))


def _adam(books, shares, codes, target, importance, options):
    rule = optax.adam(options.fit_lr)
    scale = 2 / jnp.maximum(jnp.sum(importance) * target.shape[1], 1)

    def step(_, carry):
        books, state = carry
        error = importance[:, None] * (reconstruct(shares * books, codes) - target)
        gradient = scale * shares * sum_by_code(error, codes, codewords=books.shape[1])
        updates, state = rule.update(gradient, state)
        return optax.apply_updates(books, updates), state

    return jax.lax.fori_loop(0, options.fit_steps, step, (books, rule.init(books)))[0]


class _Progress(NamedTuple):
    """Conjugate gradients under way. Codebooks are in units of the items: times their shares."""

    change: jax.Array  # of the codebooks so far
    gradient: jax.Array  # what is left to fit, added up by code
    direction: jax.Array  # of the last step; 0 before the first
    squared: jax.Array  # [] gradient · preconditioned gradient
    before: jax.Array  # [] the same, a step ago


def _conjugate_gradients(books, shares, codes, target, importance, steps):
    """Preconditioned conjugate gradients on the normal equations, for the change of the codebooks.

    The preconditioner is how much of the samples a codeword makes up. Dividing by it treats rare
    and common codewords alike, and saves half of the steps. It leaves out the channels' shares on
    purpose: a channel then moves in proportion to its share. Scaled by them too, both would move
    the items alike, the one of small share by huge codewords, and items would jump as λ goes on.

    The system is singular, since adding a vector to one level and taking it from another changes
    nothing. From a change of zero, the method goes to the smallest of all changes that fit best
    (each codeword's change counted by its scale), and a codeword without items does not move.

    A step passes over arrays of the codebooks' size only: what it does to the gradient is known
    from its direction, so the items that are still to be fitted are needed once, at the start.
    """
    codewords = books.shape[1]
    rows = importance[:, None]
    samples = sum_by_code(rows, codes, codewords=codewords)
    scale = shares**2 / jnp.where(samples > 0, samples, 1)
    error = target - reconstruct(shares * books, codes)
    gradient = sum_by_code(rows * error, codes, codewords=codewords)
    first = jnp.sum(scale * gradient**2)
    # A step lowers the squared error by squared · length. Where that, or the gradient, is lost in
    # float32's rounding, the fit is reached: directions are rounding errors, with parts that change
    # no item, and steps along them soon explode.
    least_gain = _LEAST_GAIN * jnp.sum(rows * error**2)
    least_squared = _LEAST_SQUARED * first

    def step(_, carry: _Progress) -> _Progress:
        ratio = carry.squared / jnp.where(carry.before > 0, carry.before, 1)
        direction = scale * carry.gradient + ratio * carry.direction
        along = normal_product(direction, codes, importance)
        curvature = jnp.vdot(direction, along)
        length = carry.squared / jnp.where(curvature > 0, curvature, 1)
        reached = (carry.squared <= least_squared) | (carry.squared * length <= least_gain)
        length = jnp.where(reached, 0, length)
        gradient = carry.gradient - length * along
        following = jnp.where(length > 0, jnp.sum(scale * gradient**2), 0)  # 0: stopped for good
        change = carry.change + length * direction
        return _Progress(change, gradient, direction, following, carry.squared)

    nothing = jnp.zeros_like(books)
    start = _Progress(nothing, gradient, nothing, first, jnp.float32(0))
    return books + jax.lax.fori_loop(0, steps, step, start).change / shares
