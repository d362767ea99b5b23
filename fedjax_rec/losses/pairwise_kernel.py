"""The pairwise pass as a fused GPU kernel: the same function as ``pairwise``, streamed.

One program of the GPU owns a block of rows of z, loads it once and walks over all blocks of
columns: a tile of similarities is made in registers, used, and forgotten. No [m, m] array, nor any
part of one, is in memory. Two launches, since the gradient needs all denominators first:

    1   D_j = Σ_{k≠j} exp((s_jk − 1)/τ)                                  of each row
    2   w_jk of the same tile again, gradient_j = Σ_k w_jk·z_k, and the alignment's distance

A row needs its tiles on both sides of the diagonal, so the symmetry that halves the XLA form's work
is not used: that would take atomic additions, whose order, and so the result, changes from run to
run. Similarities and exponentials are computed four times as often as there; what is saved is every
trip to memory.

**Error of TF32 operands.** Against float64, on directions at random and in 60 clusters, m = 1,682
and 3,706, d = 32 and 64, τ = 0.1: similarities are off by up to 5e-4, denominators by up to 2.1e-3
of themselves, the gradient by 2e-4 to 1e-3 of its norm (τ = 0.03: 8e-3 and 1e-3). Operands cut off
instead of rounded, as the hardware does, would make that two to four times as much, bfloat16 eight
times. A pair whose similarity is that near to σ may fall on the other side of it.

**Which GPUs.** Written for Pallas' Triton backend: CUDA, compute capability 8.0 or newer. JAX 0.11
has deprecated that backend in favour of Mosaic GPU, which needs a Hopper GPU and another program;
where a JAX comes without Triton, ``pairwise_pallas`` says so. Not for a TPU: the columns of z and
the target are read in place, at addresses that change from step to step, which a TPU program must
copy ahead itself.

**What is proven.** Values, gradients and the rounding of operands, in interpret mode on a CPU, and
that the program lowers for CUDA (tests/losses/test_pairwise_kernel.py). By hand, the lowered
program was compiled for sm_90 by Triton 3.9. It has not run on a GPU: block sizes are chosen by
what the compiler says and not by measurement, and whether it is faster than XLA is for
benchmarks/pairwise_kernel.py to say.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.errors import InputError
from fedjax_rec.losses.pairwise import Alignment, Contrast, Pass, factors_of, pull_of
from fedjax_rec.tiles import Grid, grid

__all__ = ["MAX_DIM", "Blocks", "Operands", "default_blocks", "pairwise_pallas", "to_tf32"]

Operands = Literal["tf32", "float32"]

MAX_DIM = 512
"""Beyond, a row block and a column block of z do not fit a multiprocessor's shared memory."""

_LOG2_E = math.log2(math.e)
_MIN_DIM = 16  # the tensor cores' least inner dimension
_TF32_DROPPED = 13  # of float32's 23 bits of fraction, TF32 keeps 10


class Blocks(NamedTuple):
    """How the work is cut.

    Attributes:
      rows: rows of z that a program owns; a power of two.
      columns: rows of z that it looks at in a step; a power of two.
      warps: warps of 32 threads that share a program.
      stages: column blocks in flight at once.
    """

    rows: int
    columns: int
    warps: int
    stages: int


def default_blocks(dim: int, operands: Operands) -> Blocks:
    """Blocks for which at most two registers are spilled, as compiled for sm_90 by Triton 3.9.

    Up to d = 128, TF32 products there are Hopper's warpgroup instructions, which take 64 rows. Full
    float32 has no tensor cores, and a thread holds less at once. Groups of the packed target (561
    to 640 items) are padded to whole blocks: 64 rows waste 3 % of a side on ML-100K, 128 would
    waste 14 %.
    """
    if operands == "float32":
        return Blocks(32, 32, 8, 2) if dim <= 128 else Blocks(16, 16, 8, 1)
    if dim <= 64:
        return Blocks(64, 64, 4, 2)
    return Blocks(64, 32, 4, 2) if dim <= 128 else Blocks(32, 32, 8, 1)


