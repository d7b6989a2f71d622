"""A small text classifier beside the rules: how likely is it that somebody who knows would accept this answer?

Logistic regression on hashed features: 1- to 3-grams of the answer, and pairs of a prompt word and an answer word, since
what is right depends on what was asked; or, with an encoder, on the vectors of prompt and answer and their product. Platt
scaling on answers that it was not fitted on makes its output a probability. Answers are divided by scenario group, so a
held-out answer is never one that it saw in other words. The file is safetensors: weights, and the report of the fit as
metadata; nothing in it is executed when it is read.

    python -m components.shared.collaboration.verdict_classifier LABELLED.jsonl OUT.safetensors [--embeddings]
"""

import argparse
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from components.shared.collaboration.context_retriever import Embedder
from components.shared.contracts.errors import CorruptArtifact, GateError, UsageError
from components.shared.contracts.records import LabelledAnswer, Record, Scenario, Step
from components.shared.storage.artifacts import canonical_json, file_digest
from components.shared.storage.jsonl import read_jsonl

FEATURES = 2**18
NGRAM = 3
VECTORS = 3
"""Of an answer: its prompt's, its own and their product."""
CROSSED = 48
"""Distinct words of prompt and answer, each, that enter pairs: the first ones, where there are more."""
SHARES = {"fit": 60, "calibration": 80, "held_out": 100}
"""Upper ends of the percentiles of groups that each part gets."""
MIN_OF_EACH = 20
"""Acceptable and unacceptable answers, each, that every part needs."""
Z95 = 1.959964


class ErrorRate(Record):
    """A rate with its sample size and Wilson's 95 % interval."""

    rate: float
    low: float
    high: float
    count: int


class ClassifierReport(Record):
    """What a fit measured on answers that it did not see."""

    model_type: str
    version: int = 1
    threshold: float = Field(ge=0, le=1)
    """Probability from which an answer counts as accepted in the rates below."""
    false_positive_rate: ErrorRate
    """Unacceptable answers that it accepts."""
    false_negative_rate: ErrorRate
    """Acceptable answers that it refuses."""
    calibration_error: float
    """Expected calibration error in ten bins, on the held-out answers."""
    fitted_on: int
    held_out: int
    slope: float
    """Platt scaling: probability = sigmoid(slope x decision + offset)."""
    offset: float
    bias: float
    embedder: str | None = None
    """Name and version of the encoder that made its features; none for hashed n-grams."""


@dataclass(frozen=True)
class VerdictClassifier:
    """The probability that an answer is acceptable."""

    weights_F: np.ndarray
    report: ClassifierReport
    digest: str
    """SHA-256 of the file, or none of a fit that was not saved."""
    embedder: Embedder | None = None

    def probability(self, scenario: Scenario, steps: Sequence[Step]) -> float:
        return float(self.probabilities([(scenario, steps)])[0])

    def probabilities(self, answers: Sequence[tuple[Scenario, Sequence[Step]]]) -> np.ndarray:
        decision = featured(answers, self.embedder) @ self.weights_F + self.report.bias
        return _sigmoid(self.report.slope * decision + self.report.offset)

    def save(self, path: Path) -> None:
        """Write the file; equal fits give equal bytes."""
        metadata = {"report": canonical_json(self.report.model_dump(mode="json"))}
        save_file({"weights": np.ascontiguousarray(self.weights_F)}, path, metadata=metadata)


def load_classifier(path: Path, model_type: str) -> VerdictClassifier:
    """The classifier in a file, with its encoder.

    Raises CorruptArtifact for a malformed one, UsageError for another model type's or where its encoder is not here.
    """
    if not path.is_file():
        raise UsageError(f"no classifier at {path}: fit one, or leave it out of the configuration")
    try:
        with safe_open(path, framework="numpy") as f:
            report = ClassifierReport.model_validate_json((f.metadata() or {}).get("report", ""))
            weights_F = f.get_tensor("weights")
    except (SafetensorError, ValidationError) as error:
        raise CorruptArtifact(
            f"{path} is no verdict classifier ({str(error).splitlines()[0]}): fit it again"
        ) from error
    embedder = open_embedder(report.embedder) if report.embedder else None
    width = FEATURES if embedder is None else VECTORS * embedder.encode([""]).shape[1]
    if weights_F.shape != (width,) or not np.isfinite(weights_F).all():
        raise CorruptArtifact(f"{path} has weights of shape {weights_F.shape}, or not finite: fit it again")
    if report.model_type != model_type:
        raise UsageError(f"{path} was fitted for {report.model_type}, not {model_type}: give that model type's")
    return VerdictClassifier(weights_F, report, file_digest(path), embedder)


def open_embedder(name: str | None = None) -> Embedder:
    """The sentence encoder of this machine. Raises UsageError where it is not installed, or is not the one of that name."""
    from components.shared.collaboration.embeddings import MiniLM

    embedder = MiniLM()
    if name not in (None, embedder.name):
        raise UsageError(
            f"the classifier was fitted on {name}, here is {embedder.name}: install that one, or fit it again"
        )
    return embedder


