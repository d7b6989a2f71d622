from components.shared.collaboration.single_calls import draw, retrieve, teach, verify
from components.shared.collaboration.sources import open_retriever
from components.shared.collaboration.teacher_planner import ScriptedTeacher
from components.shared.collaboration.verifier import Verifier
from components.shared.contracts.records import Split
from components.shared.trainers.trainer_factory import create_trainer


def test_the_three_models_answer_one_by_one():
    trainer, retriever = create_trainer("npc_dialogue", "wrackmere"), open_retriever("world:wrackmere")
    scenario = draw(trainer, seed=1)
    assert scenario == draw(trainer, seed=1) != draw(trainer, seed=2) and scenario.split == Split.TRAIN
    found = retrieve(retriever, "who rings the bell", 3)
    assert len(found) == 3 and found[0].score >= found[1].score > 0 and "bell" in found[0].document.text.lower()
    taught = teach(scenario, ScriptedTeacher(trainer), retriever, depth=2)
    assert len(taught.context) == 2 and (taught.usd, taught.tokens) == (0, 0)
    mended = teach(
        scenario, ScriptedTeacher(trainer), retriever, feedback=[f"{t}: mend it" for t in trainer.step_titles]
    )
    verdicts = [verify(trainer, scenario, steps) for steps in (taught.steps, mended.steps, taught.steps[:2])]
    assert verdicts[0] == Verifier(trainer, trainer.pass_score).verify(scenario, taught.steps)
    assert not verdicts[2].passed and verdicts[2].score == 0
