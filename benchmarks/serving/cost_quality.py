"""The router's cost-quality curve on held-out scenarios, beside random, all-cheapest, all-best and the oracle.

    python -m benchmarks.serving.cost_quality [--policy gold=DIR --policy bronze=DIR] [--model-type T] [--out FILE]

What serves on this machine (tiers.py) is measured where no policy is given. The policies answer the same held-out scenarios
greedily and the strict checker scores them. Complexity is calibrated on one half of the scenarios, cut by group, and the
router is measured on the other. Where the dearest tier is not surely better than the cheapest, as beside a student that has
kept all of its teacher, there is nothing to route between; then the curve is that of the night before distillation, when the
smaller tiers still served their bases. A request costs its tokens times the policy's parameters: a million tokens of a
billion parameters is USD 0.1 (--usd), about what serving costs on a rented GPU; the figures to compare are ratios, which do
not depend on it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.measures import Measure, Ratio, publish
from benchmarks.serving.tiers import FAMILY, serving_tiers
from components.shared.contracts.errors import GateError
from components.shared.contracts.records import Scenario, Split, Tier
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.performance_tracker import progress
from components.shared.serving.choice import expected_quality
from components.shared.serving.complexity import calibrate, complexity, features, quality_by_complexity
from components.shared.serving.routing_curve import CurveReport, Evaluation, report
from components.shared.storage.artifacts import verify
from components.shared.trainers.base_trainer import ModelTypeTrainer
from components.shared.trainers.trainer_factory import MODEL_TYPES, create_trainer
from components.shared.training.policies import deterministic, load_policy, parameter_count
from components.shared.training.rollouts import complete
from pipelines.cli import guarded

MAX_TOKENS = 96


def evaluate(
    folders: dict[Tier, Path], trainer: ModelTypeTrainer, scenarios: list[Scenario], usd: float
) -> tuple[list[Tier], np.ndarray, np.ndarray]:
    """The tiers from the smallest policy to the largest; scores, and costs in USD, each (N, T)."""
    columns = []
    for tier, folder in progress(list(folders.items()), "tiers"):
        verify(folder, ArtifactKind.POLICY)
        policy = load_policy(folder)
        answers = complete(policy, [s.prompt for s in scenarios], max_tokens=MAX_TOKENS)
        texts = [f"{s.prompt} {answer}" for s, answer in zip(scenarios, answers, strict=True)]
        lengths = np.array([len(ids) for ids in policy.tokenizer(texts)["input_ids"]])
        scores = [trainer.check(s, answer).score for s, answer in zip(scenarios, answers, strict=True)]
        size = parameter_count(policy.model)
        columns.append((size, tier, np.array(scores), lengths * size / 1e9 * usd / 1e6))
    columns.sort(key=lambda column: column[0])
    print("tiers by size:", ", ".join(f"{tier} {size}" for size, tier, *_ in columns), file=sys.stderr)
    scores, usd_NT = (np.stack([column[place] for column in columns], axis=1) for place in (2, 3))
    return [column[1] for column in columns], scores, usd_NT


def measure(scenarios: list[Scenario], scores_NT: np.ndarray, usd_NT: np.ndarray) -> CurveReport:
    """Calibrate on the groups of one half, measure on those of the other. Raises GateError for nothing to route between."""
    gap = scores_NT[:, -1] - scores_NT[:, 0]
    if gap.mean() <= 2 * gap.std() / len(gap) ** 0.5:
        raise GateError(
            f"the dearest tier is better by {gap.mean():.3f}, which may be chance: nothing to route between"
        )
    groups = sorted({s.group for s in scenarios})
    first = {group for i, group in enumerate(groups) if i % 2 == 0}
    fit = np.array([s.group in first for s in scenarios])
    texts = np.array([s.prompt for s in scenarios])
    calibration = calibrate(scenarios[0].model_type, list(texts[fit]), list(scores_NT[fit, 0] < scores_NT[fit, -1]))
    hardness = np.array([complexity(calibration, features(text)) for text in texts])
    bins = [quality_by_complexity(hardness[fit], scores_NT[fit, tier]) for tier in range(scores_NT.shape[1])]
    expected = np.array([[expected_quality(b, c) for b in bins] for c in hardness])
    return report(Evaluation(scores_NT=scores_NT[~fit], usd_NT=usd_NT[~fit], expected_NT=expected[~fit]))


def between(scenarios: list[Scenario], scores_NT: np.ndarray, usd_NT: np.ndarray) -> CurveReport | None:
    """The same, or none where there is nothing to route between, and why is said."""
    try:
        return measure(scenarios, scores_NT, usd_NT)
    except GateError as error:
        print(f"no curve: {error}")
        return None


def show(found: CurveReport) -> str:
    """The report for a terminal; costs as shares of the best tier's alone."""
    a, c, whole = found.apgr, found.cost_at_95, found.all_best[0]
    lines = [
        f"{found.samples} prompts; the best tier alone costs {1e6 * whole:.3f} USD a billion requests: 100 %",
        f"all cheapest        cost {found.all_cheapest[0] / whole:6.1%}   quality {found.all_cheapest[1]:.3f}",
        f"all best            cost {1:6.1%}   quality {found.all_best[1]:.3f}",
        f"APGR                router {a.mean:.3f} [{a.low:.3f}, {a.high:.3f}]   random {found.apgr_random:.3f}"
        f"   oracle {found.apgr_oracle:.3f}",
        f"cost of 95 % quality router {c.mean / whole:.1%} [{c.low / whole:.1%}, {c.high / whole:.1%}]"
        f"   random {found.cost_at_95_random / whole:.1%}   oracle {found.cost_at_95_oracle / whole:.1%}",
    ]
    steps = np.linspace(0, len(found.router) - 1, min(9, len(found.router))).astype(int)
    lines += [
        f"router              cost {x / whole:6.1%}   quality {y:.3f}" for x, y in (found.router[i] for i in steps)
    ]
    return "\n".join(lines)


