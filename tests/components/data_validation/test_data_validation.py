import json
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data_validation.decide import decide
from components.data_validation.examine import Examiner
from components.data_validation.findings import fate
from components.data_validation.spec import SPEC, DataValidationConfig
from components.entrypoints.execution import Request, execute
from components.shared.collaboration.example_generator import generate_scenarios
from components.shared.contracts.errors import GateError, PipelineError
from components.shared.contracts.records import Rejected, Scenario, Split, Trajectory, content_id
from components.shared.contracts.stage import ArtifactKind
from components.shared.storage.artifacts import seal, verify
from components.shared.trainers.base_trainer import Habits
from components.shared.trainers.trainer_factory import create_trainer
from components.shared.training.datasets import Dataset, origin

FLAWLESS = Habits(visible=1.0, hidden=1.0, noise=0.0)
COUNTS = {Split.TRAIN: 30, Split.VALIDATION: 8, Split.TEST: 12}
SMALL = {"min_train": 1, "min_test": 1, "max_quarantined": 1.0}
EARLIER = Rejected(stage="verification", rule="verifier", reason="0.3", record={"id": "x"})


@pytest.fixture(scope="module")
def trainer():
    return create_trainer("npc_dialogue", "wrackmere")


@pytest.fixture(scope="module")
def scenarios(trainer):
    return [s for drawn in generate_scenarios(trainer, COUNTS, 1).values() for s in drawn]


@pytest.fixture(scope="module")
def clean(trainer, scenarios):
    """Lines of trajectories that are all sound."""
    rng = random.Random(1)
    return [line(answer(trainer, s, rng)) for s in scenarios if s.split != Split.TEST]


def answer(trainer, scenario, rng, habits=FLAWLESS):
    steps = trainer.demonstrate(scenario, rng, habits)
    trajectory = trainer.trajectory(scenario, steps, teacher="t", context=("bell",), attempt=1)
    verdict = trainer.verify(scenario, steps).model_copy(update={"passed": True})
    return trajectory.model_copy(update={"verdict": verdict})


def line(record):
    return record.model_dump_json().encode()


def validate(folder, trainer, trajectories, scenario_lines, **config):
    source = folder / "verified"
    source.mkdir(parents=True)
    for name, content in (
        ("trajectories", trajectories),
        ("scenarios", scenario_lines),
        ("quarantine", [line(EARLIER)]),
    ):
        (source / f"{name}.jsonl").write_bytes(b"".join(item + b"\n" for item in content))
    seal(source, ArtifactKind.TRAJECTORIES, origin(trainer, "wrackmere"))
    outputs = {"dataset": folder / "dataset", "report": folder / "report"}
    return execute(Request(spec=SPEC, config={**SMALL, **config}, inputs={"verified": source}, outputs=outputs))


def quarantine(folder):
    lines = (folder / "dataset" / "quarantine.jsonl").read_bytes().splitlines()
    return [Rejected.model_validate_json(item) for item in lines]


def edited(change):
    """A corruption of the record as JSON."""

    def operator(raw):
        record = json.loads(raw)
        change(record)
        return json.dumps(record).encode()

    return operator


CORRUPTIONS = {
    "json": [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: raw + b"}",
    ],
    "encoding": [lambda raw: raw.replace(b"t", b"\xff", 1)],
    "duplicate_key": [lambda raw: raw[:-1] + b', "id": "again"}'],
    "nesting": [lambda raw: b"[" * 3000],
    "not_finite": [
        edited(lambda r: r["steps"][0].update(reward=float("nan"))),
        edited(lambda r: r["scenario"]["state"].update(extra=float("inf"))),
        lambda raw: raw.replace(b'"action":{', b'"action":{"x":1e999,', 1),
    ],
    "schema": [
        lambda raw: b"null",
        edited(lambda r: r.pop("steps")),
        edited(lambda r: r.update(mood="gay")),
        edited(lambda r: r.update(attempt="one")),
        edited(lambda r: r["scenario"].update(split="exam")),
        edited(lambda r: r["steps"][0].update(index="1")),
        edited(lambda r: r.update(steps=[])),
    ],
    "range": [
        edited(lambda r: r["steps"][0].update(reward=1.01)),
        edited(lambda r: r["steps"][-1].update(reward=-0.01)),
        edited(lambda r: r["scenario"].update(difficulty=2)),
        edited(lambda r: r["verdict"].update(score=1e9)),
    ],
    "id": [
        edited(lambda r: r.update(id="0" * 16)),
        edited(lambda r: r["steps"][0].update(text="something else")),
        edited(lambda r: r["scenario"].update(id="0" * 16)),
        edited(lambda r: r["scenario"]["state"].update(extra="news")),
    ],
    "steps": [
        edited(lambda r: r["steps"][0].update(index=2)),
        edited(lambda r: r["steps"][1].update(title="dance")),
        edited(lambda r: r["steps"][-1].update(index=99)),
    ],
    "unverified": [
        edited(lambda r: r.update(verdict=None)),
        edited(lambda r: r["verdict"].update(passed=False)),
    ],
    "split": [
        edited(lambda r: r["scenario"].update(split="test")),
        edited(lambda r: r["scenario"].update(group="wilmot/crypt")),
    ],
    "model_type": [edited(lambda r: r["scenario"].update(model_type="reasoning"))],
    "unknown_scenario": [edited(lambda r: r["scenario"].update(prompt="another prompt ="))],
}
OPERATORS = [(rule, operator) for rule, operators in CORRUPTIONS.items() for operator in operators]


