"""The losses once more, in float64 NumPy, straight from their formulas."""

import numpy as np

__all__ = [
    "codebook_gradient",
    "codebook_mse",
    "contrastive",
    "contrastive_gradient",
    "cross_entropy",
    "cross_entropy_gradient",
    "masked_frobenius",
    "masked_frobenius_gradient",
    "reconstruct",
    "sampled_contrastive",
    "sampled_gradient",
]


def contrastive(embeddings, labels, *, temperature, base_temperature, anchors) -> float:
    """L = −(τ/τ₀) · mean_a (1/|P(a)|) Σ_{p∈P(a)} [ s_ap/τ − log Σ_{k≠a} exp(s_ak/τ) ]."""
    unit = _unit(embeddings)
    logits = unit @ unit.T / temperature
    total, counted = 0.0, 0
    for a in range(len(labels)):
        others = np.arange(len(labels)) != a
        positives = others & (labels == labels[a])
        if not positives.any():
            continue
        counted += 1
        peak = logits[a][others].max()
        log_denominator = peak + np.log(np.exp(logits[a][others] - peak).sum())
        total += (logits[a][positives] - log_denominator).mean()
    count = len(labels) if anchors == "all" else max(counted, 1)
    return -temperature / base_temperature * total / count


def contrastive_gradient(embeddings, labels, *, temperature, base_temperature, anchors):
    """dL/dE by the chain rule over all pairs: softmax less positives, then the normalization."""
    exact = np.asarray(embeddings, np.float64)
    unit = _unit(exact)
    m = len(labels)
    logits = unit @ unit.T / temperature
    logits[np.diag_indices(m)] = -np.inf
    positives = (labels[:, None] == labels[None, :]) & ~np.eye(m, dtype=bool)
    has = positives.any(axis=1)
    by_logit = np.zeros((m, m))  # dL/d(s_ak/τ), less the factor −(τ/τ₀)/count
    for a in np.flatnonzero(has):
        weights = np.exp(logits[a] - logits[a].max())
        by_logit[a] = positives[a] / positives[a].sum() - weights / weights.sum()
    count = m if anchors == "all" else max(has.sum(), 1)
    by_logit *= -temperature / base_temperature / count
    by_unit = (by_logit + by_logit.T) @ unit / temperature
    norm = np.linalg.norm(exact, axis=1, keepdims=True)
    tangent = by_unit - (by_unit * unit).sum(axis=1, keepdims=True) * unit
    return np.divide(tangent, norm, out=np.zeros_like(exact), where=norm > 0)


def sampled_contrastive(
    embeddings, labels, sample, *, temperature, base_temperature, anchors
) -> float:
    """The loss with (m − 1)/n_a · Σ_{k∈S∖a} exp(s_ak/τ) in place of each denominator."""
    unit = _unit(embeddings)
    m = len(labels)
    total, counted = 0.0, 0
    for a in range(m):
        positives = [k for k in range(m) if k != a and labels[k] == labels[a]]
        if not positives:
            continue
        counted += 1
        logits = np.array([unit[a] @ unit[k] / temperature for k in sample if k != a])
        peak = logits.max()
        log_sum = peak + np.log(np.exp(logits - peak).sum())
        log_denominator = log_sum + np.log((m - 1) / len(logits))
        total += np.mean([unit[a] @ unit[k] / temperature for k in positives]) - log_denominator
    count = m if anchors == "all" else max(counted, 1)
    return -temperature / base_temperature * total / count


