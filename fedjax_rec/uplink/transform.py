"""What happens to one client's upload before it leaves: composable transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.uplink.wire import WireFormat

__all__ = ["Transform", "chain", "identity", "on_rows"]


class Transform(NamedTuple):
    """A transform of ONE client's upload; the engine vmaps it over clients.

    Attributes:
      apply: (key, upload) -> upload as the server sees it after decoding. Safe under jit and vmap.
      wire: formats -> formats, what it does to the bytes. A tree of WireFormat in and out.
    """

    apply: Callable[[jax.Array, Any], Any]
    wire: Callable[[Any], Any]


def identity() -> Transform:
    """The upload leaves as it is."""
    return Transform(apply=lambda key, upload: upload, wire=lambda formats: formats)


def chain(*transforms: Transform) -> Transform:
    """One transform after another; each has a key of its own. ``chain()`` is the identity."""

    def apply(key, upload):
        for index, transform in enumerate(transforms):
            upload = transform.apply(jax.random.fold_in(key, index), upload)
        return upload

    def wire(formats):
        for transform in transforms:
            formats = transform.wire(formats)
        return formats

    return Transform(apply, wire)


def on_rows(
    function: Callable[[jax.Array, jax.Array], jax.Array],
    wire: Callable[[WireFormat], WireFormat] = lambda form: form,
) -> Transform:
    """Lifts a function of one array of rows to uploads.

    It acts on the upload's floating-point arrays of two dimensions and more, whose last axis is a
    row; integers and vectors (labels, codes, counts) pass unchanged, and so do their formats.

    Args:
      function: (key, rows [..., n, d]) -> rows of the same shape and dtype.
      wire: what it does to such an array's format.
    """

    def apply(key, upload):
        leaves, structure = jax.tree.flatten(upload)
        out = []
        for index, leaf in enumerate(leaves):
            if leaf.ndim >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating):
                leaf = function(jax.random.fold_in(key, index), leaf)
            out.append(leaf)
        return jax.tree.unflatten(structure, out)

    def reshape(form):
        return wire(form) if form.floating and len(form.shape) >= 2 else form

    def formats(tree):
        return jax.tree.map(reshape, tree, is_leaf=lambda x: isinstance(x, WireFormat))

    return Transform(apply, formats)
