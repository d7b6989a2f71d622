import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.shared.contracts.errors import GateError, UsageError
from components.shared.contracts.records import Tier
from components.shared.serving.choice import Budget, Candidate, ChoiceConfig, expected_quality, rank
from components.shared.serving.complexity import calibrate, complexity, features
from components.shared.serving.selection_file import Selection, load_selection


def candidate(tier=Tier.GOLD, **changes):
    return Candidate(**{"tier": tier, "quality": 0.5, "usd": 0.001, "ms": 500.0, "availability": 1.0} | changes)


def test_the_specifications_weights_are_the_default():
    config = ChoiceConfig()
    assert (config.quality, config.cost, config.latency, config.availability) == (0.4, 0.25, 0.2, 0.15)
    [only] = rank([candidate(quality=0.8, usd=0.0005, ms=1000.0, availability=0.9)], config, 1.0)
    assert only.utility == pytest.approx(0.4 * 0.8 + 0.25 * 0.75 + 0.2 * 0.8 + 0.15 * 0.9)


@given(
    st.floats(0, 1), st.floats(0, 0.01), st.floats(0, 1e4), st.floats(0, 1),
    st.sampled_from(["quality", "usd", "ms", "availability"]), st.floats(0, 1),
)  # fmt: skip
def test_better_in_one_thing_is_never_ranked_lower(quality, usd, ms, availability, thing, by):
    plain = {"quality": quality, "usd": usd, "ms": ms, "availability": availability}
    better = {
        **plain,
        thing: plain[thing] * (1 - by) if thing in ("usd", "ms") else plain[thing] + (1 - plain[thing]) * by,
    }
    ranked = rank([candidate(Tier.GOLD, **plain), candidate(Tier.SILVER, **better)], ChoiceConfig(), 1.0)
    utilities = {r.candidate.tier: r.utility for r in ranked}
    assert utilities[Tier.SILVER] >= utilities[Tier.GOLD] - 1e-12
    assert all(0 <= utility <= 1 + 1e-9 for utility in utilities.values())


def test_a_tier_above_the_cap_comes_last_and_says_why():
    dear = candidate(Tier.BRONZE, quality=1.0, usd=0.01)
    ranked = rank([dear, candidate(Tier.GOLD, quality=0.1)], ChoiceConfig(), 0.005)
    assert [r.candidate.tier for r in ranked] == [Tier.GOLD, Tier.BRONZE]
    assert "0.010000 USD is above the cap of 0.005000 USD" in ranked[1].excluded


def test_weights_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match=r"sum to 1\.1"):
        ChoiceConfig(quality=0.5)


def test_expected_quality_is_the_bins_joined_by_lines():
    assert [expected_quality([1.0, 0.5], c) for c in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.75, 0.5, 0.5]
    assert expected_quality([0.7], 0.4) == 0.7


def test_an_hours_spending_is_forgotten_after_the_hour():
    now = [0.0]
    budget = Budget(1.0, lambda: now[0])
    budget.spend(0.75)
    now[0] = 1800.0
    budget.spend(0.5)
    assert budget.left == 0.0
    now[0] = 3601.0
    assert budget.left == pytest.approx(0.5)
    now[0] = 9999.0
    assert budget.left == 1.0


def test_complexity_learns_what_the_small_tier_fails_at():
    rng = np.random.default_rng(0)
    texts = [
        " ".join(["bell"] * int(n)) + (" unless not if?" if i % 2 else "")
        for i, n in enumerate(rng.integers(3, 30, 200))
    ]
    failed = [i % 2 == 1 for i in range(200)]
    fitted = calibrate("npc", texts, failed)
    scores = [complexity(fitted, features(text)) for text in texts]
    assert np.mean(scores) == pytest.approx(0.5, abs=0.02)  # calibrated: the mean is the failure rate
    assert min(s for s, f in zip(scores, failed, strict=True) if f) > max(
        s for s, f in zip(scores, failed, strict=True) if not f
    )


def test_an_embedding_adds_what_the_words_alone_do_not_show():
    texts = [f"bell {i % 7}" for i in range(40)]
    failed = [i % 2 == 1 for i in range(40)]
    secret = dict(zip(texts, failed, strict=False))

    def embed(text):
        return [1.0 if secret[text] else -1.0]

    few = texts[:7]
    fitted = calibrate("npc", few * 6, [secret[t] for t in few * 6], embed=embed)
    hard = [complexity(fitted, features(t, embed)) for t in few if secret[t]]
    easy = [complexity(fitted, features(t, embed)) for t in few if not secret[t]]
    assert min(hard) > max(easy)


def test_an_encoder_on_disk_embeds_prompts(tiny_policy, tmp_path):
    from transformers import BertConfig, BertModel

    from components.shared.serving.embeddings import load_embedder

    tiny_policy.tokenizer.save_pretrained(tmp_path)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=13, **size)).save_pretrained(tmp_path)
    embed = load_embedder(tmp_path)
    assert np.linalg.norm(embed("the bell rings")) == pytest.approx(1.0)
    assert embed("the bell rings") == load_embedder(tmp_path)("the bell rings")
    assert not np.allclose(embed("the bell"), embed("say no"))
    assert embed("") == (0.0,) * 8


def test_a_table_calibrated_on_embeddings_needs_them(tmp_path, table):
    made = table(gold=[0.9])
    fitted = calibrate(
        "npc_dialogue", [f"x {i}" for i in range(40)], [i % 2 == 0 for i in range(40)], embed=lambda _: [1.0]
    )
    file = tmp_path / "selection.json"
    file.write_text(made.model_copy(update={"calibrations": (fitted,)}).model_dump_json())
    with pytest.raises(UsageError, match="set `embedding`"):
        Selection(file)
    assert Selection(file, embeds=True).calibration("npc_dialogue") == fitted


def test_calibrating_on_one_kind_alone_is_refused():
    with pytest.raises(GateError, match="0 answered worse"):
        calibrate("npc", ["x"] * 30, [False] * 30)


def test_only_an_accepted_table_routes_and_a_bad_change_leaves_it_in_use(tmp_path, table):
    file = tmp_path / "selection.json"
    file.write_text(table(gold=[0.9], accepted_by=None).model_dump_json())
    with pytest.raises(GateError, match="nobody has accepted"):
        load_selection(file)
    file.write_text(table(gold=[0.9]).model_dump_json())
    selection = Selection(file)
    version = selection.version
    file.write_text("{}")
    with pytest.raises(UsageError, match="benchmarks"):
        selection.refresh()
    assert (selection.version, selection.refresh()) == (version, False)
    file.write_text(table(gold=[0.8]).model_dump_json())
    assert selection.refresh()
    assert selection.benchmarks("npc_dialogue")[Tier.GOLD].quality == 0.8 and selection.version != version
