"""RQ-VAE: codes from an autoencoder whose latents are quantized level by level.

The one file of this folder that traces JAX: the server trains the autoencoder by itself, between
rounds, on vectors that lie on the host.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.errors import InputError
from fedjax_rec.server.clustering import require_finite
from fedjax_rec.server.codes import code_dtype, require_codewords
from fedjax_rec.server.quantize import residual_kmeans

__all__ = ["Parameters", "rq_vae_codes"]

_STEPS_AT_ONCE = 100


class Parameters(NamedTuple):
    """What an RQ-VAE trains.

    Attributes:
      encoder: of ``_MLP``, from d to e.
      decoder: of ``_MLP``, from e to d.
      codebooks: [L, M, e] float32, in the latent space.
    """

    encoder: Any
    decoder: Any
    codebooks: jax.Array


def rq_vae_codes(
    vectors: np.ndarray,
    *,
    levels: int,
    codewords: int,
    seed: int,
    hidden: int = 256,
    latent: int = 64,
    steps: int = 1_000,
    batch_size: int = 256,
    lr: float = 3e-3,
    commitment: float = 0.25,
) -> np.ndarray:
    """Trains an RQ-VAE on the vectors and returns their codes.

    With z = encoder(x), r¹ = z, and residual quantization of z (nearest codeword e_l of r^l,
    r^{l+1} = r^l − e_l), an item's loss is

        ‖x − decoder(ẑ)‖² + Σ_l ( ‖sg(r^l) − e_l‖² + β·‖r^l − sg(e_l)‖² ),    ẑ = Σ_l e_l,

    where sg stops gradients, and the decoder's gradient passes ẑ straight through to z. Encoder and
    decoder have one hidden layer each; x is centered and scaled to unit variance.

    Codebooks start as residual k-means of the latents before training. A codeword that no item
    uses would never learn again: before every 100 steps it moves to a random item's residual.

    Only the codes leave: a codebook for vectors of another space is ``residual_means`` of them.
    Distinct items may share all their codes.

    Args:
      vectors: [m, d] float, finite.
      levels: L, 1 or more.
      codewords: M, from 1 to m.
      seed: of parameters, codebooks and batches, 0 ≤ seed < 2³². On a CPU, the same seed gives the
        same codes; a GPU may add the codebooks' gradients in any order.
      hidden: width of the hidden layers.
      latent: e, width of what is quantized.
      steps: Adam steps.
      batch_size: items a step, drawn with replacement.
      lr: Adam's learning rate.
      commitment: β.

    Returns:
      [m, L], the smallest unsigned integer type that holds M − 1.

    Raises:
      InputError: a count below 1, more codewords than items, a rate that is not positive, a
        negative commitment, a vector that is not finite, or training that diverged.

    Warns:
      UnusedCodewordsWarning: fewer distinct vectors than codewords (as ``residual_kmeans``).

    Example:
      >>> vectors = np.random.default_rng(0).normal(size=(50, 8))
      >>> rq_vae_codes(vectors, levels=3, codewords=4, seed=0, steps=10).shape
      (50, 3)

    Reference:
      Lee et al., "Autoregressive image generation using residual quantization" (RQ-VAE), CVPR 2022;
      Rajput et al., "Recommender systems with generative retrieval" (TIGER), NeurIPS 2023, whose
      loss, β and start by k-means these are.

    Differs from the papers: Lee et al. share one codebook among levels and learn it by moving
      averages, TIGER's network is deeper and adds a last code that tells colliding items apart.
    """
    vectors = require_finite(vectors).astype(np.float64)
    require_codewords(levels, codewords, len(vectors))
    sizes = {"hidden": hidden, "latent": latent, "steps": steps, "batch_size": batch_size}
    for name, count in sizes.items():
        if count < 1:
            raise InputError(f"{name}={count} must be 1 or more")
    if not 0 < lr < float("inf"):
        raise InputError(f"lr={lr} must be a positive number")
    if not 0 <= commitment < float("inf"):
        raise InputError(f"commitment={commitment} must be 0 or a positive number")

    vectors = vectors - vectors.mean(axis=0)
    data = jnp.asarray(vectors / (vectors.std() or 1), jnp.float32)
    key, encoder_key, decoder_key = jax.random.split(jax.random.key(int(seed)), 3)
    encoder, decoder = _MLP(hidden, latent), _MLP(hidden, data.shape[1])
    weights = encoder.init(encoder_key, data[:1])
    latents = np.asarray(_run(encoder, weights, data))
    codebooks, _ = residual_kmeans(latents, levels=levels, codewords=codewords, seed=seed)
    parameters = Parameters(
        weights, decoder.init(decoder_key, jnp.zeros((1, latent))), jnp.asarray(codebooks)
    )

    optimizer_state = optax.adam(lr).init(parameters)
    for start in range(0, steps, _STEPS_AT_ONCE):
        key, here = jax.random.split(key)
        parameters = _revive(encoder, here, parameters, data)
        parameters, optimizer_state = _train(
            encoder,
            decoder,
            jax.random.fold_in(here, 1),
            parameters,
            optimizer_state,
            data,
            lr,
            commitment,
            min(_STEPS_AT_ONCE, steps - start),
            batch_size=batch_size,
        )
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(parameters)):
        raise InputError(f"the RQ-VAE's training diverged at lr={lr}: lower lr")
    _, _, codes = _quantize(parameters.codebooks, _run(encoder, parameters.encoder, data))
    return np.asarray(codes).T.astype(code_dtype(codewords))


class _MLP(nn.Module):
    """One hidden layer of rectified units."""

    hidden: int
    out: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.out)(nn.relu(nn.Dense(self.hidden)(x)))


def _run(network: _MLP, weights: Any, x: jax.Array) -> jax.Array:
    out: Any = network.apply(weights, x)
    return out


def _quantize(codebooks: jax.Array, latents: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The residuals that the levels meet and the codewords they choose, [L, n, e]; codes [L, n].

    Gradients reach each level's residual as if the codewords before it were constants.
    """

    def level(residual, codebook):
        half = jnp.sum(codebook**2, axis=1) / 2
        code = jnp.argmin(half - residual @ codebook.T, axis=1)
        word = codebook[code]
        return residual - jax.lax.stop_gradient(word), (residual, word, code)

    _, (residuals, words, codes) = jax.lax.scan(level, latents, codebooks)
    return residuals, words, codes


