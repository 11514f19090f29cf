"""A daemon on one page: ``GET /overview``, made of its status, and of how its GPUs are counted.

Whether peers agree is read off what they said last: two daemons with the same events, the same stakes and the same
checkpoint must show the same state root. So a peer is *equal*, or it *differs*, by events (``vector``), by stakes
(``electorate``), by the checkpoint or by several of these, which passes as soon as all have travelled; or it is
*diverged*: all three are the same, the root is another one. That never passes by itself, and is a bug or a damaged
database at one of the two.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from p2pnodes.api.browser import Totals

PEERS_MAX: Final = 256
"""Peers of which the overview tells one by one; a subnet has at most as many validators."""

EQUAL: Final = "equal"
DIFFERS: Final = "differs"
DIVERGED: Final = "diverged"
UNHEARD: Final = "not heard"
"""A session is up, and the peer has not said yet what it holds."""
AWAY: Final = "not connected"


def overview(status: Mapping[str, Any], totals: Totals | None) -> dict[str, Any]:
    """Answer to ``GET /overview``.

    Args:
        status: What ``GET /status`` answers.
        totals: The inventory, counted; None where it could not be.

    Returns:
        ``daemon`` (who it is: version, role, hotkey, URL, network), ``ready`` (whether, and the ``reasons`` why not),
        ``writes``, ``gpus`` (see ``gpus``) and ``pending_claims``, both None where they are not counted, ``agreement``
        (see ``agreement``), and of the status what it says of the ``state``, ``electorate``, ``verification``,
        ``clock_offset_ms``, ``database``, ``forks``.
    """
    return {
        "daemon": {
            name: status[name]
            for name in ("version", "role", "hotkey", "url", "network_id", "netuid", "node_key", "started_at")
        },
        "ready": {"ready": not status["ready"], "reasons": status["ready"]},
        "writes": status["writes"],
        "delegation": status["delegation"],
        "gpus": totals and gpus(totals),
        "pending_claims": totals and totals.pending_claims,
        "agreement": agreement(status["gossip"]["peers"]),
        "state": {
            "state_root": status["state_root"],
            "vector_digest": status["vector_digest"],
            "events": status["events"],
            "nodes": status["nodes"],
        },
        "electorate": status["electorate"],
        "verification": status["verification"],
        "clock_offset_ms": status["clock_offset_ms"],
        "database": status["database"],
        "forks": len(status["forks"]),
        "closed_logs": status["closed_logs"],
    }


def gpus(totals: Totals) -> dict[str, Any]:
    """GPUs by what becomes of them: four counts that do not overlap, for each model and over all.

    ``provisioned`` and ``idle`` are verified, with a chute and without; ``pending`` and ``failed`` are what the vote
    says. ``state_root`` is that of the inventory that was counted, which may be a few seconds behind the present one.
    """
    kinds = ("provisioned", "idle", "pending", "failed")
    models = [{**model._asdict(), "total": sum(getattr(model, kind) for kind in kinds)} for model in totals.models]
    summed = {kind: sum(model[kind] for model in models) for kind in (*kinds, "total")}
    return {**summed, "models": models, "state_root": totals.state_root}


def agreement(peers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether the peers show the same inventory.

    Returns:
        ``state``: ``diverged`` where a peer is; else ``differs`` where a peer does; else ``equal`` where all that have
        been heard are; else ``alone``. ``counts`` of peers by state. Both leave observers out: anybody can be one, and
        claim to see something else. And ``peers`` (at most PEERS_MAX): ``hotkey``, ``node_key`` (None without a
        session), ``url``, ``observer``, ``state``, ``by`` (``vector``, ``electorate``, ``checkpoint``), ``we_lack`` and
        ``peer_lacks`` (events), ``why``.
    """
    shown = [_compared(peer) for peer in peers[:PEERS_MAX]]
    counts = dict.fromkeys((EQUAL, DIFFERS, DIVERGED, UNHEARD, AWAY), 0)
    for peer in shown:
        if not peer["observer"]:
            counts[peer["state"]] += 1
    state = next((state for state in (DIVERGED, DIFFERS, EQUAL) if counts[state]), "alone")
    return {"state": state, "counts": counts, "peers": shown, "left_out": max(0, len(peers) - PEERS_MAX)}


def difference(peer: Mapping[str, Any]) -> tuple[str, list[str]]:
    """How the latest digest of a peer with a session differs from this daemon's state, and by what."""
    if peer.get("same_vector") is None:
        return UNHEARD, []
    by = [name for name in ("vector", "electorate", "checkpoint") if not peer[f"same_{name}"]]
    return (DIFFERS if by else EQUAL if peer["same_state_root"] else DIVERGED), by


def _compared(peer: Mapping[str, Any]) -> dict[str, Any]:
    """One peer, by its own last word."""
    by: list[str] = []
    why = ""
    if not peer["connected"]:
        state, why = AWAY, peer.get("ban_reason") or peer.get("last_error") or "not dialled yet"
    else:
        state, by = difference(peer)
        if state == UNHEARD:
            why = "it has not said yet what it holds"
        elif state == DIVERGED:
            why = (
                "same events and same stakes, and yet another inventory: compare the versions, run `p2pnodes db verify`"
            )
        elif state == DIFFERS:
            why = " and ".join(_REASONS[name] for name in by)
    return {
        "hotkey": peer["hotkey"],
        "node_key": peer.get("node_key"),
        "url": peer["url"],
        "observer": bool(peer.get("observer")),
        "state": state,
        "by": by,
        "we_lack": peer.get("we_lack"),
        "peer_lacks": peer.get("peer_lacks"),
        "why": why,
    }


_REASONS: Final = {
    "vector": "it does not hold the same events yet",
    "electorate": "it weighs with another electorate",
    "checkpoint": "another checkpoint is in force there, or is not carried out yet here or there",
}
