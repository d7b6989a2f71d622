"""What a policy costs and brings beside another: USD, quality, speed, hardware, and when its training has paid for itself.

    saving a request      = USD a request of the baseline - USD a request of the option
    break-even            = training USD / saving a request                               [requests]
    hosting break-even    = USD a month of the option's machine / USD a request of the baseline  [requests a month]

Every field's name ends in its unit. A machine costs the same whether it is used or not, so what a token costs is its hourly
price over the tokens that it writes in the share of the hour in which it is used.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from pydantic import Field

from components.shared.contracts.errors import UsageError
from components.shared.contracts.records import Record, Tier
from components.shared.contracts.selection import Benchmark, Measured
from components.shared.selection.prices import Prices

HOURS_A_MONTH = 730.0
"""Of a mean month, as AWS counts."""
OVERHEAD = 1.2
"""GPU memory beside the weights, as a factor: key-value cache and activations at moderate load (a rule of thumb)."""


class Traffic(Record):
    """What is asked of a policy."""

    requests_a_month: float = Field(gt=0)
    input_tokens: float = Field(gt=0)
    """Mean tokens of a prompt."""
    output_tokens: float = Field(gt=0)
    """Mean tokens of an answer."""
    utilisation: float = Field(gt=0, le=1)
    """Share of the hour in which a machine is used at the load that it was measured at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A policy with what is known of it."""

    benchmark: Benchmark
    measured: Measured
    training_usd: float
    """What making it cost: the jobs' billed time at their price, and the teacher."""
    usd_per_hour: float
    """Of the machine that serves it."""


class Hardware(Record):
    """Whether the weights fit where the policy is to serve."""

    needed_gib: float
    present_gib: float
    """GPU memory of the machine; its main memory where it has no GPU."""
    fits: bool


class Sensitivity(Record):
    """How the break-even moves with one input, the others held."""

    what: str
    low: float
    high: float
    unit: str
    break_even_low_requests: float | None
    """With the low value; none where training never pays for itself."""
    break_even_high_requests: float | None


class CostBenefit(Record):
    """An option beside a baseline."""

    option: str
    baseline: str
    """Digests of the two policies."""
    tier: Tier
    usd_per_thousand_requests: float
    baseline_usd_per_thousand_requests: float
    saving_usd_per_month: float
    """Negative where the option is dearer."""
    quality_difference: float
    """Held-out score of the option less the baseline's."""
    quality_difference_low: float
    """The least that it may be: lower bound of the option less the baseline's mean."""
    answer_ms: float
    baseline_answer_ms: float
    training_usd: float
    break_even_requests: float | None
    """Requests after which training has paid for itself; none where it never does."""
    break_even_months: float | None
    hosting_usd_per_month: float
    hosting_break_even_requests_per_month: float | None
    """Requests a month from which a machine of its own costs less than the baseline's price a request; none where the
    baseline costs nothing."""
    hardware: Hardware
    sensitivity: tuple[Sensitivity, ...]
    """The input that matters most first."""


def option(benchmark: Benchmark, measured: Measured, training_usd: float, prices: Prices) -> Option:
    """A policy as an option. Raises UsageError where the two speak of different policies or the machine has no price."""
    if benchmark.policy != measured.policy:
        raise UsageError(
            f"benchmark of {benchmark.policy[:12]}, measurement of {measured.policy[:12]}: pass one policy's"
        )
    hourly = prices.of(measured.instance).usd_per_hour
    return Option(benchmark=benchmark, measured=measured, training_usd=training_usd, usd_per_hour=hourly)


def analyze(
    choice: Option, baseline: Option, traffic: Traffic, prices: Prices, instances: Mapping[str, Mapping[str, float]]
) -> CostBenefit:
    """`choice` beside `baseline` under the same traffic; `instances` holds each machine's memory, as instances.yaml says."""
    ours, theirs = request_usd(choice, traffic), request_usd(baseline, traffic)
    requests = break_even_requests(choice, baseline, traffic)
    hosting = choice.usd_per_hour * HOURS_A_MONTH
    return CostBenefit(
        option=choice.benchmark.policy,
        baseline=baseline.benchmark.policy,
        tier=choice.benchmark.tier,
        usd_per_thousand_requests=1000 * ours,
        baseline_usd_per_thousand_requests=1000 * theirs,
        saving_usd_per_month=(theirs - ours) * traffic.requests_a_month,
        quality_difference=choice.benchmark.quality - baseline.benchmark.quality,
        quality_difference_low=choice.benchmark.quality_low - baseline.benchmark.quality,
        answer_ms=answer_ms(choice, traffic),
        baseline_answer_ms=answer_ms(baseline, traffic),
        training_usd=choice.training_usd,
        break_even_requests=requests,
        break_even_months=None if requests is None else requests / traffic.requests_a_month,
        hosting_usd_per_month=hosting,
        hosting_break_even_requests_per_month=hosting / theirs if theirs else None,
        hardware=hardware(choice.measured, instances),
        sensitivity=sensitivity(choice, baseline, traffic, prices),
    )