def fit_classifier(
    labelled: Iterable[LabelledAnswer], threshold: float = 0.5, embedder: Embedder | None = None
) -> VerdictClassifier:
    """Fit, calibrate and measure on three parts of `labelled`, divided by scenario group; on vectors with an `embedder`.

    Raises UsageError where they are of several model types, and GateError where a part has too few answers of a kind.
    """
    parts: dict[str, list[LabelledAnswer]] = {name: [] for name in SHARES}
    for answer in labelled:
        parts[_part(answer.scenario)].append(answer)
    types = {answer.scenario.model_type for part in parts.values() for answer in part}
    if len(types) != 1:
        raise UsageError(f"labelled answers of {len(types)} model types ({', '.join(sorted(types))}): give one's")
    for name, part in parts.items():
        good = sum(answer.acceptable for answer in part)
        if min(good, len(part) - good) < MIN_OF_EACH:
            raise GateError(
                f"{good} acceptable and {len(part) - good} unacceptable answers in the part {name}: label at least "
                f"{MIN_OF_EACH} of each, in more scenario groups"
            )
    x, y = _matrix(parts["fit"], embedder)
    model = LogisticRegression(C=1.0, max_iter=500, class_weight="balanced").fit(x, y)
    weights_F, bias = model.coef_[0].astype(np.float32), float(model.intercept_[0])
    x, y = _matrix(parts["calibration"], embedder)
    platt = LogisticRegression(C=1e6).fit((x @ weights_F + bias)[:, None], y)
    slope, offset = float(platt.coef_[0, 0]), float(platt.intercept_[0])
    x, y = _matrix(parts["held_out"], embedder)
    probability = _sigmoid(slope * (x @ weights_F + bias) + offset)
    accepted = probability >= threshold
    report = ClassifierReport(
        model_type=types.pop(),
        threshold=threshold,
        false_positive_rate=error_rate(int((accepted & ~y).sum()), int((~y).sum())),
        false_negative_rate=error_rate(int((~accepted & y).sum()), int(y.sum())),
        calibration_error=_calibration_error(probability, y),
        fitted_on=len(parts["fit"]),
        held_out=len(parts["held_out"]),
        slope=slope,
        offset=offset,
        bias=bias,
        embedder=embedder.name if embedder else None,
    )
    return VerdictClassifier(weights_F, report, "", embedder)


def error_rate(errors: int, count: int) -> ErrorRate:
    """Errors among `count`, with Wilson's interval."""
    rate, spread = errors / count, Z95**2 / count
    middle = (rate + spread / 2) / (1 + spread)
    half = Z95 * np.sqrt(rate * (1 - rate) / count + spread / (4 * count)) / (1 + spread)
    return ErrorRate(rate=rate, low=max(0.0, middle - half), high=min(1.0, middle + half), count=count)


def featured(answers: Sequence[tuple[Scenario, Sequence[Step]]], embedder: Embedder | None) -> csr_matrix | np.ndarray:
    """Features of answers, one row each: hashed words, or the vectors of prompt and answer and their product."""
    if embedder is None:
        return hashed(answers)
    asked_ND = embedder.encode([scenario.prompt for scenario, _ in answers])
    said_ND = embedder.encode([written(steps) for _, steps in answers])
    return np.concatenate((asked_ND, said_ND, asked_ND * said_ND), axis=1)


def written(steps: Sequence[Step]) -> str:
    return " ".join(f"{step.title}: {step.text}" for step in steps)


def hashed(answers: Sequence[tuple[Scenario, Sequence[Step]]]) -> csr_matrix:
    """Features of answers, one row each, of unit length."""
    hasher = FeatureHasher(FEATURES, input_type="string", dtype=np.float32)
    return normalize(hasher.transform([list(features(scenario, steps)) for scenario, steps in answers]), copy=False)


def features(scenario: Scenario, steps: Sequence[Step]) -> Iterable[str]:
    """N-grams of the answer, and pairs of a word asked and a word answered."""
    words = written(steps).lower().split()
    for n in range(1, NGRAM + 1):
        for i in range(len(words) - n + 1):
            yield " ".join(words[i : i + n])
    asked = list(dict.fromkeys(scenario.prompt.lower().split()))[:CROSSED]
    said = list(dict.fromkeys(words))[:CROSSED]
    yield from (f"{a} > {s}" for a, s in itertools.product(asked, said))


def _matrix(part: Sequence[LabelledAnswer], embedder: Embedder | None) -> tuple[csr_matrix | np.ndarray, np.ndarray]:
    return featured([(a.scenario, a.steps) for a in part], embedder), np.array([a.acceptable for a in part])


def _part(scenario: Scenario) -> str:
    point = int(hashlib.sha256(f"classifier/{scenario.group}".encode()).hexdigest(), 16) % 100
    return next(name for name, end in SHARES.items() if point < end)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))


def _calibration_error(probability: np.ndarray, y: np.ndarray) -> float:
    bins = np.minimum((probability * 10).astype(int), 9)
    gaps = [abs(probability[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(sum(gaps))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("labelled", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--embeddings", action="store_true", help="fit on sentence embeddings (extra `embeddings`)")
    given = parser.parse_args()
    encoder = open_embedder() if given.embeddings else None
    fitted = fit_classifier(read_jsonl(given.labelled, LabelledAnswer), embedder=encoder)
    fitted.save(given.out)
    print(json.dumps(fitted.report.model_dump(mode="json"), indent=1))
