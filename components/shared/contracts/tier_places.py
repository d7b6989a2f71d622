"""TIER=PLACE, as programs take it."""

from components.shared.contracts.errors import UsageError, unknown
from components.shared.contracts.records import Tier


def tier_and_place(option: str, item: str, example: str = "FOLDER") -> tuple[Tier, str]:
    """The two halves of one `item` of an option. Raises UsageError for another tier, or no place, with an example of one."""
    tier, _, place = item.partition("=")
    if tier not in list(Tier):
        raise unknown("tier", tier, list(Tier))
    if not place:
        raise UsageError(f"{option} {item!r} is not TIER=FOLDER: write {tier}={example}")
    return Tier(tier), place