def _loss(
    parameters: Parameters, encoder: _MLP, decoder: _MLP, x: jax.Array, commitment: jax.Array
) -> jax.Array:
    stop = jax.lax.stop_gradient
    latents = _run(encoder, parameters.encoder, x)
    residuals, words, _ = _quantize(parameters.codebooks, latents)
    quantized = latents + stop(words.sum(axis=0) - latents)  # straight through
    rebuilt = _run(decoder, parameters.decoder, quantized)
    total = (
        jnp.sum((x - rebuilt) ** 2)
        + jnp.sum((stop(residuals) - words) ** 2)
        + commitment * jnp.sum((residuals - stop(words)) ** 2)
    )
    return total / len(x)


# The number of steps is traced, so that the last few steps need no program of their own.
@partial(jax.jit, static_argnums=(0, 1), static_argnames=("batch_size",))
def _train(
    encoder, decoder, key, parameters, optimizer_state, data, lr, commitment, steps, *, batch_size
):
    """``steps`` Adam steps on random batches."""
    optimizer = optax.adam(lr)

    def step(i, carry):
        parameters, state = carry
        chosen = jax.random.randint(jax.random.fold_in(key, i), (batch_size,), 0, len(data))
        gradient = jax.grad(_loss)(parameters, encoder, decoder, data[chosen], commitment)
        update, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, update), state

    return jax.lax.fori_loop(0, steps, step, (parameters, optimizer_state))


@partial(jax.jit, static_argnums=0)
def _revive(encoder, key, parameters, data):
    """Moves each codeword that no item uses to a random item's residual at its level."""
    residuals, _, codes = _quantize(parameters.codebooks, _run(encoder, parameters.encoder, data))

    def level(key, codebook, residual, code):
        used = jnp.zeros(len(codebook), bool).at[code].set(True)
        other = residual[jax.random.randint(key, (len(codebook),), 0, len(residual))]
        return jnp.where(used[:, None], codebook, other)

    keys = jax.random.split(key, len(codes))
    codebooks = jax.vmap(level)(keys, parameters.codebooks, residuals, codes)
    return parameters._replace(codebooks=codebooks)
