"""The option that makes a contrastive term affordable on a large catalogue."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from fedjax_rec.losses import check_sample_size, draw_sample

__all__ = ["ContrastSample"]

# The last number that fold_in takes: samples and shuffles count up from 0.
_STREAM = 2**32 - 1


@dataclass(frozen=True)
class ContrastSample:
    """Over which items the denominators of a contrastive term are summed.

    Attributes:
      contrast_sample: N, items drawn by each client for each of its steps, from which the
        contrastive denominators and their gradient are estimated, in O(m·N·d) a step instead of
        O(m²·d); unset, or not below m: all items, exactly. Keep N well above the number of
        clusters: 512 to 2,048 for tens of thousands of items.
    """

    contrast_sample: int | None = None

    def __post_init__(self) -> None:
        if self.contrast_sample is not None:
            check_sample_size(self.contrast_sample)

    def sample_items(self, key: jax.Array, batch: jax.Array, num_items: int) -> jax.Array | None:
        """The items drawn for one local step; None: all.

        Anew for every step, not once a round: a draw costs little beside the step that it serves,
        and errors of independent draws average out over a client's steps. Over the s steps of a
        round, one draw for all of them leaves an error √s times as large. Clients draw on their
        own, as they would on their phones.

        Args:
          key: the client's key for this round.
          batch: [] int32, number of the batch within the round.
          num_items: m.

        Returns:
          As ``draw_sample``.
        """
        if self.contrast_sample is None:
            return None
        stream = jax.random.fold_in(key, _STREAM)
        return draw_sample(jax.random.fold_in(stream, batch), num_items, self.contrast_sample)
