"""Two gloo processes train one policy: the same decisions, the same weights, half of the groups each."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from components.shared.contracts.environment import STRATEGY, Strategy
from components.shared.storage.paths import PROJECT
from components.shared.training.policies import save_policy

WORKER = textwrap.dedent(
    """
    import json, sys
    from pathlib import Path
    import torch
    from datasets import Dataset
    from safetensors.torch import save_file
    from components.shared.training.grpo.algorithms import Update, arguments
    from components.shared.training.grpo.kl_guard import KLGuard, KLProbe
    from components.shared.training.grpo.policy_optimizer import PolicyOptimizer
    from components.shared.training.grpo.settings import Algorithm, KLSettings, SamplingSettings
    from components.shared.training.policies import load_policy
    from components.shared.training.trl_adapter import train_quietly

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    policy = load_policy(folder / "anchor")
    probe = KLProbe(load_policy(folder / "anchor"), ["the bell"], max_tokens=6)
    update = Update(
        algorithm=Algorithm.GRPO, steps=3, seed=0, prompts=4, group_size=4, max_tokens=6, learning_rate=1e-2,
        max_grad_norm=1.0, beta=0.05, temperature=1.0,
    )
    def reward(completions, index, **_):
        return [0.0 if i == 0 else float(text.count("bell")) for i, text in zip(index, completions)]
    rows = [{"prompt": p, "index": i} for i, p in enumerate(["say no", "the bell", "rings", "at dawn", "say yes", "no"])]
    trainer = PolicyOptimizer(
        model=policy.model, reward_funcs=[reward], args=arguments(update, str(folder / "scratch")),
        train_dataset=Dataset.from_list(rows), processing_class=policy.tokenizer,
        sampling=SamplingSettings(rounds=4), guard=KLGuard(probe, KLSettings(target=0.05, ceiling=0.1), beta=0.05),
    )
    train_quietly(trainer)
    rank = trainer.accelerator.process_index
    weights = {name: value.clone() for name, value in policy.model.state_dict().items()}
    save_file(weights, folder / f"rank{rank}.safetensors")
    record = {"stream": trainer.stream.state(), "world": trainer.accelerator.num_processes, "scoring": trainer.scoring}
    (folder / f"rank{rank}.json").write_text(json.dumps(record))
    """
)


@pytest.mark.slow
def test_processes_agree_on_every_decision_and_end_with_the_same_weights(tiny_policy, tmp_path):
    (tmp_path / "anchor").mkdir()
    save_policy(tiny_policy, tmp_path / "anchor")
    (tmp_path / "worker.py").write_text(WORKER)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    workers = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "worker.py"), str(tmp_path)],
            env={
                **os.environ,
                "PYTHONPATH": str(PROJECT),
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "ACCELERATE_USE_CPU": "true",
                STRATEGY: Strategy.DDP,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors[0][-3000:]
    first, second = ((tmp_path / f"rank{rank}.json").read_text() for rank in range(2))
    assert first == second and '"world": 2' in first and "shared_prefix" in first
    weights, others = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(value, others[name]) for name, value in weights.items())
    before = tiny_policy.model.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in weights.items())
