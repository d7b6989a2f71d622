"""What a change of the rules means: which model types were trained by rules that no longer hold (`srl-rlvr rules retrain`);
and whether the rules do what the examples beside them say (`srl-rlvr rules test`)."""

from collections.abc import Sequence
from dataclasses import dataclass

from components.shared.collaboration.rules_engine import RulesEngine
from components.shared.collaboration.world import World
from components.shared.contracts.records import Record, Tier
from components.shared.storage.places import get_text, names, put_text


class RulesVersions(Record):
    """The version of the rules that concern each model type, as a night was trained by them."""

    world: str
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class RulesCheck:
    """What testing a world's rules found."""

    rules: int
    examples: int
    faults: tuple[str, ...]
    """One line for each example that does not come out as written: file, line, rule, and what was found."""


def rules_versions(world: World) -> RulesVersions:
    """The versions in force. Rewording a message or adding an example changes none."""
    model_types = sorted({name for rule in world.rules for name in rule.model_types})
    return RulesVersions(
        world=world.name, versions={name: RulesEngine(world.rules_for(name)).version for name in model_types}
    )


def need_retraining(trained: RulesVersions, now: RulesVersions) -> tuple[str, ...]:
    """Model types whose rules differ from those that they were trained by, new ones included."""
    names: Sequence[str] = sorted(trained.versions.keys() | now.versions.keys())
    return tuple(name for name in names if trained.versions.get(name) != now.versions.get(name))


def request_retraining(nights: str, world: World) -> tuple[str, ...]:
    """Ask the nightly machine for a Bronze of each model type whose rules are not those that were noted last, and note them.

    `nights` is the machine's folder or s3:// prefix: the versions lie in rules/WORLD.json there, a request is an object
    requests/MODELTYPE/bronze/rules-VERSION. Where nothing was noted yet, nothing is asked for.
    """
    nights, now = nights.rstrip("/"), rules_versions(world)
    place = f"{nights}/rules/{world.name}.json"
    known = f"{world.name}.json" in names(f"{nights}/rules")
    due = need_retraining(RulesVersions.model_validate_json(get_text(place)), now) if known else ()
    for model_type in due:
        version = now.versions.get(model_type, "none")
        put_text(f"{nights}/requests/{model_type}/{Tier.BRONZE}/rules-{version}", "")
    put_text(place, now.model_dump_json(indent=1) + "\n")
    return due


def check_rules(world: World) -> RulesCheck:
    """Run every example of every rule. Raises UsageError naming file, line and fault of a malformed rule."""
    engine = RulesEngine(world.rules)
    faults = tuple(
        f"{fault.rule.source}: rule {fault.rule.id!r}: example {fault.number} {fault.found}, "
        f"but is written to {'hold' if fault.rule.examples[fault.number - 1].holds else 'be broken'}"
        for fault in engine.example_faults()
    )
    return RulesCheck(rules=len(world.rules), examples=sum(len(rule.examples) for rule in world.rules), faults=faults)
