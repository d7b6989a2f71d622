"""The router: every request goes to the tier that is worth it, and what happened is written down.

    complexity of the prompt -> expected quality, cost and time of each tier, from the accepted selection table -> utility,
    under the cost caps and the tiers' health -> the tiers in that order, until one answers -> metrics, a decision line, a
    Trace, and the rollout's evidence

accounting writes it down; chat_api, gate and app are the HTTP face; operations swaps adapters and moves rollouts.
"""

import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from uuid import uuid4

from components.shared.contracts.errors import UsageError, unknown
from components.shared.contracts.records import Tier
from components.shared.contracts.selection import Benchmark
from components.shared.serving.accounting import Accounts, Decision
from components.shared.serving.canary import Arm
from components.shared.serving.chat_api import ChatBody
from components.shared.serving.choice import ChoiceConfig, estimate, rank
from components.shared.serving.complexity import Embedder, complexity, features
from components.shared.serving.dispatch import CHALLENGER, AllUnavailable, Dispatcher, Route, Served
from components.shared.serving.router_config import LimitsConfig
from components.shared.serving.selection_file import Selection
from components.shared.serving.srl_model_adapter import Answer, ChatRequest, Delta, Unavailable


class NotServed(UsageError):
    """A model that nobody serves."""

    status = 404


class OverBudget(UsageError):
    """Every tier is above a cost cap."""

    status = 429


@dataclass(frozen=True, kw_only=True, slots=True)
class Streaming:
    """A stream that has begun."""

    decision: Decision
    model: str
    tier: Tier
    pieces: AsyncGenerator[Delta, None]
    """Read it to its end, or close it: that is when the request counts as over."""
    close: Callable[[], None]
    """Gives the adapter free, also where nothing was read; more than once is no harm."""


class Router:
    """Decides, dispatches, records. One event loop."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        selection: Selection,
        accounts: Accounts,
        *,
        choice: ChoiceConfig,
        limits: LimitsConfig,
        embed: Embedder | None = None,
    ):
        self.dispatcher, self.selection, self.accounts = dispatcher, selection, accounts
        self._choice, self._limits, self._embed = choice, limits, embed

    def decide(self, body: ChatBody, request: ChatRequest, session: str | None, key: str) -> Decision:
        """The tiers in the order to be asked.

        Raises NotServed for an unknown model, OverBudget where every tier costs more than a cap allows.
        """
        started = time.perf_counter()
        model_type, _, pinned = body.model.partition("@")
        benchmarks = self._served(model_type, pinned)
        text = request.text
        calibration = self.selection.calibration(model_type)
        hardness = complexity(calibration, features(text, self._embed)) if calibration else None
        candidates = [
            estimate(
                benchmark,
                complexity=hardness,
                characters=len(text),
                max_tokens=request.max_tokens,
                availability=self.dispatcher.backends[tier].health.availability,
            )
            for tier, benchmark in benchmarks.items()
        ]
        cap = min(self._choice.max_request_usd, body.max_cost_usd or float("inf"), self.accounts.budget(key).left)
        ranked = rank(candidates, self._choice, cap)
        affordable = [r.candidate.tier for r in ranked if r.excluded is None]
        order = [route for tier in affordable for route in self._routes(model_type, tier, session)]
        if not order:
            raise OverBudget(f"{body.model}: {ranked[0].excluded}: raise the cap, or ask for fewer tokens")
        return Decision(
            request_id=uuid4().hex,
            key=key,
            session=session,
            model_type=model_type,
            complexity=hardness,
            ranked=tuple(ranked),
            order=tuple(order),
            table=self.selection.version,
            scenario=body.scenario,
            started=started,
        )

    async def answer(self, body: ChatBody, session: str | None, key: str) -> tuple[Decision, Served[Answer]]:
        """A whole answer. Raises AllUnavailable where no tier answers."""
        request = body.request(self._limits)
        decision = self.decide(body, request, session, key)
        try:
            served = await self.dispatcher.generate(decision.order, request, self._limits.timeout_s)
        except AllUnavailable as error:
            self.accounts.unavailable(decision, error)
            raise
        self.accounts.answered(decision, request, served, served.value, decision.elapsed_ms)
        return decision, served

    async def stream(self, body: ChatBody, session: str | None, key: str) -> Streaming:
        """A stream, once its first piece is there."""
        request = body.request(self._limits)
        decision = self.decide(body, request, session, key)
        try:
            served = await self.dispatcher.stream(decision.order, request, self._limits.timeout_s)
        except AllUnavailable as error:
            self.accounts.unavailable(decision, error)
            raise
        pieces = self._recorded(decision, request, served, decision.elapsed_ms)
        return Streaming(
            decision=decision, model=served.model, tier=served.route.tier, pieces=pieces, close=served.close
        )

    async def _recorded(
        self, decision: Decision, request: ChatRequest, served: Served[AsyncGenerator[Delta, None]], first_ms: float
    ) -> AsyncGenerator[Delta, None]:
        """The stream's pieces; its end is recorded as a whole answer would be."""
        texts: list[str] = []
        ended, fault = False, None
        try:
            async for delta in served.value:
                texts.append(delta.text)
                yield delta
                if delta.finish_reason is not None:
                    ended = True
                    answer = Answer(
                        model=served.model,
                        text="".join(texts),
                        finish_reason=delta.finish_reason,
                        prompt_tokens=delta.prompt_tokens,
                        completion_tokens=delta.completion_tokens,
                    )
                    self.accounts.answered(decision, request, served, answer, first_ms)
        except Unavailable as error:
            fault = error
            raise
        finally:
            served.close()
            if not ended:
                self.accounts.unfinished(decision, served, fault)

    def _served(self, model_type: str, pinned: str) -> dict[Tier, Benchmark]:
        benchmarks = {
            tier: benchmark
            for tier, benchmark in self.selection.benchmarks(model_type).items()
            if tier in self.dispatcher.backends
        }
        if not benchmarks:
            raise NotServed(str(unknown("model", model_type, self.selection.model_types)))
        if not pinned:
            return benchmarks
        if pinned not in benchmarks:
            raise NotServed(str(unknown(f"tier of {model_type}", pinned, map(str, benchmarks))))
        return {Tier(pinned): benchmarks[Tier(pinned)]}

    def _routes(self, model_type: str, tier: Tier, session: str | None) -> list[Route]:
        """The tier's alias, after its challenger's where a rollout has the session. Without a session there is no arm."""
        alias = f"{model_type}@{tier}"
        champion = Route(tier=tier, alias=alias)
        rollout = self.accounts.rollouts.get(alias)
        if rollout is not None and session is not None and rollout.arm(session) == Arm.CHALLENGER:
            return [Route(tier=tier, alias=alias + CHALLENGER), champion]
        return [champion]
