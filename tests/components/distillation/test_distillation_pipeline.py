"""Warm-up by forward KL on answers alone, at the temperature that was asked for; then on the student's own words."""

import copy
import json
import random
import shutil

import pytest
import torch
from torch.nn import functional

from components.distillation.distillation_pipeline import answers_to, match_teacher, on_policy, warm_up
from components.distillation.run import check_vocabularies, run
from components.distillation.spec import DistillationConfig
from components.distillation.student import open_student
from components.shared.contracts.environment import Strategy
from components.shared.contracts.errors import PipelineError
from components.shared.contracts.records import Split
from components.shared.contracts.stage import ArtifactKind
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.serving.adapters import ServedBase, check
from components.shared.storage.artifacts import MANIFEST, read_manifest, seal
from components.shared.storage.jsonl import write_jsonl
from components.shared.training.adapters import ADAPTER
from components.shared.training.checkpoints import Checkpoints
from components.shared.training.distributed.learner import create_learner
from components.shared.training.distributed.settings import AdamWSettings
from components.shared.training.distributed.world import World
from components.shared.training.packing import lay_out
from components.shared.training.policies import Policy, deterministic, load_policy, save_policy
from components.shared.training.reference_logprobs import ReferenceLogprobs
from components.shared.training.supervised import example
from components.shared.training.termination import Terminated

TEXTS = [("the bell", "rings at dawn"), ("say yes ; no", "the bell")]


def perturbed(policy, seed, scale=0.3):
    """Another policy of the same shape."""
    other = Policy(model=copy.deepcopy(policy.model), tokenizer=policy.tokenizer)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return other


def learner_of(policy):
    return create_learner(policy.model, Strategy.SINGLE, World(), AdamWSettings())


def matched(student, teacher, config):
    """One update of the warm-up on all of TEXTS."""
    rows = [example(student, prompt, [answer], [1.0]) for prompt, answer in TEXTS]
    tokens = lay_out(rows, 0, torch.device("cpu"), packed=False)
    target = ReferenceLogprobs(teacher, rows, World(), packed=False, temperature=config.temperature)
    return match_teacher(learner_of(student), tokens, target.of(range(len(rows)), tokens), config, 0)


def kl_by_hand(teacher, student, rows, temperature):
    """Row by row, without padding: every token after the prompt, and no token of it."""
    divergences = []
    for row in rows:
        ids, first = torch.tensor([row.prompt_ids + row.completion_ids]), len(row.prompt_ids)
        with torch.no_grad():
            teacher_logits, student_logits = (
                p.model(input_ids=ids).logits[0, first - 1 : -1] for p in (teacher, student)
            )
        logp = functional.log_softmax(teacher_logits / temperature, dim=-1)
        logq = functional.log_softmax(student_logits / temperature, dim=-1)
        divergences += (logp.exp() * (logp - logq)).sum(-1).tolist()
    return sum(divergences) / len(divergences)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_loss_is_the_forward_kl_of_the_completion_tokens_at_the_temperature(tiny_policy, temperature):
    teacher, student = perturbed(tiny_policy, 1), perturbed(tiny_policy, 2)
    rows = [example(student, prompt, [answer], [1.0]) for prompt, answer in TEXTS]
    expected = kl_by_hand(teacher, student, rows, temperature)
    measured = matched(student, teacher, DistillationConfig(temperature=temperature))
    assert measured["forward_kl"] == pytest.approx(expected, rel=1e-4)
    assert abs(expected - kl_by_hand(teacher, student, rows, 3.0)) > 1e-3, "the temperature would not show"


def test_what_a_prompt_says_is_learned_by_nobody(tiny_policy):
    """The gradient is that of the completion tokens: a teacher that differs on prompt tokens alone teaches nothing."""
    student = perturbed(tiny_policy, 2)
    teacher = Policy(model=copy.deepcopy(student.model), tokenizer=student.tokenizer)
    measured = matched(student, teacher, DistillationConfig())
    assert measured["forward_kl"] == pytest.approx(0.0, abs=1e-6) and measured["grad_norm"] == pytest.approx(
        0.0, abs=1e-5
    )


@pytest.fixture
def policies(npc_policy_folder):
    """A teacher that knows the scene, and a student that knows less."""
    deterministic(0)
    teacher = load_policy(npc_policy_folder)
    teacher.model.eval().requires_grad_(False)
    return teacher, perturbed(load_policy(npc_policy_folder), 3, 0.05)


