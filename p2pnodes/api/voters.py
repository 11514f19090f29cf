"""Who votes, and with what: ``GET /electorate``, the electorate joined with the delegations that the logs hold."""

from collections.abc import Mapping
from typing import Any, Final

from p2pnodes.api.explanations import YEAR_9999_S, instant_ms
from p2pnodes.model.inventory import Mandate, Weights
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.network import PPM

VOTERS_MAX: Final = 1_024
"""Validators of an answer; the chain's subnets have at most 256 neurons, a file may name more."""


def electorate(
    weights: Weights, mandates: Mapping[bytes, Mandate], urls: Mapping[bytes, str], own: bytes | None
) -> dict[str, Any]:
    """Answer to ``GET /electorate``.

    Args:
        weights: The electorate that is in force, and who is enrolled.
        mandates: What the logs say of each validator's delegations.
        urls: Where each validator's daemon listens, by its latest delegation.
        own: This validator's public key; None for an observer.

    Returns:
        ``block`` and ``time`` of the pinned block, of the ``previous`` one, the ``digest``, what votes need
        (``quorum``, ``min_share``, as shares of the stake), ``stake`` and ``enrolled_stake``, how many hotkeys are
        ``registered``, and the ``validators``, the most stake first: ``hotkey``, ``stake``, ``share`` of the enrolled
        stake (0 unless enrolled), ``permit`` (``now``, or ``grace``: at the previous block alone), ``enrolled``, and
        ``why`` not; ``new``: its first delegation is younger than a verdict lives; ``delegated_until``, ``url``,
        ``registered_at`` (block), ``own``. At most VOTERS_MAX, ``left_out`` says how many more.
    """
    held, network = weights.electorate, weights.network
    now_s = held.time_ms // 1000
    order = sorted(held.stakes, key=lambda hotkey: (-held.stakes[hotkey], hotkey))
    return {
        "block": held.block,
        "time": instant_ms(held.time_ms),
        "previous": held.previous and {"block": held.previous.block, "time": instant_ms(held.previous.time_ms)},
        "digest": held.digest.hex(),
        "quorum": network.quorum_ppm / PPM,
        "min_share": network.min_share_ppm / PPM,
        "stake": sum(held.stakes.values()),
        "enrolled_stake": weights.total,
        "enrolled": len(weights.enrolled),
        "registered": len(held.current.registered),
        "validators": [
            {
                "hotkey": ss58_encode(hotkey),
                "stake": held.stakes[hotkey],
                "share": weights.enrolled.get(hotkey, 0) / weights.total if weights.total else 0.0,
                "permit": "now" if hotkey in held.current.validators else "grace",
                "enrolled": hotkey in weights.enrolled,
                "why": "" if hotkey in weights.enrolled else _why_not(mandates.get(hotkey), now_s),
                "new": hotkey in weights.young,
                "delegated_until": _until(mandates.get(hotkey)),
                "url": urls.get(hotkey) or held.current.addresses.get(hotkey) or None,
                "registered_at": held.registration_block(hotkey),
                "own": hotkey == own,
            }
            for hotkey in order[:VOTERS_MAX]
        ],
        "left_out": max(0, len(order) - VOTERS_MAX),
    }


def _until(mandate: Mandate | None) -> str | None:
    """When the last delegation of a validator ends."""
    if mandate is None:
        return None
    return instant_ms(1000 * min(YEAR_9999_S, max(end for _, end in mandate.windows)))


def _why_not(mandate: Mandate | None, now_s: int) -> str:
    """Why a permitted validator is not enrolled."""
    if mandate is None:
        return "it has not delegated to a daemon"
    if all(begin > now_s for begin, _ in mandate.windows):
        return "its delegation has not begun at the pinned block's time"
    return "its delegation had ended by the pinned block's time"
