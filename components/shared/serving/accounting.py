"""What becomes of a request is written down: metrics, a decision line, a Trace, the key's spending, a rollout's evidence."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

from pydantic import JsonValue

from components.shared.contracts.records import Scenario, Tier, Trace
from components.shared.monitoring.embedded import embedded
from components.shared.serving.canary import Arm, Canary
from components.shared.serving.choice import Budget, Ranked, usd
from components.shared.serving.dispatch import CHALLENGER, AllUnavailable, Hop, HopOutcome, Route, Served
from components.shared.serving.metrics import Metrics
from components.shared.serving.selection_file import Selection
from components.shared.serving.srl_model_adapter import Answer, ChatRequest, Unavailable
from components.shared.serving.traces import TraceWriter


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Where one request is sent, and why."""

    request_id: str
    key: str
    """Who asks."""
    session: str | None
    model_type: str
    complexity: float | None
    ranked: tuple[Ranked, ...]
    order: tuple[Route, ...]
    table: str
    """Version of the selection table."""
    scenario: Scenario | None
    started: float

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the decision began."""
        return 1000 * (time.perf_counter() - self.started)


class Accounts:
    """One router's books."""

    def __init__(
        self,
        selection: Selection,
        traces: TraceWriter,
        *,
        metrics: Metrics,
        log: TextIO,
        max_hourly_usd: float,
        metrics_namespace: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """With a `metrics_namespace` the decision lines carry CloudWatch's metrics."""
        self._selection, self._traces, self.metrics, self._log = selection, traces, metrics, log
        self._namespace = metrics_namespace
        self._max_hourly_usd, self._clock = max_hourly_usd, clock
        self._budgets: dict[str, Budget] = {}
        self.rollouts: dict[str, Canary] = {}
        """By alias, MODEL_TYPE@TIER."""

    def budget(self, key: str) -> Budget:
        """What a key has spent and may spend."""
        return self._budgets.setdefault(key, Budget(self._max_hourly_usd, self._clock))

    def answered(
        self, decision: Decision, request: ChatRequest, served: Served, answer: Answer, first_ms: float
    ) -> None:
        """A request was answered; `first_ms` is the time until the answer, or a stream's first piece, was there."""
        tier, total_ms = served.route.tier, decision.elapsed_ms
        benchmark = self._selection.benchmarks(decision.model_type).get(tier)
        cost = usd(benchmark, answer.prompt_tokens, answer.completion_tokens) if benchmark else 0.0
        self.budget(decision.key).spend(cost)
        trace = self._trace(decision, tier, request.text, answer, total_ms)
        self._observe_failures(decision, served.hops)
        self._observe(
            decision,
            served.route,
            error=False,
            latency_ms=served.hops[-1].latency_ms,
            score=trace.score if trace else None,
        )
        overhead_ms = first_ms - sum(hop.latency_ms for hop in served.hops)
        self.metrics.overhead.observe(overhead_ms / 1000)
        self.metrics.seconds.labels(tier).observe(total_ms / 1000)
        self.metrics.usd.labels(decision.model_type, tier).inc(cost)
        self.metrics.tokens.labels(tier, "prompt").inc(answer.prompt_tokens)
        self.metrics.tokens.labels(tier, "completion").inc(answer.completion_tokens)
        self._count(decision, tier, "answered")
        self._write_decision(
            decision,
            served.hops,
            outcome="answered",
            usd=cost,
            ms=total_ms,
            overhead_ms=overhead_ms,
            arm=_arm(served.route),
            tokens=[answer.prompt_tokens, answer.completion_tokens],
            **self._embedded(
                decision,
                tier,
                Unanswered=0,
                TokenMs=total_ms / max(1, answer.completion_tokens),
                ResponseStartMs=first_ms,
                AnswerUSD=cost,
                TraceLost=int(trace is None),
                **({} if trace is None or trace.score is None else {"ServedScore": trace.score}),
            ),
        )

    def _embedded(self, decision: Decision, tier: Tier | None, **values: float) -> Mapping[str, JsonValue]:
        """CloudWatch's metrics of a decision line; none without a namespace."""
        if self._namespace is None:
            return {}
        named = {"ModelType": decision.model_type, **({"Tier": str(tier)} if tier else {})}
        return embedded(self._namespace, values, named, time.time())

    def _trace(self, decision: Decision, tier: Tier, prompt: str, answer: Answer, latency_ms: float) -> Trace | None:
        """A disk that is full must not cost an answer that is there; it is counted, and an alarm looks at the count."""
        try:
            return self._traces.write(
                model_type=decision.model_type,
                tier=tier,
                policy=answer.model,
                prompt=prompt,
                completion=answer.text,
                latency_ms=latency_ms,
                scenario=decision.scenario,
                request_id=decision.request_id,
            )
        except OSError:
            self.metrics.faults.labels("trace_lost").inc()
            return None

    def unavailable(self, decision: Decision, error: AllUnavailable) -> None:
        """No tier answered."""
        self._observe_failures(decision, error.hops)
        self._count(decision, None, "unavailable")
        self._write_decision(
            decision,
            error.hops,
            outcome="unavailable",
            reason=str(error),
            **self._embedded(decision, None, Unanswered=1),
        )

    def unfinished(self, decision: Decision, served: Served, error: Unavailable | None) -> None:
        """A stream ended before its answer did: it broke, or its reader went away, which is nobody's fault."""
        if error is not None:
            self._observe(decision, served.route, error=True, latency_ms=decision.elapsed_ms, score=None)
        outcome = "abandoned" if error is None else "broken"
        self._count(decision, served.route.tier, outcome)
        self._write_decision(
            decision,
            served.hops,
            outcome=outcome,
            reason=str(error or "the reader went away"),
            **self._embedded(decision, None, Unanswered=int(error is not None)),
        )

    def _observe_failures(self, decision: Decision, hops: Sequence[Hop]) -> None:
        """Every hop is counted; those that gave no answer are evidence against their arm.

        So is a challenger that cools down, or it would be left alone before there is enough evidence to end it.
        """
        for route, hop in zip(decision.order, hops, strict=False):
            self.metrics.hops.labels(hop.tier, hop.outcome).inc()
            cooling = hop.outcome == HopOutcome.COOLING and _arm(route) == Arm.CHAMPION
            if hop.outcome != HopOutcome.ANSWERED and not cooling:
                self._observe(decision, route, error=True, latency_ms=hop.latency_ms, score=None)

    def _observe(
        self, decision: Decision, route: Route, *, error: bool, latency_ms: float, score: float | None
    ) -> None:
        """Evidence for the rollout on the route, if there is one.

        A session is evidence for its own arm alone: a champion that stands in for a challenger proves nothing.
        """
        rollout = self.rollouts.get(route.alias.removesuffix(CHALLENGER))
        stands_in = Route(tier=route.tier, alias=route.alias + CHALLENGER) in decision.order
        if rollout is not None and decision.session is not None and not stands_in:
            rollout.observe(_arm(route), decision.session, error=error, latency_ms=latency_ms, score=score)

    def _count(self, decision: Decision, tier: Tier | None, outcome: str) -> None:
        self.metrics.requests.labels(decision.model_type, tier or "none", outcome).inc()

    def _write_decision(self, decision: Decision, hops: Sequence[Hop], **facts: JsonValue) -> None:
        """One JSON line a decision: no prompt, no answer, no session."""
        line = {
            "time": round(time.time(), 3),
            "id": decision.request_id,
            "key": decision.key,
            "model_type": decision.model_type,
            "table": decision.table,
            "complexity": decision.complexity,
            "utility": {r.candidate.tier: round(r.utility, 4) for r in decision.ranked},
            "excluded": {r.candidate.tier: r.excluded for r in decision.ranked if r.excluded},
            "hops": [hop.model_dump(exclude_none=True) for hop in hops],
            **facts,
        }
        self._log.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._log.flush()


def _arm(route: Route) -> Arm:
    return Arm.CHALLENGER if route.alias.endswith(CHALLENGER) else Arm.CHAMPION