def main() -> int:
    import random

    parser = argparse.ArgumentParser(description="Measure the router's cost-quality curve.")
    parser.add_argument("--policy", action="append", default=[], metavar="TIER=DIR")
    parser.add_argument("--model-type", choices=sorted(MODEL_TYPES), default="npc_dialogue")
    parser.add_argument("--world", default="wrackmere")
    parser.add_argument("--scenarios", type=int, default=1500)
    parser.add_argument("--usd", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    deterministic(options.seed)
    folders = serving_tiers(options.model_type, options.policy)
    trainer = create_trainer(options.model_type, options.world)
    scenarios = list(trainer.scenarios(random.Random(options.seed), options.scenarios, [Split.TEST]))
    tiers, scores, usd = evaluate(folders, trainer, scenarios, options.usd)
    rows = alone(tiers, scores, usd, options.model_type)
    what, found = options.model_type, between(scenarios, scores, usd)
    if found is None and not options.policy:
        what = f"{what} before distillation"
        bases = {tier: FAMILY / tier for tier in tiers[:-1]}
        tiers, scores, usd = evaluate(bases | {tiers[-1]: folders[tiers[-1]]}, trainer, scenarios, options.usd)
        found = between(scenarios, scores, usd)
    if found is None:
        return publish(*rows)
    print(show(found))
    if options.out:
        options.out.write_text(found.model_dump_json(indent=2) + "\n")
    return publish(*rows, *routed(tiers, found, what))


def alone(tiers: list[Tier], scores_NT: np.ndarray, usd_NT: np.ndarray, model_type: str) -> list[Measure]:
    """What the smallest policy alone costs and is worth, beside the largest."""
    small, large = tiers[0], tiers[-1]
    quality, cost, note = scores_NT.mean(axis=0), usd_NT.mean(axis=0), f"{len(scores_NT)} prompts"
    return [
        Measure(
            name=f"cost of all {small} over all {large}, {model_type}", unit="", ours=cost[0] / cost[-1], note=note
        ),
        Measure(
            name=f"quality of all {small}, {model_type}",
            unit="",
            ours=quality[0],
            peer=quality[-1],
            peer_name=f"all {large}",
            note=note,
        ),
    ]


def routed(tiers: list[Tier], found: CurveReport, what: str) -> list[Measure]:
    """The router beside one that routes at random; the oracle's figure is in the note."""
    best, apgr, cost = found.all_best[0], found.apgr, found.cost_at_95
    return [
        Measure(
            name=f"cost of 95 % of {tiers[-1]}'s quality, {what}",
            unit=f"of all {tiers[-1]}",
            ours=cost.mean / best,
            peer=found.cost_at_95_random / best,
            peer_name="at random",
            ratio=Ratio(**{k: getattr(cost, k) / found.cost_at_95_random for k in ("mean", "low", "high")}),
            note=f"oracle {found.cost_at_95_oracle / best:.3g}, {found.samples} prompts",
        ),
        Measure(
            name=f"APGR, {what}",
            unit="",
            ours=apgr.mean,
            peer=found.apgr_random,
            peer_name="at random",
            ratio=Ratio(**{k: getattr(apgr, k) / found.apgr_random for k in ("mean", "low", "high")}),
            note=f"oracle {found.apgr_oracle:.3g}, {found.samples} prompts",
        ),
    ]


if __name__ == "__main__":
    sys.exit(guarded(main))
