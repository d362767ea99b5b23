"""The fusion network: each kind by its formula, group by group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.models import FusionNetwork

GROUPS, ITEMS, HIDDEN, WIDTH = 3, 5, 4, 2
CONTENT = [np.random.default_rng(k).normal(size=(ITEMS, 3 + k)).astype(np.float32) for k in (0, 1)]


def made(kind, content=CONTENT):
    model = FusionNetwork(GROUPS, WIDTH, HIDDEN, kind)
    return model, model.init(jax.random.key(0), content)["params"]


def dense(layer, x):
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer.get("bias", 0))


@pytest.mark.parametrize("kind", ["sum", "gate", "mlp", "attention"])
def test_each_kind_by_hand(kind) -> None:
    model, p = made(kind)
    found = model.apply({"params": p}, CONTENT)
    assert found.shape == (GROUPS, ITEMS, WIDTH)
    for g in range(GROUPS):
        for i in range(ITEMS):
            parts = [np.asarray(p["group"][g], np.float64)]
            parts += [dense(p[f"modality_{k}"], x[i]) for k, x in enumerate(CONTENT)]
            if kind == "sum":
                fused = sum(parts)
            elif kind == "gate":
                gates = [1 / (1 + np.exp(-dense(p[f"gate_{k}"], x))) for k, x in enumerate(parts)]
                fused = sum(gate * x for gate, x in zip(gates, parts, strict=True))
            elif kind == "mlp":
                layers = [p[f"mlp_{k}"]["kernel"] for k in range(3)]
                whole = {"kernel": np.concatenate(layers), "bias": p["mlp_0"]["bias"]}
                fused = np.maximum(dense(whole, np.concatenate(parts)), 0)
            else:
                fused = attention(p["attention"], np.stack(parts))
            np.testing.assert_allclose(found[g, i], dense(p["output"], fused), rtol=1e-4, atol=1e-5)


def attention(p, tokens):
    """Softmax of QKᵀ/√h times V, one head, then the outputs side by side."""
    query, key, value = (
        tokens @ np.asarray(p[name]["kernel"])[:, 0] + np.asarray(p[name]["bias"])[0]
        for name in ("query", "key", "value")
    )
    scores = np.exp(query @ key.T / np.sqrt(HIDDEN))
    mixed = scores / scores.sum(axis=1, keepdims=True) @ value
    return (mixed @ np.asarray(p["out"]["kernel"])[0] + np.asarray(p["out"]["bias"])).reshape(-1)


@pytest.mark.parametrize("kind", ["sum", "gate", "mlp", "attention"])
def test_one_modality_will_do(kind) -> None:
    model, parameters = made(kind, CONTENT[:1])
    out = model.apply({"params": parameters}, CONTENT[:1])
    assert out.shape == (GROUPS, ITEMS, WIDTH)
    assert np.isfinite(out).all()
    assert np.abs(out[0] - out[1]).max() > 1e-3  # groups differ from the start


def test_an_items_embedding_depends_on_no_other_item() -> None:
    model, parameters = made("attention")
    alone = model.apply({"params": parameters}, [x[2:3] for x in CONTENT])
    among = model.apply({"params": parameters}, [jnp.asarray(x) for x in CONTENT])
    np.testing.assert_allclose(alone[:, 0], among[:, 2], rtol=1e-5, atol=1e-6)
