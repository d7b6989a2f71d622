"""Which language texts are in: py3langid's model, run over many texts at once.

py3langid walks an automaton one byte at a time in Python. Here a batch's bytes are cut into lanes of equal length that take
each step together, which gives the same probabilities at a fraction of the time: a state of the automaton says nothing of
bytes further back than its longest feature, so a lane that begins within a text warms up on the few bytes before it. The
model, its tables and its rules are py3langid's.

    B  texts of a batch        N  lanes        P  byte positions of a lane        F  features        C  classes (languages)
"""

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from scipy.sparse import csc_array, csr_array

BATCH_BYTES = 1 << 19
"""Bytes that walk together: enough that a step's overhead is shared, few enough for the processor's cache."""
LANE = 192
"""Bytes of a lane: a shorter one warms up too often, a longer one wastes more at each text's end."""


class LanguageModel:
    """py3langid's identifier with normalised probabilities."""

    def __init__(self) -> None:
        model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._next = np.asarray(model.tk_nextmove, dtype=np.uint32).view(np.int32)
        self._row = np.asarray(model.tk_row).astype(np.int32) << 8
        self._feature = np.asarray(model.tk_output, dtype=np.int32)
        self._table_FC = np.asarray(model.nb_ptc, dtype=np.float32)
        self._prior_C = np.asarray(model.nb_pc, dtype=np.float32)
        self._labels, self._column_C = np.unique(np.array(model.nb_classes), return_inverse=True)
        self._warm_up = self._depth() - 1

    def classify(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """Each text's likeliest language as an ISO 639-1 code, and its probability."""
        encoded = [_encode(text) for text in texts]
        found: list[tuple[str, float]] = []
        start = 0
        while start < len(encoded):
            end, size = start + 1, len(encoded[start])
            while end < len(encoded) and (size := size + len(encoded[end])) <= BATCH_BYTES:
                end += 1
            found += self._batch(encoded[start:end])
            start = end
        return found

    def _depth(self) -> int:
        """Bytes of the longest feature: steps after which every state has been reached from the first one."""
        table, row = self._next.reshape(-1, 256), self._row >> 8
        reached = np.zeros(len(row), dtype=bool)
        reached[0], front, steps = True, np.zeros(1, dtype=np.int64), -1
        while len(front):
            steps += 1
            after = np.zeros(len(row), dtype=bool)
            after[table[np.unique(row[front])]] = True
            front = np.flatnonzero(after & ~reached)
            reached |= after
        return steps

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
        """How often each text shows each feature: B x F, sparse."""
        lengths_B = np.array([len(text) for text in texts])
        ends_B = np.cumsum(lengths_B)
        states = self._states(np.frombuffer(b"".join(texts), dtype=np.uint8), ends_B - lengths_B, lengths_B)
        features = self._feature.take(states)
        shown = np.flatnonzero(features >= 0)
        starts = np.concatenate(([0], np.searchsorted(shown, ends_B)))
        found_BF = csr_array(
            (np.ones(len(shown), dtype=np.float32), features[shown], starts), shape=(len(texts), len(self._table_FC))
        )
        counts_BF = found_BF.tocsc()  # in order by its making, so that nothing need be sorted
        counts_BF.sum_duplicates()
        return counts_BF

    def _states(
        self, data: NDArray[np.uint8], starts_B: NDArray[np.int64], lengths_B: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """The automaton's state after each byte of texts that stand one after another."""
        lanes_B = -(-lengths_B // LANE)
        first_N = np.cumsum(lanes_B) - lanes_B  # a text's first lane
        within_N = np.arange(lanes_B.sum()) - np.repeat(first_N, lanes_B)
        begin_N = np.repeat(starts_B, lanes_B) + within_N * LANE
        order_N = np.argsort(within_N == 0, kind="stable")  # those that begin within a text come first, and warm up
        begin_N, warm = begin_N[order_N], int((within_N > 0).sum())
        # The last lane of all runs past the end: what it sees there is cut off below.
        padded = np.concatenate((data, np.zeros(LANE, dtype=np.uint8)))
        row_N = np.full(len(begin_N), self._row[0], dtype=np.int32)
        for back in range(self._warm_up, 0, -1):
            row_N[:warm] = self._row.take(self._next.take(row_N[:warm] + padded.take(begin_N[:warm] - back)))
        states_PN = np.empty((LANE, len(begin_N)), dtype=np.int32)
        bytes_PN = padded.take(begin_N + np.arange(LANE)[:, None])
        for position, byte_N in enumerate(bytes_PN):
            self._next.take(row_N + byte_N, out=states_PN[position], mode="clip")
            row_N = self._row.take(states_PN[position])
        back_N = np.empty_like(order_N)
        back_N[order_N] = np.arange(len(order_N))
        states_NP = states_PN.T[back_N]
        left_N = np.repeat(lengths_B, lanes_B) - within_N * LANE
        return states_NP[np.arange(LANE) < left_N[:, None]]


@functools.cache
def language_model() -> LanguageModel:
    """The model, read once a process: it takes half a second and 80 MB."""
    return LanguageModel()


def _encode(text: str) -> bytes:
    """As py3langid encodes: text all in capitals is lowered, then NFC."""
    return unicodedata.normalize("NFC", text.lower() if text.isupper() else text).encode("utf-8", "surrogatepass")