def curve(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_warm_up_brings_the_student_to_its_teacher(policies, npc_dataset, tmp_path):
    teacher, student = policies
    scenarios = list(npc_dataset.scenarios(Split.TRAIN))
    config = DistillationConfig(warmup_steps=30, batch_size=8, learning_rate=3e-3)
    warm_up(student, teacher, scenarios, 20, config, PerformanceTracker(tmp_path))
    losses = [row["forward_kl"] for row in curve(tmp_path)]
    assert len(losses) == 30 and sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_served_answers_are_learned_from_and_only_the_rest_is_asked_for(policies, npc_dataset):
    teacher, _ = policies
    scenarios = list(npc_dataset.scenarios(Split.TRAIN))[:6]
    given = {s.id: f"served {i}" for i, s in enumerate(scenarios) if i % 2}
    answers = answers_to(scenarios, given, teacher, 20, 1.0)
    assert [answers[i] for i in (1, 3, 5)] == ["served 1", "served 3", "served 5"]
    assert all(answers[i] and not answers[i].startswith("served") for i in (0, 2, 4))


@pytest.mark.slow
def test_on_policy_learns_from_the_student_s_words_and_the_temperature_is_in_its_loss(policies, npc_dataset, tmp_path):
    teacher, student = policies
    scenarios = list(npc_dataset.scenarios(Split.TRAIN))[:8]
    before, trained, losses = student.model.state_dict(), {}, {}
    for temperature in (0.5, 2.0):
        learning = Policy(model=copy.deepcopy(student.model), tokenizer=student.tokenizer)
        deterministic(0)
        config = DistillationConfig(onpolicy_steps=3, warmup_steps=1, batch_size=4, temperature=temperature)
        on_policy(learning, teacher, scenarios, 12, config, PerformanceTracker(tmp_path / str(temperature)))
        trained[temperature] = learning.model.state_dict()
        losses[temperature] = [row["onpolicy_divergence"] for row in curve(tmp_path / str(temperature))]
        assert [row["step"] for row in curve(tmp_path / str(temperature))] == [2, 3, 4]
    assert losses[0.5][0] > 0 and losses[0.5][0] != losses[2.0][0]
    assert all(any((before[n] != after[n]).any() for n in before) for after in trained.values())


def test_two_vocabularies_are_refused(tiny_policy, policies):
    with pytest.raises(PipelineError, match="different vocabularies"):
        check_vocabularies(policies[0], tiny_policy)


# ---- the stage -------------------------------------------------------------------------------------------------------

SMALL = {"warmup_steps": 3, "onpolicy_steps": 2, "batch_size": 4, "resamples": 200, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def dataset(npc_dataset, tmp_path_factory):
    """The data set with enough held-out scenarios to resample."""
    folder = tmp_path_factory.mktemp("distillation") / "dataset"
    shutil.copytree(npc_dataset.folder, folder, ignore=shutil.ignore_patterns(MANIFEST))
    trainer = npc_dataset.trainer
    write_jsonl(folder / "scenarios" / "test.jsonl", trainer.scenarios(random.Random(2), 40, [Split.TEST]))
    seal(folder, ArtifactKind.DATASET, dict(npc_dataset.metadata))
    return folder


@pytest.fixture
def distil(dataset, npc_policy_folder, tmp_path):
    """Runs the stage from a student on the champion given; returns its report and its output folders."""

    def go(name="out", champion=None, **changes):
        outputs = {key: tmp_path / name / key for key in ("policy", "report")}
        for folder in outputs.values():
            folder.mkdir(parents=True)
        inputs = dict.fromkeys(("teacher", "student", "champion"), npc_policy_folder)
        inputs |= {"dataset": dataset, **({"champion": champion} if champion else {})}
        report = run(DistillationConfig(**(SMALL | changes)), inputs, outputs)
        seal(outputs["policy"], ArtifactKind.POLICY, {})
        return report, outputs

    return go


@pytest.fixture
def champion(policies, tmp_path):
    """A policy of the student's shape and other weights, sealed."""
    folder = tmp_path / "champion"
    folder.mkdir()
    save_policy(policies[1], folder)
    seal(folder, ArtifactKind.POLICY)
    return folder


@pytest.mark.slow
def test_the_stage_warms_up_and_then_goes_on_policy(distil):
    report, outputs = distil()
    lines = curve(outputs["report"])
    assert [next(iter(row.keys() - {"step", "grad_norm"})) for row in lines] == ["forward_kl"] * 3 + [
        "onpolicy_divergence"
    ] * 2
    assert [row["step"] for row in lines] == [0, 1, 2, 4, 5]
    assert set(report.details["gate"]["criteria"]) == {
        "retention_of_teacher", "retention_by_outcome", "gain_over_champion", "diversity"
    }  # fmt: skip
    assert report.scalars["quality_margin"] == report.details["gate"]["margin"]
    assert report.details["served_answers"] == 0


@pytest.mark.slow
def test_it_starts_from_the_last_student_accepted(distil, champion, npc_policy_folder):
    warm, outputs = distil("warm", champion, warmup_steps=1, onpolicy_steps=0, learning_rate=1e-9)
    assert warm.details["started_from"] == "champion"
    apart = distance(outputs["policy"], champion)
    assert apart < 1e-4 < distance(outputs["policy"], npc_policy_folder)
    cold, outputs = distil("cold", champion, warmup_steps=1, onpolicy_steps=0, learning_rate=1e-9, warm_start=False)
    assert cold.details["started_from"] == "student" and distance(outputs["policy"], npc_policy_folder) < 1e-4


def test_a_champion_of_another_shape_is_no_start(npc_policy_folder, tmp_path):
    folder = tmp_path / "wide"
    folder.mkdir()
    policy = load_policy(npc_policy_folder)
    policy.model.config.num_attention_heads = 4
    save_policy(policy, folder)
    inputs = {"student": npc_policy_folder, "champion": folder}
    assert open_student(inputs, DistillationConfig())[1] == "student"


def distance(folder, other):
    ours, theirs = (load_policy(f).model.state_dict() for f in (folder, other))
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


@pytest.mark.slow
def test_a_lora_student_trains_its_adapter_alone_and_both_come_out(distil, npc_policy_folder):
    report, outputs = distil(lora_rank=4, learning_rate=1e-2)
    policy, adapter = outputs["policy"], outputs["policy"] / ADAPTER
    base = ServedBase.of(npc_policy_folder, "base", max_rank=8)
    assert check(adapter, "npc_dialogue", base).rank == 4, "a server that holds the base takes the adapter"
    assert str(npc_policy_folder) not in (adapter / "adapter_config.json").read_text()
    merged, frozen = load_policy(policy).model.state_dict(), load_policy(npc_policy_folder).model.state_dict()
    changed = {name for name in frozen if (merged[name] != frozen[name]).any()}
    assert changed and all("_proj" in name for name in changed), "embeddings and norms stay"
    assert report.details["started_from"] == "student"

    again, outputs = distil("again", policy, lora_rank=4, warmup_steps=1, onpolicy_steps=0, learning_rate=1e-9)
    assert again.details["started_from"] == "champion", "the adapter last accepted on this base"
    assert distance(outputs["policy"], policy) < 1e-4
    assert read_manifest(outputs["policy"] / ADAPTER).metadata == read_manifest(adapter).metadata
    other, _ = distil("other", policy, lora_rank=2, warmup_steps=1, onpolicy_steps=0)
    assert other.details["started_from"] == "student", "an adapter of another rank cannot go on"


@pytest.mark.slow
def test_a_lora_student_goes_on_where_it_was_stopped(policies, npc_dataset, npc_policy_folder, tmp_path):
    """Stopped between two updates of the warm-up, it ends with the very weights of one that was not."""
    teacher, _ = policies
    scenarios = list(npc_dataset.scenarios(Split.TRAIN))
    config = DistillationConfig(warmup_steps=6, batch_size=4, lora_rank=4, learning_rate=1e-2)
    inputs = {"student": npc_policy_folder, "champion": npc_policy_folder}

    def trained(name, checkpoints, stop_at=None):
        deterministic(0)
        student, _ = open_student(inputs, config)
        if stop_at:
            student.model.register_forward_hook(stopping(stop_at, checkpoints))
        warm_up(student, teacher, scenarios, 12, config, PerformanceTracker(tmp_path / name), checkpoints)
        return {n: p.detach().clone() for n, p in student.model.named_parameters() if p.requires_grad}

    whole = trained("whole", None)
    with pytest.raises(Terminated):
        trained("cut", Checkpoints(folder=tmp_path / "c", every_steps=1), stop_at=4)
    resumed = trained("cut", Checkpoints(folder=tmp_path / "c", every_steps=1))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "cut/metrics.jsonl").read_bytes()


def stopping(call, checkpoints):
    """Ask for an end, as SIGTERM does, in the given call of the model."""
    calls = iter(range(1, 1000))

    def hook(*_):
        if next(calls) == call:
            checkpoints._termination.requested = True

    return hook