class Bench:
    """The stage's two phases over lines in memory."""

    def __init__(self, trainer, folder, scenario_lines, **config):
        self.config = DataValidationConfig(**{**SMALL, **config})
        self.examiner = Examiner(self.config, trainer)
        self.folder = folder
        self.scenarios = self.examiner.scenarios(scenario_lines, folder)

    def sift(self, lines):
        """Kept lines in order, and refused records."""
        sifted = self.examiner.trajectories(lines, self.scenarios, self.folder)
        decision = decide(self.config, sifted.rows)
        kept = [sifted.spool.read(row.place) for row in decision.kept]
        refused = [Rejected.model_validate_json(item) for _, _, item in sifted.refused.ordered()]
        gone = [(rule, sifted.spool.read(row.place)) for row, rule, _ in decision.gone]
        assert len(kept) + len(refused) + len(gone) == sifted.read == len(lines)
        return kept, [r.rule for r in refused] + [rule for rule, _ in gone], refused


def of_scenarios(trainer, folder, lines):
    """The kept scenarios by split and the rules that refused the others."""
    sifted = Examiner(DataValidationConfig(), trainer).scenarios(lines, folder)
    kept = {s: [Scenario.model_validate_json(item) for item in sifted.spool.read_all(sifted.kept[s])] for s in Split}
    return kept, [rule for rule, _, _ in sifted.refused.ordered()]


@pytest.fixture(scope="module")
def bench(trainer, scenarios, tmp_path_factory):
    return Bench(trainer, tmp_path_factory.mktemp("work"), [line(s) for s in scenarios])


def test_sound_records_are_kept_byte_for_byte(tmp_path, trainer, scenarios, clean):
    report = validate(tmp_path, trainer, clean, [line(s) for s in scenarios])
    dataset = Dataset.open(tmp_path / "dataset")
    for split in (Split.TRAIN, Split.VALIDATION):
        assert {line(t) for t in dataset.trajectories(split)} == {
            raw for raw in clean if Trajectory.model_validate_json(raw).scenario.split == split
        }
    assert {s.id for split in Split for s in dataset.scenarios(split)} == {s.id for s in scenarios}
    assert quarantine(tmp_path) == [EARLIER]
    metadata = verify(tmp_path / "dataset", ArtifactKind.DATASET).metadata
    assert metadata["counts"] == {
        "train_trajectories": 30,
        "validation_trajectories": 8,
        "train_scenarios": 30,
        "validation_scenarios": 8,
        "test_scenarios": 12,
    }
    assert json.loads((tmp_path / "dataset" / "validation.json").read_text()) == report.details
    assert report.details["carried"] == {"verification/verifier": 1}


@pytest.mark.parametrize(("rule", "operator"), OPERATORS, ids=[f"{r}-{i}" for i, (r, _) in enumerate(OPERATORS)])
def test_each_corruption_is_refused_by_its_rule(bench, clean, rule, operator):
    kept, rules, refused = bench.sift([operator(clean[0]), *clean[1:]])
    assert rules == [rule] and refused[0].reason
    assert sorted(kept) == sorted(clean[1:])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    damage=st.dictionaries(st.integers(0, 37), st.sampled_from(OPERATORS), max_size=20),
    doubled=st.lists(st.integers(0, 37), max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_kept_and_quarantined_add_up_and_order_changes_nothing(bench, clean, damage, doubled, order):
    source = [damage[i][1](raw) if i in damage else raw for i, raw in enumerate(clean)]
    source += [source[i] for i in doubled]
    kept, rules, refused = bench.sift(source)
    assert sorted(kept) == sorted(raw for i, raw in enumerate(clean) if i not in damage)
    expected = Counter(damage[i][0] for i in damage) + Counter(
        damage[i][0] if i in damage else "duplicate" for i in doubled
    )
    assert Counter(rules) == expected

    order.shuffle(source)
    again = bench.sift(source)
    assert again[0] == kept and again[2] == refused and Counter(again[1]) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b), max_size=6))
