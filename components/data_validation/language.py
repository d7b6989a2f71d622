"""Which language texts are in: py3langid's model, run over many texts at once.

py3langid walks an automaton one byte at a time in Python; here all texts of a batch take each step together, which gives
the same probabilities at a fraction of the time. The model, its tables and its rules are py3langid's.

    B  texts of a batch        P  byte positions        F  features        C  classes (languages)
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from scipy.sparse import csc_array, csr_array

BATCH = 512
"""Texts that walk together: enough that a step's overhead is shared, few enough for the processor's cache."""


class LanguageModel:
    """py3langid's identifier with normalised probabilities."""

    def __init__(self) -> None:
        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._next = np.asarray(model.tk_nextmove)
        self._row = np.asarray(model.tk_row).astype(np.int32) << 8
        self._feature = np.asarray(model.tk_output, dtype=np.int32)
        self._table_FC = np.asarray(model.nb_ptc, dtype=np.float32)
        self._prior_C = np.asarray(model.nb_pc, dtype=np.float32)
        self._labels, self._column_C = np.unique(np.array(model.nb_classes), return_inverse=True)

    def classify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Each text's likeliest language as an ISO 639-1 code, and its probability."""
        encoded = [_encode(text) for text in texts]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        found: list[tuple[str, float]] = [("und", 0.0)] * len(encoded)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            for i, answer in zip(batch, self._batch([encoded[i] for i in batch]), strict=True):
                found[i] = answer
        return found

    def _batch(self, texts: list[bytes]) -> list[tuple[str, float]]:
        counts_BF = self._counts(texts)
        counts_BF.data = np.log1p(counts_BF.data)
        scores_BC = counts_BF @ self._table_FC + self._prior_C
        scores_BC[np.bincount(counts_BF.indices, minlength=len(texts)) == 0] = 0.0  # no feature: all are as likely
        scores_BC /= np.sqrt(np.array([[len(text) or 1] for text in texts], dtype=np.float32))
        odds_BC = np.exp(scores_BC - scores_BC.max(axis=1, keepdims=True))
        odds_BC /= odds_BC.sum(axis=1, keepdims=True)
        merged = np.zeros(
            (len(texts), len(self._labels)), dtype=np.float32
        )  # a language may have a class for each script
        for column, label in enumerate(self._column_C):
            merged[:, label] += odds_BC[:, column]
        best_B = merged.argmax(axis=1)
        return [(str(self._labels[best]), float(merged[i, best])) for i, best in enumerate(best_B)]

    def _counts(self, texts: list[bytes]) -> csc_array:
        """How often each text (shortest first) shows each feature: B x F, sparse."""
        lengths_B = np.array([len(text) for text in texts])
        bytes_PB = np.zeros((lengths_B[-1], len(texts)), dtype=np.uint8)
        for i, text in enumerate(texts):
            bytes_PB[: len(text), i] = np.frombuffer(text, dtype=np.uint8)
        features_PB = np.full(bytes_PB.shape, -1, dtype=np.int32)
        state_B = np.zeros(len(texts), dtype=self._next.dtype)
        starts_P = np.searchsorted(lengths_B, np.arange(lengths_B[-1]), side="right")
        for position, first in enumerate(starts_P.tolist()):
            state_B[first:] = self._next[self._row[state_B[first:]] + bytes_PB[position, first:]]
            features_PB[position, first:] = self._feature[state_B[first:]]
        features_BP = np.ascontiguousarray(features_PB.T)
        shown_BP = features_BP >= 0
        starts = np.concatenate(([0], np.cumsum(shown_BP.sum(axis=1))))
        features = features_BP[shown_BP]
        found_BF = csr_array(
            (np.ones(len(features), dtype=np.float32), features, starts), shape=(len(texts), len(self._table_FC))
        )
        counts_BF = found_BF.tocsc()  # in order by its making, so that nothing need be sorted
        counts_BF.sum_duplicates()
        return counts_BF


def _encode(text: str) -> bytes:
    """As py3langid encodes: text all in capitals is lowered, then NFC."""
    return unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode("utf-8", "surrogatepass")
