"""One of several processes that train one policy on rewards that leave some groups without a signal."""

import json
from pathlib import Path

from datasets import Dataset
from safetensors.torch import save_file

from components.shared.training.grpo.algorithms import Update, arguments
from components.shared.training.grpo.kl_guard import KLGuard, KLProbe
from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
from components.shared.training.grpo.settings import Algorithm, KLSettings, SamplingSettings
from components.shared.training.policies import load_policy
from components.shared.training.trl_adapter import train_quietly


def reward(completions, index, **_):
    return [0.0 if i == 0 else float(text.count("bell")) for i, text in zip(index, completions, strict=True)]


def train(folder: Path) -> None:
    """Writes FOLDER/rankN.safetensors and what the process decided to FOLDER/rankN.json."""
    policy = load_policy(folder / "anchor")
    probe = KLProbe(load_policy(folder / "anchor"), ["the bell"], max_tokens=6)
    update = Update(
        algorithm=Algorithm.GRPO,
        steps=3,
        seed=0,
        prompts=4,
        group_size=4,
        max_tokens=6,
        learning_rate=1e-2,
        max_grad_norm=1.0,
        beta=0.05,
        temperature=1.0,
    )
    rows = [
        {"prompt": p, "index": i} for i, p in enumerate(["say no", "the bell", "rings", "at dawn", "say yes", "no"])
    ]
    trainer = PolicyOptimizer(
        model=policy.model,
        reward_funcs=[reward],
        args=arguments(update, str(folder / "scratch")),
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        sampling=SamplingSettings(rounds=4),
        guard=KLGuard(probe, KLSettings(target=0.05, ceiling=0.1), beta=0.05),
    )
    train_quietly(trainer)
    rank = trainer.accelerator.process_index
    weights = {name: value.clone() for name, value in policy.model.state_dict().items()}
    save_file(weights, folder / f"rank{rank}.safetensors")
    record = {"stream": trainer.stream.state(), "world": trainer.accelerator.num_processes, "scoring": trainer.scoring}
    (folder / f"rank{rank}.json").write_text(json.dumps(record))