def test_no_bytes_at_all_are_lost_or_accepted(bench, clean, noise):
    kept, _, refused = bench.sift([*noise, *clean])
    assert sorted(kept) == sorted(clean) and len(refused) == len(noise)
    for rejected in refused:
        assert Rejected.model_validate_json(line(rejected)) == rejected


def test_any_order_gives_the_same_bytes(tmp_path, trainer, scenarios, clean):
    mixed = [*clean[1:], OPERATORS[0][1](clean[0]), *clean[5:9]]
    scenario_lines = [line(s) for s in scenarios] + [b"?", line(scenarios[0])]
    validate(tmp_path / "a", trainer, mixed, scenario_lines)
    validate(tmp_path / "b", trainer, mixed[::-1], scenario_lines[::-1])
    files = [verify(tmp_path / run_id / "dataset").files for run_id in "ab"]
    assert files[0] == files[1]
    pages = [(tmp_path / run_id / "report" / "report.html").read_text() for run_id in "ab"]
    assert pages[0] == pages[1] and "duplicate" in pages[0]
    assert files[0]["quarantine.jsonl"] and not (tmp_path / "a" / "dataset" / "work").exists()


def test_the_best_scored_of_equal_answers_stays(bench, clean):
    best = Trajectory.model_validate_json(clean[0])
    lesser = best.model_copy(update={"verdict": best.verdict.model_copy(update={"score": 0.8}), "attempt": 2})
    shouted = best.model_copy(
        update={"steps": tuple(s.model_copy(update={"text": s.text.upper()}) for s in best.steps), "attempt": 3}
    )
    shouted = shouted.model_copy(update={"id": content_id(best.scenario.id, [s.text for s in shouted.steps])})
    kept, rules, _ = bench.sift([line(lesser), line(best)])
    assert kept == [clean[0]] and rules == ["duplicate"]
    kept, rules, _ = bench.sift([line(shouted), line(lesser)])
    assert len(kept) == 1 and rules == ["duplicate"]


def test_near_duplicates_are_told_by_likeness_for_one_prompt(trainer, scenarios, clean, tmp_path):
    one = Trajectory.model_validate_json(clean[0])
    last = one.steps[-1]
    more = last.model_copy(update={"text": f"{last.text} {trainer.vocabulary()[-1]}"})
    other = one.model_copy(update={"steps": (*one.steps[:-1], more)})
    other = other.model_copy(update={"id": content_id(one.scenario.id, [s.text for s in other.steps])})
    scenario_lines = [line(s) for s in scenarios]
    kept, rules, _ = Bench(trainer, tmp_path, scenario_lines, near_duplicate=0.9).sift([line(other), clean[0]])
    assert rules == ["near_duplicate"] and len(kept) == 1
    assert len(Bench(trainer, tmp_path, scenario_lines, near_duplicate=1.0).sift([line(other), clean[0]])[0]) == 2


def test_a_worked_answer_to_a_test_scenario_is_contamination(trainer, scenarios, clean, bench):
    held_out = line(answer(trainer, scenarios[0], random.Random(0)))
    assert scenarios[0].split == Split.TEST
    kept, rules, _ = bench.sift([held_out, *clean])
    assert rules == ["contamination"] and len(kept) == len(clean)


def test_a_test_prompt_in_training_is_contamination_in_both_files(tmp_path, trainer, scenarios, clean):
    test, train = scenarios[0], scenarios[-1]
    leaked = train.model_copy(update={"prompt": f" {test.prompt.upper()} "})
    lines = [line(leaked if s is train else s) for s in scenarios]
    worked = Trajectory.model_validate_json(clean[-1]).model_copy(update={"scenario": leaked})
    validate(tmp_path, trainer, [*clean[:-1], line(worked)], lines)
    refused = quarantine(tmp_path)[1:]
    assert [r.rule for r in refused] == ["contamination", "contamination"]
    assert {r.reason for r in refused} == {"train repeats a prompt of test"}


def test_a_test_scenario_under_a_training_group_is_contamination(tmp_path, trainer, scenarios):
    train = next(s for s in scenarios if s.split == Split.TRAIN)
    moved = scenarios[0].model_copy(update={"group": train.group, "split": Split.TRAIN})
    kept, rules = of_scenarios(trainer, tmp_path, [line(s) for s in [*scenarios, moved]])
    assert rules == ["contamination"] and scenarios[0] in kept[Split.TEST]


