"""The router's cost-quality curve on held-out scenarios, beside random, all-cheapest, all-best and the oracle.

    python -m benchmarks.serving.cost_quality --policy gold=DIR --policy bronze=DIR --model-type npc_dialogue [--out FILE]

The policies answer the same held-out scenarios greedily and the strict checker scores them. Complexity is calibrated on one
half of the scenarios, cut by group, and the router is measured on the other. A request costs its tokens times the policy's
parameters: a million tokens of a billion parameters is USD 0.1 (--usd), about what serving costs on a rented GPU; the
figures to compare are ratios, which do not depend on it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks.measures import Measure, Ratio, publish
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

MAX_TOKENS = 96


def evaluate(
    folders: dict[Tier, Path], trainer: ModelTypeTrainer, scenarios: list[Scenario], usd: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and costs in USD, each (N, T), the tiers from the smallest policy to the largest."""
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
    return np.stack([c[2] for c in columns], axis=1), np.stack([c[3] for c in columns], axis=1)


def measure(scenarios: list[Scenario], scores_NT: np.ndarray, usd_NT: np.ndarray) -> CurveReport:
    """Calibrate on the groups of one half, measure on those of the other."""
    groups = sorted({s.group for s in scenarios})
    first = {group for i, group in enumerate(groups) if i % 2 == 0}
    fit = np.array([s.group in first for s in scenarios])
    texts = np.array([s.prompt for s in scenarios])
    calibration = calibrate(scenarios[0].model_type, list(texts[fit]), list(scores_NT[fit, 0] < scores_NT[fit, -1]))
    hardness = np.array([complexity(calibration, features(text)) for text in texts])
    bins = [quality_by_complexity(hardness[fit], scores_NT[fit, tier]) for tier in range(scores_NT.shape[1])]
    expected = np.array([[expected_quality(b, c) for b in bins] for c in hardness])
    return report(Evaluation(scores_NT=scores_NT[~fit], usd_NT=usd_NT[~fit], expected_NT=expected[~fit]))


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
    parser.add_argument("--policy", action="append", required=True, metavar="TIER=DIR")
    parser.add_argument("--model-type", choices=sorted(MODEL_TYPES), default="npc_dialogue")
    parser.add_argument("--world", default="wrackmere")
    parser.add_argument("--scenarios", type=int, default=1500)
    parser.add_argument("--usd", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    deterministic(options.seed)
    folders = {Tier(name): Path(folder) for name, _, folder in (given.partition("=") for given in options.policy)}
    trainer = create_trainer(options.model_type, options.world)
    scenarios = list(trainer.scenarios(random.Random(options.seed), options.scenarios, [Split.TEST]))
    scores, usd = evaluate(folders, trainer, scenarios, options.usd)
    found = measure(scenarios, scores, usd)
    print(show(found))
    if options.out:
        options.out.write_text(found.model_dump_json(indent=2) + "\n")
    best, router, cost = found.all_best[0], found.apgr, found.cost_at_95
    return publish(
        Measure(
            name=f"cost of 95 % of the best tier's quality, {options.model_type}",
            unit="of its cost",
            ours=cost.mean / best,
            peer=found.cost_at_95_random / best,
            peer_name="at random",
            ratio=Ratio(**{k: getattr(cost, k) / found.cost_at_95_random for k in ("mean", "low", "high")}),
            note=f"oracle {found.cost_at_95_oracle / best:.3g}",
        ),
        Measure(
            name=f"APGR, {options.model_type}",
            unit="",
            ours=router.mean,
            peer=found.apgr_random,
            peer_name="at random",
            ratio=Ratio(**{k: getattr(router, k) / found.apgr_random for k in ("mean", "low", "high")}),
            note=f"oracle {found.apgr_oracle:.3g}",
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
