"""How hard a prompt is for the smallest tier, in [0, 1], from features that cost microseconds.

Complexity is the calibrated chance that the smallest tier answers worse than the best one, fitted by logistic regression
on evaluation data. An embedding of the prompt adds features where one is at hand; the arithmetic is the same.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from components.shared.contracts.errors import GateError
from components.shared.contracts.selection import Calibration

Embedder = Callable[[str], Sequence[float]]
EMBEDDING = "embedding_"
"""Beginning of the names of an embedding's features."""
WORD = re.compile(r"\w+")
CONDITION = re.compile(
    r"\b(?:if|unless|except|only|must|never|always|not|no|before|after|because|although|while|both|either|neither)\b",
    re.I,
)
TASK = re.compile(
    r"\b(?:why|how|explain|prove|compare|plan|derive|calculate|analy[sz]e|design|summari[sz]e|refactor|step by step)\b",
    re.I,
)


def features(text: str, embed: Embedder | None = None) -> dict[str, float]:
    """Features of a prompt by name: its length, variety, numbers, conditions, questions, tasks and structure."""
    words = WORD.findall(text)
    count = max(1, len(words))
    found = {
        "log_words": math.log1p(len(words)),
        "variety": len(set(words)) / count,
        "word_length": sum(map(len, words)) / count,
        "numbers": math.log1p(sum(word.isdigit() for word in words)),
        "conditions": math.log1p(len(CONDITION.findall(text))),
        "questions": math.log1p(text.count("?")),
        "tasks": math.log1p(len(TASK.findall(text))),
        "lines": math.log1p(text.count("\n")),
        "code": float("```" in text or "{" in text),
    }
    if embed is not None:
        found |= {f"{EMBEDDING}{i}": float(value) for i, value in enumerate(embed(text))}
    return found


def complexity(calibration: Calibration, found: Mapping[str, float]) -> float:
    """The calibrated complexity, in [0, 1]; a feature that was not found counts as its mean."""
    logit = calibration.bias
    for name, weight in calibration.weights.items():
        if name in found:
            logit += weight * (found[name] - calibration.means[name]) / calibration.scales[name]
    return 1.0 / (1.0 + math.exp(-max(-30.0, min(30.0, logit))))


def calibrate(
    model_type: str, texts: Sequence[str], worse: Sequence[bool], *, ridge: float = 10.0, embed: Embedder | None = None
) -> Calibration:
    """Fit on prompts and whether the smallest tier answered each of them worse than the best tier.

    Raises GateError below 20 samples, or where all or none are worse: there is nothing to tell them apart by.
    """
    y = np.asarray(worse, dtype=float)
    if len(y) < 20 or y.min() == y.max():
        raise GateError(
            f"{model_type}: {len(y)} samples, {int(y.sum())} answered worse: calibrate on 20 or more of both kinds"
        )
    rows = [features(text, embed) for text in texts]
    names = sorted(rows[0])
    X = np.array([[row[name] for name in names] for row in rows])
    means, scales = X.mean(axis=0), X.std(axis=0)
    scales[scales < 1e-9] = 1.0
    theta = _logistic((X - means) / scales, y, ridge)
    return Calibration(
        model_type=model_type,
        weights=dict(zip(names, map(float, theta[1:]), strict=True)),
        means=dict(zip(names, map(float, means), strict=True)),
        scales=dict(zip(names, map(float, scales), strict=True)),
        bias=float(theta[0]),
        samples=len(y),
    )


def _logistic(X: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Bias and weights by Newton's method with an L2 penalty on the weights alone. X is (N, F)."""
    design = np.hstack([np.ones((len(X), 1)), X])
    penalty = np.diag([0.0] + [ridge] * X.shape[1])
    theta = np.zeros(design.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ theta, -30, 30)))
        gradient = design.T @ (p - y) + penalty @ theta
        curvature = (design * (p * (1 - p) + 1e-9)[:, None]).T @ design + penalty
        step = np.linalg.solve(curvature, gradient)
        theta -= step
        if np.abs(step).max() < 1e-8:
            break
    return theta


def quality_by_complexity(complexities: Sequence[float], scores: Sequence[float], bins: int = 5) -> tuple[float, ...]:
    """Mean score in equal bins of complexity, each drawn to the overall mean by the weight of five samples.

    A bin that saw nothing is the overall mean.
    """
    values = np.asarray(scores, dtype=float)
    where = np.clip((np.asarray(complexities) * bins).astype(int), 0, bins - 1)
    counts, totals = np.bincount(where, minlength=bins), np.bincount(where, values, minlength=bins)
    return tuple(float(q) for q in (totals + 5 * values.mean()) / (counts + 5))
