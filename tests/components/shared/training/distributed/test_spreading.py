"""Real processes over gloo: the same losses as one, a share of the memory, and state that any number of them can take up."""

import json
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from forked import call
from ranks_driver import train
from safetensors.torch import load_file

from components.entrypoints.main import main
from components.shared.contracts.environment import (
    CHECKPOINT_STEPS,
    CHECKPOINTS,
    ECHO_METRICS,
    PROCESSES,
    STRATEGY,
    Strategy,
)
from components.shared.contracts.errors import PipelineError, UsageError
from components.shared.training.distributed.memory import ModelShape, TrainingSetup, memory_use
from components.shared.training.distributed.spreading import assert_spread, decoder_layers, spread
from components.shared.training.distributed.world import World
from components.shared.training.policies import load_policy

TOLERANCE = 1e-5
slow = pytest.mark.slow
whole = pytest.mark.whole
pytestmark = pytest.mark.timeout(1800)


def metrics(report):
    return [json.loads(line) for line in (report / "metrics.jsonl").read_text().splitlines()]


def same_curves(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(reference, abs=TOLERANCE, rel=TOLERANCE)


def same_weights(ours, theirs):
    mine, reference = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert mine.keys() == reference.keys()
    for name, value in reference.items():
        torch.testing.assert_close(mine[name], value, atol=1e-4, rtol=0)


class TrainingStage:
    """A stage by its entry point."""

    def __init__(self, stage, config, dataset, policy, folder, environment):
        self._folder = folder
        path = folder / f"{stage}.yaml"
        path.write_text(config)
        self._arguments = [stage, f"--config={path}", f"--input=dataset={dataset}", f"--input=policy={policy}"]
        self._environment = environment

    def _for(self, name):
        return [*self._arguments, *(f"--output={n}={self._folder / name / n}" for n in ("policy", "report"))]

    def start(self, name, strategy, processes, **variables):
        """As a container starts it: torchrun and all."""
        return subprocess.Popen(
            [sys.executable, "-m", "components", *self._for(name)],
            env={**self._environment, STRATEGY: strategy, PROCESSES: str(processes), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name, strategy, processes, **variables):
        """What torchrun's processes run, to its end."""
        log = self._folder / f"{name}.log"
        call(main, self._for(name), log=log, processes=processes, **{STRATEGY: strategy, **variables})
        return self._folder / name


CONFIG = "{steps: 8, batch_size: 8, learning_rate: 0.02, warmup_steps: 2, patience: 50, validation: {every: 0}}"


@pytest.fixture(scope="module")
def srl(workspace, tmp_path_factory, environment):
    folder = tmp_path_factory.mktemp("srl")
    return TrainingStage("srl", CONFIG, workspace / "dataset", workspace / "teacher", folder, environment)


@pytest.fixture(scope="module")
def srl_alone(srl):
    alone = srl.run("alone", Strategy.SINGLE, 1)
    assert any(row.get("accepted") == 0 for row in metrics(alone / "report")), (
        "undoing must be part of what is compared"
    )
    return alone


@slow
@pytest.mark.parametrize(("strategy", "processes"), [(Strategy.DDP, 2), pytest.param(Strategy.FSDP, 4, marks=whole)])
def test_srl_learns_and_undoes_the_same_on_any_number_of_processes(srl, srl_alone, strategy, processes):
    together = srl.run(f"{strategy}-{processes}", strategy, processes)
    same_curves(metrics(together / "report"), metrics(srl_alone / "report"))
    same_weights(together / "policy", srl_alone / "policy")
    load_policy(together / "policy")


@slow
def test_srl_by_deepspeed_learns_the_same_and_its_state_is_anyone_s(srl, srl_alone, tmp_path):
    """ZeRO-3's flat pieces, stopped half way, are taken up by ZeRO-3 itself and by one process alone."""
    pytest.importorskip("deepspeed", reason="the optional extra `deepspeed` is not installed")
    variables = {CHECKPOINTS: str(tmp_path), CHECKPOINT_STEPS: "3", "DS_ACCELERATOR": "cpu"}
    together = srl.run("zero3", Strategy.DEEPSPEED, 2, **variables)
    same_curves(metrics(together / "report"), metrics(srl_alone / "report"))
    same_weights(together / "policy", srl_alone / "policy")
    for newer in sorted(tmp_path.rglob("step-*"))[1:]:
        shutil.rmtree(newer)
    for name, strategy, processes in (("zero3-resumed", Strategy.DEEPSPEED, 2), ("zero3-alone", Strategy.SINGLE, 1)):
        resumed = srl.run(name, strategy, processes, **variables)
        same_curves(metrics(resumed / "report"), metrics(srl_alone / "report"))
        same_weights(resumed / "policy", srl_alone / "policy")
        for newer in sorted(tmp_path.rglob("step-*"))[1:]:
            shutil.rmtree(newer)


@slow
def test_srl_stopped_on_four_goes_on_with_two_and_with_one(workspace, environment, tmp_path):
    """The order of the samples is the same, or the curves would not be; SIGTERM reaches every process. So are the looks at
    held-out scenarios, which four do not share evenly, and the best look's weights, of which each has kept its part."""
    config = CONFIG.replace("validation: {every: 0}", "validation: {every: 2, scenarios: 5, patience: 9}")
    srl = TrainingStage("srl", config, workspace / "dataset", workspace / "teacher", tmp_path, environment)
    srl_alone = srl.run("alone", Strategy.SINGLE, 1)
    assert sum("validation_score" in row for row in metrics(srl_alone / "report")) == 5
    variables = {CHECKPOINTS: str(tmp_path / "saved"), CHECKPOINT_STEPS: "3", ECHO_METRICS: "1"}
    process = srl.start("stopped", Strategy.FSDP, 4, **variables)
    while '"step": 3' not in process.stdout.readline():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    said = errors.splitlines()[-1]
    assert process.returncode == 143 and said.startswith("error: stopped by SIGTERM after update"), errors
    newest = max((tmp_path / "saved").rglob("step-*"))
    assert len(list(newest.glob("rank-*"))) == 4
    largest = max(p.stat().st_size for p in newest.rglob("*.safetensors"))
    assert largest < 0.6 * sum(p.stat().st_size for p in newest.rglob("*.safetensors")), "each saves its own share"
    for strategy, processes in ((Strategy.FSDP, 2), (Strategy.SINGLE, 1)):
        resumed = srl.run(f"resumed-{processes}", strategy, processes, **{CHECKPOINTS: variables[CHECKPOINTS]})
        same_curves(metrics(resumed / "report"), metrics(srl_alone / "report"))
        same_weights(resumed / "policy", srl_alone / "policy")


@pytest.fixture(scope="module")
def grpo(workspace, tmp_path_factory):
    """Trains by reward; `name` is the run whose checkpoints are taken up."""
    folder = tmp_path_factory.mktemp("grpo")

    def run(name, strategy, processes, steps=6, sampled=False):
        out = folder / name / f"{strategy}-{processes}"
        log = folder / f"{name}-{processes}.log"
        call(train, workspace, out, steps, sampled, log=log, processes=processes, **{STRATEGY: strategy})
        return out

    return run


@pytest.fixture(scope="module")
def grpo_alone(grpo):
    return grpo("alone", Strategy.SINGLE, 1)


@pytest.fixture(scope="module")
def grpo_of_four(grpo):
    return grpo("four", Strategy.FSDP, 4)


def held(out):
    return [json.loads(path.read_text()) for path in sorted(out.glob("rank-*.json"))]


@slow
@pytest.mark.parametrize(("strategy", "processes"), [(Strategy.DDP, 2), (Strategy.FSDP, 4)])
def test_grpo_learns_the_same_and_each_process_holds_its_share(grpo, grpo_alone, request, strategy, processes):
    of_four = strategy == Strategy.FSDP
    together = request.getfixturevalue("grpo_of_four") if of_four else grpo("two", strategy, processes)
    same_curves(metrics(together), metrics(grpo_alone))
    same_weights(together / "policy", grpo_alone / "policy")
    (whole,) = held(grpo_alone)
    share = processes if strategy == Strategy.FSDP else 1
    shape = ModelShape.of(json.loads((grpo_alone / "policy" / "config.json").read_text()))
    setup = TrainingSetup(
        rows=1, prompt_tokens=1, completion_tokens=1, bytes_per_number=4, strategy=strategy, processes=processes
    )
    for rank in held(together):
        assert rank["parameters"] == pytest.approx(memory_use(shape, setup).parameters, rel=0.02), "as planned"
        assert rank["type"] == ("DistributedDataParallel" if strategy == Strategy.DDP else "FSDPLlamaForCausalLM")
        for what in ("parameters", "moments", "reference"):
            assert rank[what] == pytest.approx(whole[what] / share, rel=0.02), what


@slow
def test_grpo_saved_by_four_goes_on_with_two(grpo, grpo_alone, grpo_of_four):
    for newer in sorted((grpo_of_four.parent / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(newer)
    resumed = grpo(grpo_of_four.parent.name, Strategy.FSDP, 2)
    same_curves(metrics(resumed), metrics(grpo_alone))


@slow
@whole
def test_processes_that_sample_on_their_own_stay_in_step(grpo):
    """Answers end at different lengths on different processes; a sharded model must be run equally often on all."""
    assert len(metrics(grpo("sampled", Strategy.FSDP, 2, sampled=True))) == 6


@slow
@pytest.mark.parametrize("strategy", [pytest.param(Strategy.DDP, marks=whole), Strategy.FSDP])
def test_rlvr_s_whole_stage_goes_over_two_processes_and_on_from_their_checkpoint(
    npc_dataset, npc_policy_folder, tmp_path, environment, strategy
):
    """Sampling, hints, probe and watch included; a resumed run ends with the very same policy."""
    config = (
        "{steps: 4, prompts_per_step: 4, group_size: 4, learning_rate: 0.001, sampling: {rounds: 2},"
        " hints: {max_share: 0.5}, watch: {every: 2, prompts: 4}, validation: {every: 2, scenarios: 5}}"
    )
    stage = TrainingStage("rlvr", config, npc_dataset.folder, npc_policy_folder, tmp_path, environment)
    variables = {CHECKPOINTS: str(tmp_path / "checkpoints"), CHECKPOINT_STEPS: "2"}
    whole = stage.run("whole", strategy, 2, **variables)
    rows = metrics(whole / "report")
    assert [row["step"] for row in rows if "rollout_reward" in row] == [1, 2, 3, 4]
    assert all(row["kl_probe"] < 0.6 for row in rows if "kl_probe" in row)
    assert [row["step"] for row in rows if "validation_score" in row] == [0, 2, 4]
    load_policy(whole / "policy")
    before, after = (load_file(folder / "model.safetensors") for folder in (npc_policy_folder, whole / "policy"))
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)
    newest = max((tmp_path / "checkpoints").rglob("step-*"))
    assert len(list(newest.glob("rank-*"))) == 2
    shutil.rmtree(newest)
    resumed = stage.run("resumed", strategy, 2, **variables)
    assert metrics(resumed / "report") == rows
    files = [folder / "policy" / "model.safetensors" for folder in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


@slow
def test_rlvr_by_deepspeed_is_refused_in_one_line(npc_dataset, npc_policy_folder, tmp_path, environment):
    config = "{steps: 1, prompts_per_step: 4}"
    stage = TrainingStage("rlvr", config, npc_dataset.folder, npc_policy_folder, tmp_path, environment)
    process = stage.start("refused", Strategy.DEEPSPEED, 2)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "error: rlvr: SRL_RLVR_STRATEGY = deepspeed: deepspeed is for weighted SRL: train with fsdp" in errors


def test_a_fall_back_to_another_strategy_is_refused(tiny_policy):
    for strategy in (Strategy.DDP, Strategy.FSDP, Strategy.DEEPSPEED):
        with pytest.raises(PipelineError, match=f"{strategy} gave a LlamaForCausalLM"):
            assert_spread(tiny_policy.model, strategy)


def test_several_processes_need_a_strategy_and_layers(tiny_policy):
    assert len(decoder_layers(tiny_policy.model)) == 2
    assert spread(tiny_policy.model, Strategy.FSDP, World()) is tiny_policy.model
    with pytest.raises(UsageError, match="2 processes with strategy single"):
        spread(tiny_policy.model, Strategy.SINGLE, World(size=2))
    with pytest.raises(PipelineError, match="Linear names no decoder layers"):
        decoder_layers(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="3 for 4 processes"):
        World(size=4).share([1, 2, 3], "trajectories")
