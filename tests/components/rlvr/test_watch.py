from components.rlvr.spec import WatchSettings
from components.rlvr.watch import RewardWatch
from components.shared.contracts.records import Split
from components.shared.performance.performance_tracker import PerformanceTracker
from components.shared.training.policies import load_policy


def test_a_hacked_reward_is_seen(npc_dataset, npc_policy_folder, tmp_path, monkeypatch):
    """The reward starts to pay for anything while the checker stays strict: the watch says so and keeps the model's mode."""
    policy = load_policy(npc_policy_folder)
    scenarios = list(npc_dataset.scenarios(Split.VALIDATION))
    tracker = PerformanceTracker(tmp_path)
    watch = RewardWatch(policy, npc_dataset.trainer, scenarios, 20, WatchSettings(every=5), tracker)

    class State:
        global_step = 5

    policy.model.train()
    watch.on_train_begin(None, State, None)
    watch.on_step_end(None, State, None)
    assert watch.alerts == [] and policy.model.training
    honest = type(npc_dataset.trainer).reward
    monkeypatch.setattr(
        type(npc_dataset.trainer),
        "reward",
        lambda self, scenario, text: type(honest(self, scenario, text))(total=1.0, components={}),
    )
    watch.on_step_end(None, State, None)
    assert [line.split(" ")[2] for line in watch.alerts] == ["disagreement", "reward"]
