"""The fused GPU kernel: in interpret mode against float64 and XLA's form, and that it lowers."""

import math
import re
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec import tiles
from fedjax_rec.errors import InputError
from fedjax_rec.losses import AlignmentTerm, ContrastTerm, cosine_similarity, structural_loss
from fedjax_rec.losses.kernel_choice import use_kernel
from fedjax_rec.losses.pairwise import Alignment, Contrast, Pass, pairwise
from fedjax_rec.losses.pairwise_kernel import Blocks, default_blocks, pairwise_pallas, to_tf32
from fedjax_rec.losses.structural import normalize
from fedjax_rec.tiles import grid, pack

SMALL = Blocks(4, 2, 4, 1)  # 11 items do not fill them; groups of 4 items of the target do
WIDE = Blocks(2, 8, 4, 1)  # more columns than rows: of each group of 4 items, half is padding

PARTS = {"contrast": (True, False), "alignment": (False, True), "both": (True, True)}


def case(seed=0, m=11, d=3):
    """[m, d] unit rows, two of them equal and one of zeros; h, half of them 1; a target [m, m]."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(m, d)) + rng.normal(size=d)
    rows[m // 2] = rows[0]
    rows[-1] = 0
    half = np.triu(rng.uniform(-1, 1, (m, m)), 1)
    unit, _ = normalize(jnp.asarray(rows, jnp.float32))
    anchors = jnp.asarray(rng.integers(0, 2, m), jnp.float32)
    return unit, anchors, jnp.asarray(half + half.T, jnp.float32)


def passes(run, parts, unit, anchors, target, *, temperature=0.1, threshold=-0.3, **options):
    """Runs a form of the pass on the wanted parts."""
    contrast, alignment = PARTS[parts]
    return run(
        unit,
        Contrast(anchors, temperature, 0.3) if contrast else None,
        Alignment(pack(target), threshold, 2.5) if alignment else None,
        **options,
    )


def exact(parts, unit, anchors, target, *, temperature=0.1, threshold=-0.3, operand=np.asarray):
    """The pass in float64 NumPy, straight from its formulas; ``operand`` rounds the weights."""
    z, h, g = (np.asarray(x, np.float64) for x in (unit, anchors, target))
    s, off = z @ z.T, ~np.eye(len(z), dtype=bool)
    contrast, alignment = PARTS[parts]
    sums = distance = None
    gradient = np.zeros_like(z)
    if contrast:
        terms = np.where(off, np.exp((s - 1) / temperature), 0)
        sums = np.where(h > 0, terms.sum(axis=1), 1)
        share = 0.3 / temperature * h / sums
        gradient += np.float64(operand(terms * (share[:, None] + share[None, :]))) @ z
    if alignment:
        pulls = np.where(off & (s >= threshold), s - g, 0)
        distance = (pulls**2).sum()
        gradient += 4 * 2.5 * pulls @ z
    return Pass(sums, distance, gradient)


kernel = partial(pairwise_pallas, operands="float32", interpret=True)


@pytest.mark.parametrize(
    ("parts", "blocks"),
    [("contrast", SMALL), ("alignment", SMALL), ("both", SMALL), ("both", WIDE)],
)
def test_against_float64_and_the_xla_form(monkeypatch, parts, blocks) -> None:
    monkeypatch.setattr(tiles, "_TILE_ROWS", 4)  # a target of three groups, the last one short
    arrays = case()
    run = partial(kernel, blocks=blocks, with_gradient=True)
    found = jax.jit(partial(passes, run, parts))(*arrays)
    xla = jax.jit(partial(passes, partial(pairwise, with_gradient=True), parts))(*arrays)
    for ours, theirs, right in zip(found, xla, exact(parts, *arrays), strict=True):
        assert (ours is None) == (theirs is None) == (right is None)
        if ours is not None:
            np.testing.assert_allclose(ours, right, rtol=2e-5, atol=2e-5)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_values_alone(monkeypatch) -> None:
    """Without a gradient, one launch computes both parts."""
    monkeypatch.setattr(tiles, "_TILE_ROWS", 4)
    arrays = case(1)
    run = partial(kernel, blocks=SMALL, with_gradient=False)
    found = jax.jit(partial(passes, run, "both"))(*arrays)
    right = exact("both", *arrays)
    np.testing.assert_allclose(found.denominators, right.denominators, rtol=2e-5)
    np.testing.assert_allclose(found.distance, right.distance, rtol=2e-5)
    assert found.gradient is None


@given(
    shape=st.sampled_from([(2, 3, 0.1), (9, 17, 0.03)]),  # each compiles once
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, deadline=None)
def test_any_catalogue_against_float64(shape, seed) -> None:
    m, d, temperature = shape
    arrays = case(seed, m, d)
    similarity = np.asarray(arrays[0], np.float64) @ np.asarray(arrays[0], np.float64).T
    if np.abs(similarity + 0.3).min() < 1e-6:
        return  # on the threshold, float32 and float64 may disagree about the mask
    found = _compiled(m, d, temperature)(*arrays)
    for a, b in zip(found, exact("both", *arrays, temperature=temperature), strict=True):
        # One rounding of a similarity is 6e-8; 1/τ multiplies it, in the weights and once more.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


_programs: dict = {}


def _compiled(m, d, temperature):
    if (m, d) not in _programs:
        run = partial(kernel, blocks=SMALL, with_gradient=True)
        _programs[m, d] = jax.jit(partial(passes, run, "both", temperature=temperature))
    return _programs[m, d]


def test_clients_side_by_side_share_one_target(monkeypatch) -> None:
    monkeypatch.setattr(tiles, "_TILE_ROWS", 4)
    clients = [case(seed) for seed in range(3)]
    units, anchors = (jnp.stack([client[i] for client in clients]) for i in range(2))
    target = clients[0][2].astype(jnp.bfloat16)
    alone = partial(passes, partial(kernel, blocks=SMALL, with_gradient=True), "both")
    together = jax.vmap(alone, in_axes=(0, 0, None))
    found = jax.jit(together)(units, anchors, target)
    for i in range(3):
        expected = exact("both", units[i], anchors[i], target.astype(jnp.float32))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=2e-5, atol=2e-5)
    launches = _launches(jax.make_jaxpr(together)(units, anchors, target).jaxpr)
    assert len(launches) == 2
    shapes = [variable.aval.shape for variable in launches[1].invars]
    assert shapes.count(grid(11).shape) == 1
    assert (3, *grid(11).shape) not in shapes


def _launches(jaxpr):
    """The launches of kernels in a program, those of inner functions too."""
    found = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "pallas_call"]
    for eqn in jaxpr.eqns:
        for inner in eqn.params.values():
            if eqn not in found and hasattr(inner, "jaxpr"):
                found += _launches(inner.jaxpr)
    return found


TERMS = {
    "contrast": {"contrast": ContrastTerm(0.1, 0.5, "all")},
    "both": {
        "contrast": ContrastTerm(0.2, 0.07, "positive", 0.3),
        "alignment": AlignmentTerm(0.4, 2.5),
    },
}


@pytest.mark.parametrize("terms", TERMS)
def test_chosen_for_a_loss(terms) -> None:
    """Value and gradient of the loss itself, where the kernel is chosen and where it is not."""
    rng = np.random.default_rng(3)
    rows = jnp.asarray(rng.normal(size=(11, 3)) + rng.normal(size=3), jnp.float32)
    target = cosine_similarity(jnp.asarray(rng.normal(size=(11, 2)), jnp.float32))
    options = dict(TERMS[terms])
    if "alignment" in options:
        options["global_similarity"] = target

    @jax.jit
    @jax.value_and_grad
    def loss(rows, labels):
        return structural_loss(rows, labels=labels, **options)

    for labels in (jnp.asarray([3, 3, 1, 1, 1, 0, 7, 7, 7, 7, 2]), jnp.zeros(11, int)):
        expected = loss(rows, labels)
        with use_kernel("pallas", interpret=True):
            rounded = loss(rows, labels)
            with jax.default_matmul_precision("highest"):
                full = loss(rows, labels)
        assert (np.asarray(rounded[1]) != np.asarray(full[1])).any()  # another program
        for found, bound in ((full, 1e-5), (rounded, 2e-2)):
            np.testing.assert_allclose(found[0], expected[0], rtol=bound)
            np.testing.assert_allclose(
                found[1], expected[1], atol=bound * np.abs(expected[1]).max()
            )


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-2, max_value=2))
@settings(deadline=None)
def test_tf32_is_the_nearest_of_its_kind(value) -> None:
    rounded = np.asarray(to_tf32(jnp.float32(value)))
    assert rounded.view(np.int32) & 0x1FFF == 0  # ten bits of fraction are left
    assert abs(float(rounded) - value) <= 2.0**-11 * abs(value) + 2.0**-137
    assert float(to_tf32(jnp.asarray(rounded))) == float(rounded)


@pytest.mark.parametrize("clustered", [False, True])
def test_the_error_of_tf32_operands(clustered) -> None:
    """What ``pairwise_pallas`` says of it, at τ = 0.1, on directions at random and in clusters."""
    rng = np.random.default_rng(4)
    m, d = 300, 32
    rows = rng.normal(size=(m, d))
    if clustered:
        rows = 0.3 * rows + rng.normal(size=(10, d))[rng.integers(0, 10, m)]
    unit, _ = normalize(jnp.asarray(rows, jnp.float32))
    arrays = unit, jnp.ones(m), jnp.zeros((m, m))
    run = partial(kernel, operands="tf32", with_gradient=True, blocks=Blocks(64, 64, 4, 1))
    found = jax.jit(partial(passes, run, "contrast"))(*arrays)
    # Every operand is rounded, and nothing else: so it is in float64 too.
    rounded = exact("contrast", to_tf32(unit), *arrays[1:], operand=_rounded)
    np.testing.assert_allclose(found.denominators, rounded.denominators, rtol=1e-5)
    assert _apart(found.gradient, rounded.gradient) < 2e-5
    full = exact("contrast", *arrays)
    relative = np.abs(np.asarray(found.denominators, np.float64) / full.denominators - 1)
    assert 1e-6 < relative.max() < 2.5e-3
    # What counts is the part of the gradient across z: the part along it is lost in normalizing.
    z = np.asarray(unit, np.float64)
    off, whole = (
        x - (x * z).sum(axis=1, keepdims=True) * z
        for x in (np.asarray(found.gradient, np.float64) - full.gradient, full.gradient)
    )
    assert 1e-6 < np.linalg.norm(off) / np.linalg.norm(whole) < 1.5e-3


def _rounded(weights):
    return np.asarray(to_tf32(jnp.asarray(weights, jnp.float32)))


def _apart(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


@pytest.mark.parametrize(
    ("m", "d", "parts", "operands", "clients"),
    [
        (1682, 32, "contrast", "tf32", 943),
        (3706, 64, "both", "tf32", None),
        (25_612, 64, "both", "tf32", None),
        (1682, 512, "alignment", "float32", 100),
    ],
)
def test_lowers_for_cuda_without_a_square_array(m, d, parts, operands, clients) -> None:
    pytest.importorskip("jax.experimental.pallas.triton", reason="this JAX has no Triton backend")

    def run(unit, anchors, target):
        contrast, alignment = PARTS[parts]
        return pairwise_pallas(
            unit,
            Contrast(anchors, 0.1, 0.3) if contrast else None,
            Alignment(target, 0.5, 2.5) if alignment else None,
            with_gradient=True,
            operands=operands,
        )

    lead = () if clients is None else (clients,)
    shapes = (
        jax.ShapeDtypeStruct((*lead, m, d), jnp.float32),
        jax.ShapeDtypeStruct((*lead, m), jnp.float32),
        jax.ShapeDtypeStruct(grid(m).shape, jnp.float32),
    )
    program = run if clients is None else jax.vmap(run, in_axes=(0, 0, None))
    triton = "__gpu$xla.gpu.triton"
    exported = jax.export.export(
        jax.jit(program),
        platforms=["cuda"],
        disabled_checks=[jax.export.DisabledSafetyCheck.custom_call(triton)],
    )(*shapes)
    text = exported.mlir_module()
    assert text.count(triton) == (1 if parts == "alignment" else 2)
    sizes = {
        math.prod(map(int, found.rstrip("x").split("x")))
        for found in re.findall(r"tensor<((?:\d+x)+)f32>", text)
    }
    # Beyond the target, nothing is larger than z with its padding.
    sizes.discard(math.prod(grid(m).shape))
    assert max(sizes) <= 1.2 * (clients or 1) * m * d


@pytest.mark.parametrize("operands", ["tf32", "float32"])
def test_blocks_fit_a_multiprocessor(operands) -> None:
    for dim in (16, 32, 64, 128, 256, 512):
        blocks = default_blocks(dim, operands)
        assert all(size & (size - 1) == 0 for size in (blocks.rows, blocks.columns))
        # z's rows, and its columns straight and turned, of which Triton keeps each stage.
        assert 4 * dim * (blocks.rows + 2 * blocks.stages * blocks.columns) <= 227 << 10


@pytest.mark.parametrize(
    ("unit", "names"),
    [
        (jnp.ones((3, 513)), "up to d = 512, not 513: use --kernel xla"),
        (np.ones((3, 2), np.float16), "in float32, the embeddings are float16: use --kernel xla"),
    ],
)
def test_what_it_cannot_do(unit, names) -> None:
    with pytest.raises(InputError, match=names) as error:
        kernel(jnp.asarray(unit), None, None, with_gradient=True)
    assert "\n" not in str(error.value)


def test_a_jax_without_the_backend(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    monkeypatch.delattr("jax.experimental.pallas.triton", raising=False)
    with pytest.raises(InputError, match="has no Triton backend for Pallas: use --kernel xla"):
        passes(partial(kernel, with_gradient=True), "contrast", *case())