def pairwise_pallas(
    unit: jax.Array,
    contrast: Contrast | None,
    alignment: Alignment | None,
    *,
    with_gradient: bool,
    operands: Operands = "tf32",
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Pass:
    """Runs the pass. Temporary memory O(m·d); under vmap, the grid gets one more dimension.

    Args:
      unit: [m, d] float32, rows z of length one (or zero); d ≤ ``MAX_DIM``.
      contrast: the contrastive part, or None.
      alignment: the alignment part, or None. Its target stays packed; the tile below the diagonal
        is the one above, read sideways. Under vmap, one target serves all.
      with_gradient: whether the gradient is wanted.
      operands: of both products; sums are float32 either way. "tf32" is what tensor cores multiply:
        z and the weights are rounded to 10 bits of fraction, to nearest, before the products,
        so that the numbers are the same on every device but for the order of sums. "float32"
        multiplies in full, without tensor cores.
      blocks: how the work is cut; None: ``default_blocks``.
      interpret: run as plain JAX, on any device: for tests.

    Returns:
      What ``pairwise`` returns.

    Raises:
      InputError: embeddings that are not float32, too wide ones, or a JAX without the backend.
    """
    m, dim = unit.shape
    if unit.dtype != jnp.float32:
        raise InputError(
            f"the pallas kernel computes in float32, the embeddings are {unit.dtype}: "
            "use --kernel xla"
        )
    if dim > MAX_DIM:
        raise InputError(
            f"the pallas kernel takes embeddings up to d = {MAX_DIM}, not {dim}: use --kernel xla"
        )
    plan = _Plan(
        cut=grid(m) if alignment is not None else Grid(m, 1, m),
        blocks=blocks or default_blocks(dim, operands),
        operands=operands,
        interpret=interpret,
    )
    rows = plan.split(unit)
    rows = jnp.pad(rows, ((0, 0), (0, max(_MIN_DIM, _power_of_two(dim)) - dim)))
    if operands == "tf32":
        rows = to_tf32(rows)

    denominators: Any = None
    distance: Any = None
    push_factors: Any = None
    first = _wanted(sums=contrast is not None, distance=alignment is not None and not with_gradient)
    if first:
        found = _launch(plan, rows, contrast, None if with_gradient else alignment, None, first)
        distance = found.get("distance")
        if contrast is not None:
            denominators, push_factors = factors_of(plan.join(found["sums"]), contrast)
            push_factors = plan.split(push_factors)
    gradient: Any = None
    if with_gradient:
        second = _wanted(gradient=True, distance=alignment is not None)
        found = _launch(plan, rows, contrast, alignment, push_factors, second)
        gradient = plan.join(found["gradient"])[:, :dim]
        distance = found.get("distance")
    return Pass(denominators, None if distance is None else jnp.sum(distance), gradient)


def to_tf32(values: jax.Array) -> jax.Array:
    """Rounds float32 to TF32, to nearest, ties away from zero; the result is float32 still.

    Example:
      >>> import jax.numpy as jnp
      >>> float(to_tf32(jnp.float32(1 + 2**-10 + 2**-11 + 2**-20)))  # 1 + 2·2⁻¹⁰
      1.001953125
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)
    half = 1 << (_TF32_DROPPED - 1)
    kept = -(1 << _TF32_DROPPED)
    return jax.lax.bitcast_convert_type((bits + half) & kept, jnp.float32)


class _Plan(NamedTuple):
    """The cut of the items, and how a group of them is padded to whole blocks."""

    cut: Grid
    blocks: Blocks
    operands: Operands
    interpret: bool

    @property
    def span(self) -> int:
        """Rows that a group takes in the padded arrays."""
        block = max(self.blocks.rows, self.blocks.columns)
        return -(-self.cut.side // block) * block

    @property
    def padded(self) -> int:
        """Rows of the padded arrays."""
        return self.cut.groups * self.span

    def split(self, vectors: jax.Array) -> jax.Array:
        """[m, …] -> [padded, …], each group padded with zeros."""
        groups = self.cut.split(vectors)
        padding = [(0, 0), (0, self.span - self.cut.side), *[(0, 0)] * (vectors.ndim - 1)]
        return jnp.pad(groups, padding).reshape(self.padded, *vectors.shape[1:])

    def join(self, padded: jax.Array) -> jax.Array:
        """[padded, …] -> [m, …], the inverse of ``split``."""
        groups = padded.reshape(self.cut.groups, self.span, *padded.shape[1:])
        return self.cut.join(groups[:, : self.cut.side])

    def place(self, block: Any, size: int) -> tuple[Any, Any]:
        """Group of a block of so many rows, and the block's first row within it."""
        # Division that cuts off, since nothing here is negative: the backend lowers no other.
        group = jax.lax.div(block, jnp.int32(self.span // size))
        return group, block * size - group * self.span


def _wanted(**parts: bool) -> tuple[str, ...]:
    return tuple(name for name, wanted in parts.items() if wanted)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _launch(plan, rows, contrast, alignment, push_factors, wanted):
    """Runs the kernel: what is wanted of "sums", "distance" (both [padded]) and "gradient"."""
    try:
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import triton
    except ImportError:
        raise InputError(
            f"this JAX ({jax.__version__}) has no Triton backend for Pallas: use --kernel xla"
        ) from None
    size, width = plan.blocks.rows, rows.shape[1]
    by_row = pl.BlockSpec((size,), lambda i: (i,))
    by_rows = pl.BlockSpec((size, width), lambda i: (i, 0))
    given = {"rows": (rows, by_rows), "columns": (rows, pl.BlockSpec())}
    if "gradient" in wanted:
        # TF32's instructions want the summed dimension of both operands contiguous.
        given["turned"] = (rows.T, pl.BlockSpec())
    if push_factors is not None:
        given["row_factors"] = (push_factors, by_row)
        given["column_factors"] = (push_factors, pl.BlockSpec())
    if alignment is not None:
        scale = jnp.asarray(4 * alignment.weight, jnp.float32).reshape(1)
        given["pull_scale"] = (scale, pl.BlockSpec())
        given["target"] = (alignment.target, pl.BlockSpec())
    shapes = {
        name: jax.ShapeDtypeStruct((plan.padded, width)[: 1 + (name == "gradient")], rows.dtype)
        for name in wanted
    }
    results = pl.pallas_call(
        functools.partial(
            _kernel,
            names=(*given, *wanted),
            plan=plan,
            wanted=wanted,
            contrast=None if contrast is None else contrast._replace(anchors=None, weight=None),
            alignment=None if alignment is None else alignment._replace(target=None, weight=None),
        ),
        grid=(plan.padded // size,),
        in_specs=[spec for _, spec in given.values()],
        out_specs=[by_rows if name == "gradient" else by_row for name in wanted],
        out_shape=list(shapes.values()),
        compiler_params=triton.CompilerParams(
            num_warps=plan.blocks.warps, num_stages=plan.blocks.stages
        ),
        interpret=plan.interpret,
        name="pairwise_" + "_".join(wanted),
    )(*[array for array, _ in given.values()])
    return dict(zip(wanted, results, strict=True))


def _kernel(*references, names, plan, wanted, contrast, alignment):
    """One program: a block of rows against all columns.

    References, by name: rows [rows, d] and columns [padded, d] of z, the latter also turned,
    [d, padded]; row_factors and column_factors, weight·h/(D·τ); pull_scale [1], 4·weight; target,
    packed; and what is wanted.
    """
    from jax.experimental import pallas as pl

    ref = dict(zip(names, references, strict=True))
    rows = ref["rows"][...]
    at = plan.place(pl.program_id(0), plan.blocks.rows)
    if "row_factors" in ref:
        row_factors = ref["row_factors"][...]
    if "pull_scale" in ref:
        pull_scale = ref["pull_scale"][0]

    def step(block, totals):
        start = block * plan.blocks.columns
        columns = ref["columns"][pl.ds(start, plan.blocks.columns), :]
        there = plan.place(block, plan.blocks.columns)
        similarity = _product(plan, rows, columns, (1, 1))
        inside = _inside(plan, at, there)
        weights: Any = 0.0
        totals = dict(totals)
        if contrast is not None:
            pushes = _push(similarity, inside, contrast)
            if "sums" in wanted:
                totals["sums"] += jnp.sum(pushes, axis=1)
            if "gradient" in wanted:
                column_factors = ref["column_factors"][pl.ds(start, plan.blocks.columns)]
                weights += pushes * (row_factors[:, None] + column_factors[None, :])
        if alignment is not None:
            target = _target(plan, ref["target"], at, there, inside)
            pulls = pull_of(similarity, target, inside, alignment)
            totals["distance"] += jnp.sum(pulls * pulls, axis=1)
            weights += pull_scale * pulls
        if "gradient" in wanted:
            if plan.operands == "tf32":
                weights = to_tf32(weights)
            turned = ref["turned"][:, pl.ds(start, plan.blocks.columns)]
            totals["gradient"] += _product(plan, weights, turned, (1, 1))
        return totals

    zeros = {
        name: jnp.zeros(rows.shape if name == "gradient" else rows.shape[:1], rows.dtype)
        for name in wanted
    }
    totals = jax.lax.fori_loop(0, plan.padded // plan.blocks.columns, step, zeros)
    for name in wanted:
        ref[name][...] = totals[name]


def _product(plan, a, b, contracted):
    """a·b over the given dimension of each, summed in float32."""
    precision = jax.lax.Precision.HIGHEST
    if plan.operands == "tf32" and not plan.interpret:
        precision = jax.lax.Precision.DEFAULT  # on a GPU: TF32
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(
        a, b, dimensions, precision=precision, preferred_element_type=jnp.float32
    )


def _push(similarity, inside, contrast):
    """exp((s − 1)/τ) of a tile, as a power of two: the GPU has that as one instruction, and spends
    seven more on a power of e. They would be the most of what the kernel does at d = 32."""
    scale = _LOG2_E / contrast.temperature
    return jnp.where(inside, jnp.exp2(similarity * scale - scale), 0.0)


def _inside(plan, at, there):
    """[rows, columns] bool: pairs of two different items that exist."""
    shape = plan.blocks.rows, plan.blocks.columns
    row = at[1] + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    column = there[1] + jax.lax.broadcasted_iota(jnp.int32, shape, 1)

    def exists(place, group):
        return place < jnp.minimum(plan.cut.side, plan.cut.items - group * plan.cut.side)

    different = (row != column) | (at[0] != there[0])
    return different & exists(row, at[0]) & exists(column, there[0])


def _target(plan, target, at, there, inside):
    """[rows, columns] float32 of the target. Stored are the tiles on and above the diagonal; one
    below is loaded as its mirror image, whose lines lie in memory as lines, and transposed."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    low, high = jnp.minimum(at[0], there[0]), jnp.maximum(at[0], there[0])
    tile = jax.lax.div(low * (2 * plan.cut.groups - low + 1), jnp.int32(2)) + high - low
    rows = pl.ds(at[1], plan.blocks.rows)
    columns = pl.ds(there[1], plan.blocks.columns)

    def straight():
        return triton.load(target.at[tile, rows, columns], mask=inside, other=0.0)

    def mirrored():
        return triton.load(target.at[tile, columns, rows], mask=inside.T, other=0.0).T

    if plan.cut.groups == 1:
        return straight().astype(jnp.float32)
    return jax.lax.cond(at[0] <= there[0], straight, mirrored).astype(jnp.float32)