def test_a_group_in_two_splits_is_refused_where_it_does_not_belong(tmp_path, trainer, scenarios):
    moved = scenarios[0].model_copy(update={"split": Split.TRAIN})
    kept, rules = of_scenarios(trainer, tmp_path, [line(s) for s in [*scenarios, moved]])
    assert rules == ["split"]
    groups = {split: {s.group for s in kept[split]} for split in Split}
    assert not groups[Split.TEST] & (groups[Split.TRAIN] | groups[Split.VALIDATION])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"min_train": 31}, "30 training trajectories, min_train = 31 needed: generate more"),
        ({"min_test": 13}, "12 held-out scenarios, min_test = 13 needed: generate more"),
    ],
)
def test_too_little_stops_the_night(tmp_path, trainer, scenarios, clean, config, message):
    with pytest.raises(GateError, match=message):
        validate(tmp_path, trainer, clean, [line(s) for s in scenarios], **config)
    assert not (tmp_path / "dataset").exists()


def test_too_much_refused_stops_the_night(tmp_path, trainer, scenarios, clean):
    bad = [b"?"] * 39
    with pytest.raises(GateError, match=r'51% of 77 trajectories refused.*max_quarantined = 50%.*"json":39'):
        validate(tmp_path, trainer, clean + bad, [line(s) for s in scenarios], max_quarantined=0.5)


def test_a_record_that_goes_missing_is_noticed():
    with pytest.raises(PipelineError, match="trajectories: 1 kept and 0 refused of 2 read"):
        fate("trajectories", 2, 1, 0)


def test_a_changed_world_is_refused(tmp_path, trainer, scenarios, clean):
    validate(tmp_path, trainer, clean, [line(s) for s in scenarios])
    dataset = tmp_path / "dataset"
    (dataset / "manifest.json").unlink()
    seal(dataset, ArtifactKind.DATASET, {**origin(trainer, "wrackmere"), "world_digest": "0" * 64})
    with pytest.raises(PipelineError, match="made from 000000000000: restore that world"):
        Dataset.open(dataset)


@pytest.fixture(scope="module")
def nights(trainer):
    """Two nights' lines by one expert, and a third's whose scenarios are the harder half of what was drawn."""
    drawn = [list(trainer.scenarios(random.Random(seed), 500, [Split.TRAIN])) for seed in (1, 2, 3)]
    drawn[2] = [scenario for scenario in drawn[2] if scenario.difficulty >= 0.6]
    test = list(trainer.scenarios(random.Random(4), 5, [Split.TEST]))
    rng = random.Random(5)
    return [([line(answer(trainer, s, rng)) for s in night], [line(s) for s in (*night, *test)]) for night in drawn]


def test_a_night_like_the_last_accepted_one_passes_and_a_drifted_one_is_blocked(tmp_path, trainer, nights):
    first, second, drifted = nights
    validate(tmp_path / "one", trainer, *first)
    accepted = str(tmp_path / "one" / "dataset" / "profile.json")
    report = validate(tmp_path / "two", trainer, *second, accepted=accepted)
    assert 0 < report.metrics["psi_difficulty"] < 0.1 and "drift" not in report.summary
    with pytest.raises(
        GateError, match=r"^difficulty has drifted .* PSI [\d.]+, drift.block = 0.25: .*accepted=none"
    ) as e:
        validate(tmp_path / "three", trainer, *drifted, accepted=accepted)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "three" / "dataset").exists()


def test_what_a_night_is_compared_with_changes_nothing_in_its_data_set(tmp_path, trainer, nights):
    first, second, _ = nights
    validate(tmp_path / "one", trainer, *first)
    validate(tmp_path / "alone", trainer, *second)
    validate(tmp_path / "two", trainer, *second, accepted=str(tmp_path / "one" / "dataset" / "profile.json"))
    alone, compared = (verify(tmp_path / name / "dataset") for name in ("alone", "two"))
    assert compared.digest == alone.digest
    assert verify(tmp_path / "two" / "report").digest != verify(tmp_path / "alone" / "report").digest


@pytest.mark.parametrize(
    ("text", "fault"), [(None, "no file"), ('{"rows": -1}', "is no profile"), ("", "is no profile")]
)
def test_an_accepted_night_that_cannot_be_read_blocks(tmp_path, trainer, nights, text, fault):
    accepted = tmp_path / "profile.json"
    if text is not None:
        accepted.write_text(text)
    with pytest.raises(PipelineError, match=fault):
        validate(tmp_path / "two", trainer, *nights[1], accepted=str(accepted))