def request_usd(choice: Option, traffic: Traffic) -> float:
    """What one request costs, in USD."""
    seconds = (
        traffic.input_tokens / choice.measured.input_tokens_per_s
        + traffic.output_tokens / choice.measured.output_tokens_per_s
    )
    return choice.usd_per_hour / 3600 * seconds / traffic.utilisation


def answer_ms(choice: Option, traffic: Traffic) -> float:
    """Time of a whole answer."""
    return choice.measured.first_token_ms + traffic.output_tokens * choice.measured.token_ms


def break_even_requests(choice: Option, baseline: Option, traffic: Traffic) -> float | None:
    """Requests after which what is saved has paid for the training; none where nothing is saved."""
    saving = request_usd(baseline, traffic) - request_usd(choice, traffic)
    return choice.training_usd / saving if saving > 0 else None


def hardware(
    measured: Measured, instances: Mapping[str, Mapping[str, float]], bytes_a_parameter: float = 2
) -> Hardware:
    """Memory for the weights, in bf16 by default, with `OVERHEAD`, and what the machine has.

    Raises UsageError for a machine of unknown sizes.
    """
    if measured.instance not in instances:
        raise UsageError(f"no sizes of instance type {measured.instance!r}: add it to configs/instances.yaml")
    sizes = instances[measured.instance]
    present = sizes.get("gpus", 0) * sizes.get("gpu_memory_gib", 0) or sizes["memory_gib"]
    needed = OVERHEAD * measured.parameters * bytes_a_parameter / 2**30
    return Hardware(needed_gib=needed, present_gib=present, fits=needed <= present)


def sensitivity(choice: Option, baseline: Option, traffic: Traffic, prices: Prices) -> tuple[Sensitivity, ...]:
    """The break-even with each input at both ends of its range: prices as sources disagree, the rest halved and doubled."""

    def training(usd: float) -> float | None:
        return break_even_requests(replace(choice, training_usd=usd), baseline, traffic)

    def price(instance: str, usd: float) -> float | None:
        ours, theirs = (
            replace(o, usd_per_hour=usd) if o.measured.instance == instance else o for o in (choice, baseline)
        )
        return break_even_requests(ours, theirs, traffic)

    def asked(field: str, value: float) -> float | None:
        return break_even_requests(choice, baseline, traffic.model_copy(update={field: value}))

    used, length = traffic.utilisation, traffic.output_tokens
    found = [
        _ends("training", "USD", _halved_and_doubled(choice.training_usd), training),
        _ends("length of an answer", "tokens", _halved_and_doubled(length), partial(asked, "output_tokens")),
        _ends("utilisation", "share of the hour", (used / 2, min(1.0, 2 * used)), partial(asked, "utilisation")),
    ]
    machines = dict.fromkeys(o.measured.instance for o in (choice, baseline))
    found += [_ends(name, "USD/h", prices.of(name).range, partial(price, name)) for name in machines]
    return tuple(sorted(found, key=_spread, reverse=True))


def _ends(what: str, unit: str, span: tuple[float, float], change: Callable[[float], float | None]) -> Sensitivity:
    low, high = span
    return Sensitivity(
        what=what,
        low=low,
        high=high,
        unit=unit,
        break_even_low_requests=change(low),
        break_even_high_requests=change(high),
    )


def _halved_and_doubled(value: float) -> tuple[float, float]:
    return value / 2, value * 2


def _spread(found: Sensitivity) -> float:
    """How far apart the two ends are; an end that is never reached is infinitely far."""
    ends = (found.break_even_low_requests, found.break_even_high_requests)
    if None in ends:
        return 0.0 if ends == (None, None) else float("inf")
    return abs(ends[1] - ends[0])  # type: ignore[operator]
