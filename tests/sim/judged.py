"""Validity once more, straight from design.md ("Valid"): what a peer holds for valid is, and follows on what is before.

Shares no code with ``model/validity`` but payloads and the checks of single signatures.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from p2pnodes.model import codec
from p2pnodes.model.events import (
    PAYLOADS,
    AddPayload,
    Carry,
    Close,
    Delegation,
    DeletePayload,
    Event,
    Evidence,
    Header,
    Payload,
    Renew,
    Verdict,
)
from p2pnodes.model.keys import verify_hotkey, verify_node
from p2pnodes.model.requests import verify_request
from tests.sim.peer import CheckFailedError, SimPeer

NONCE_OFF_MS_MAX: Final = 600_000
"""How far a request's nonce may lie from the timestamp of its event (design.md, "Valid")."""


def judged_well(peer: SimPeer) -> None:
    """Look at every event that a peer holds for valid.

    Raises:
        CheckFailedError: One is not.
    """
    query = "SELECT log, wire, void IS NULL AND judged FROM events JOIN logs USING (log) ORDER BY node_key, number, seq"
    for _, rows in groupby(peer.disk.execute(query), key=lambda row: row[0]):
        before: Event | None = None
        delegation: Delegation | None = None
        highest = -1
        for _, wire, valid in rows:
            event = Event.decode(wire)
            if (before.id if before else b"", before.seq if before else -1) != (event.previous, event.seq - 1):
                raise CheckFailedError(f"{peer.name} holds seq {event.seq} of {event.log} without the one before it")
            if valid:
                payload = PAYLOADS[event.kind].from_wire(codec.unpack(event.payload))
                delegation = payload if isinstance(payload, Delegation) else delegation
                for wrong in _wrong(event, payload, delegation, highest):
                    raise CheckFailedError(f"{peer.name} holds a {event.kind} for valid: {wrong}")
            before, highest = event, max(highest, event.hlc)


def _wrong(event: Event, payload: Payload, delegation: Delegation | None, highest: int) -> Iterator[str]:
    """Everything that is wrong with an event that counts as valid."""
    ms = event.hlc >> 16
    if event.hlc <= highest:
        yield "its timestamp does not lie above those before it"
    if delegation is None or not delegation.not_before * 1000 <= ms <= delegation.not_after * 1000:
        yield "it lies outside the window of its log's delegation"
    match payload:
        case Delegation():
            if not payload.signed_for(event.network_id, event.log):
                yield "its hotkey did not sign it"
        case AddPayload() | DeletePayload():
            yield from _wrong_request(payload, ms)
        case Carry():
            for inner in map(Event.decode, payload.events):
                said = PAYLOADS[inner.kind].from_wire(codec.unpack(inner.payload))
                if not inner.signed() or inner.network_id != event.network_id:
                    yield "a carried event is not its author's"
                if not isinstance(said, AddPayload | DeletePayload):
                    yield f"it carries a {inner.kind}"
                else:
                    yield from _wrong_request(said, inner.hlc >> 16)
        case Renew():
            if any(since > event.hlc for _, since in payload.claims):
                yield "one began after it was said"
        case Verdict():
            if payload.since is not None and payload.since > event.hlc:
                yield "it began after it was said"
        case Close():
            if not verify_hotkey(payload.hotkey, payload.message(event.network_id), payload.signature):
                yield "its hotkey did not sign it"
        case Evidence():
            first, second = Header.decode(payload.first), Header.decode(payload.second)
            key = first.log.node_key
            if (first.log, first.seq, first.previous) != (second.log, second.seq, second.previous) or first == second:
                yield "its two events are no rivals"
            if not verify_node(key, payload.first, payload.first_signature):
                yield "its first event is not its author's"
            if not verify_node(key, payload.second, payload.second_signature):
                yield "its second event is not its author's"
        case _:  # place and release: whatever they say is valid
            pass


def _wrong_request(payload: AddPayload | DeletePayload, ms: int) -> Iterator[str]:
    request = payload.request
    if abs(ms - 1000 * int(request.nonce)) > NONCE_OFF_MS_MAX:
        yield "its request is too old or too new"
    if not verify_request(request):
        yield "its miner did not sign it"
    if isinstance(payload, DeletePayload) and payload.request.purpose not in {"nodes", f"nodes:{payload.uuid}"}:
        yield "its miner signed the deletion of another GPU"