def sampled_gradient(embeddings, labels, sample, *, temperature, base_temperature, anchors):
    """The estimate of dL/dE, term by term: item j as an anchor, and as a negative of others."""
    exact = np.asarray(embeddings, np.float64)
    unit = _unit(exact)
    m = len(labels)
    has = [sum(labels == labels[a]) > 1 for a in range(m)]

    def term(a, k):
        return np.exp((unit[a] @ unit[k] - 1) / temperature)

    by_unit = np.zeros_like(exact)
    for j in range(m):
        positives = [k for k in range(m) if k != j and labels[k] == labels[j]]
        for k in positives:  # as the positive of j, and j as the positive of k
            by_unit[j] -= 2 * unit[k] / len(positives)
        others = [k for k in sample if k != j]
        for k in others:
            if has[j]:
                by_unit[j] += term(j, k) / sum(term(j, i) for i in others) * unit[k]
            if has[k]:
                rest = [i for i in sample if i not in (j, k)]
                whole = term(k, j) + (m - 2) / len(rest) * sum(term(k, i) for i in rest)
                by_unit[j] += (m - 1) / len(others) * term(k, j) / whole * unit[k]
    count = m if anchors == "all" else max(sum(has), 1)
    by_unit *= temperature / base_temperature / count / temperature
    norm = np.linalg.norm(exact, axis=1, keepdims=True)
    tangent = by_unit - (by_unit * unit).sum(axis=1, keepdims=True) * unit
    return np.divide(tangent, norm, out=np.zeros_like(exact), where=norm > 0)


def cross_entropy(logits, labels, mask) -> float:
    """Mean of −y·log σ(x) − (1 − y)·log σ(−x) over the mask."""
    x, y, kept = (np.asarray(v, np.float64) for v in (logits, labels, mask))
    each = y * np.logaddexp(0, -x) + (1 - y) * np.logaddexp(0, x)
    return float((kept * each).sum() / max(kept.sum(), 1))


def cross_entropy_gradient(logits, labels, mask):
    """d/dx = (σ(x) − y) / n on what the mask keeps."""
    x, y, kept = (np.asarray(v, np.float64) for v in (logits, labels, mask))
    sigmoid = np.exp(-np.logaddexp(0, -x))
    return kept * (sigmoid - y) / max(kept.sum(), 1)


def masked_frobenius(embeddings, target, *, threshold) -> float:
    """Σ_{j≠k, s_jk ≥ σ} (s_jk − g_jk)²."""
    difference, _ = _masked(embeddings, target, threshold)
    return float((difference**2).sum())


def masked_frobenius_gradient(embeddings, target, *, threshold):
    """dL/dE by the chain rule: every pair pulls on both of its items."""
    difference, unit = _masked(embeddings, target, threshold)
    by_unit = 2 * (difference + difference.T) @ unit
    norm = np.linalg.norm(np.asarray(embeddings, np.float64), axis=1, keepdims=True)
    tangent = by_unit - (by_unit * unit).sum(axis=1, keepdims=True) * unit
    return np.divide(tangent, norm, out=np.zeros_like(tangent), where=norm > 0)


def reconstruct(codebook, codes):
    """v_i = Σ_ℓ B^ℓ[q^ℓ(i)], item by item and level by level."""
    exact = np.asarray(codebook, np.float64)
    items = np.zeros((len(codes), exact.shape[2]))
    for i, code in enumerate(np.asarray(codes)):
        for level, word in enumerate(code):
            items[i] += exact[level, word]
    return items


def codebook_mse(codebook, codes, target, mask) -> float:
    """Mean over the kept items and all columns of the squared error; 0 of nothing."""
    error = (reconstruct(codebook, codes) - np.asarray(target, np.float64))[np.asarray(mask)]
    return float((error**2).mean()) if error.size else 0.0


def codebook_gradient(codebook, codes, target, mask):
    """dL/dB: each kept item pulls on its codeword of every level."""
    error = reconstruct(codebook, codes) - np.asarray(target, np.float64)
    gradient = np.zeros(np.shape(codebook))
    for i in np.flatnonzero(mask):
        for level, word in enumerate(np.asarray(codes)[i]):
            gradient[level, word] += 2 * error[i] / (np.sum(mask) * error.shape[1])
    return gradient


def _masked(embeddings, target, threshold):
    unit = _unit(embeddings)
    similarity = unit @ unit.T
    kept = (similarity >= threshold) & ~np.eye(len(unit), dtype=bool)
    return np.where(kept, similarity - np.asarray(target, np.float64), 0.0), unit


def _unit(embeddings):
    exact = np.asarray(embeddings, np.float64)
    norm = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.divide(exact, norm, out=np.zeros_like(exact), where=norm > 0)
