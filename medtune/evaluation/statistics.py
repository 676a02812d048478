"""Intervals for differences between two models on the same rows."""

import math


def paired_bootstrap(a: list[dict], b: list[dict], samples: int, confidence: float, seed: int) -> dict:
    """Difference of negative log-likelihood per character, a minus b, with a percentile bootstrap interval.

    Paired: every resample takes the same rows of both models. Whole near-duplicate clusters are drawn, since rows of
    one cluster are no independent evidence. The figure is the ratio of sums (nats over characters), drawn anew each
    time. Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.

    Returns mean, low, high, confidence, method, rows, clusters; low and high are None where there are fewer than two
    clusters. Raises ValueError where the rows of a and b are not the same ones in the same order.
    """
    import numpy as np

    if [s["row_id"] for s in a] != [s["row_id"] for s in b]:
        raise ValueError("the two models were not scored on the same rows in the same order")
    clusters = sorted({s["cluster"] for s in a})
    index = {cluster: i for i, cluster in enumerate(clusters)}
    sums = np.zeros((3, len(clusters)))  # nats of a, nats of b, characters
    for one, other in zip(a, b, strict=True):
        sums[:, index[one["cluster"]]] += (one["nll"], other["nll"], one["chars"])
    mean = float((sums[0].sum() - sums[1].sum()) / sums[2].sum())
    low = high = None
    if len(clusters) > 1 and math.isfinite(mean):
        drawn = np.random.default_rng(seed).integers(len(clusters), size=(samples, len(clusters)))
        resampled = sums[:, drawn].sum(axis=2)
        differences = (resampled[0] - resampled[1]) / resampled[2]
        tail = (1 - confidence) / 2
        low, high = (float(q) for q in np.quantile(differences, [tail, 1 - tail]))
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "confidence": confidence,
        "rows": len(a),
        "clusters": len(clusters),
        "method": f"paired cluster bootstrap, percentile, {samples} resamples, nats per character",
    }
