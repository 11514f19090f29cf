"""The validity function: is an event's payload good, judged by its own bytes and its own log's prefix alone?

Every peer runs this function over every event, the author before it writes (rule 3). It takes nothing but its
arguments, so its answer is the same everywhere and for ever. A void event counts for nothing; the next one is judged
as if it said nothing. Only the HLC rises along all events of a log, also void ones and those that a build cannot judge:
else a build that learns a kind would find later events void that an older one counts.
"""

from typing import Final, NamedTuple

from p2pnodes.model import codec
from p2pnodes.model.claims import Body, check_claim, parse_body
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.codes import Code, Reason
from p2pnodes.model.errors import InvalidBodyError
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
    known,
)
from p2pnodes.model.keys import verify_hotkey, verify_node
from p2pnodes.model.requests import (
    NONCE_WINDOW_S,
    PURPOSE_DELETE,
    Request,
    bound_purpose,
    parse_nonce,
    request_id,
    verify_request,
)


class Prefix(NamedTuple):
    """What a log says so far: all that the validity of its next event depends on.

    Attributes:
        delegation: The latest valid delegation, or None: then only a ``delegate`` can be valid.
        hlc: Highest HLC of any event, valid or not; -1 for none.
    """

    delegation: Delegation | None
    hlc: int


EMPTY: Final = Prefix(None, -1)


class CarriedAdd(NamedTuple):
    """An ``add`` as its event or a carry brings it: the request, what it says, and the author's claims about time.

    Attributes:
        claim_id: The request's id.
        payload: The add.
        body: The request's body, read by the pinned parser.
        hlc: HLC of the event that the author wrote (the inner one of a carry).
        item: Its place within a carry; 0 elsewhere.
    """

    claim_id: bytes
    payload: AddPayload
    body: Body
    hlc: int
    item: int = 0


class CarriedDelete(NamedTuple):
    """A ``delete`` as its event or a carry brings it."""

    request_id: bytes
    payload: DeletePayload
    hlc: int
    item: int = 0


class Judgement(NamedTuple):
    """The validity function's answer.

    Attributes:
        void: Why the event is void, with a code; None when it is valid or not judged.
        payload: The decoded payload of a valid event; None when void or not judged.
        adds: The registrations that a valid ``add`` or ``carry`` brings.
        deletes: The deletions that a valid ``delete`` or ``carry`` brings.
        prefix: The log's prefix after this event.
    """

    void: Reason | None
    payload: Payload | None
    adds: tuple[CarriedAdd, ...]
    deletes: tuple[CarriedDelete, ...]
    prefix: Prefix

    @property
    def judged(self) -> bool:
        """False for an event of a kind or version that this build does not know."""
        return self.void is not None or self.payload is not None


class _Unknown(Exception):  # noqa: N818 - control flow inside this module
    """The event holds what this build cannot judge."""


class _Void(Exception):  # noqa: N818 - control flow inside this module
    """The event is void: the reason, and its code."""

    def __init__(self, reason: str, code: Code) -> None:
        super().__init__(reason)
        self.reason = Reason(reason, code)


def judge(event: Event, prefix: Prefix) -> Judgement:
    """Judge a stored event, whose envelope and signature are known to be good.

    Args:
        event: The event, next in its log.
        prefix: What the log says before it.

    Returns:
        Valid with its content and the prefix that follows, void with the reason, or not judged (``judged`` is false)
        when this build does not know the version or kind, be it of an event that it carries.
    """
    after = Prefix(prefix.delegation, max(prefix.hlc, event.hlc))
    if not known(event):
        return Judgement(None, None, (), (), after)
    try:
        payload = PAYLOADS[event.kind].from_wire(codec.unpack(event.payload))
        if event.hlc <= prefix.hlc:
            raise _Void("its HLC does not lie above those of the events before it", Code.VOID_ORDER)
        delegation = payload if isinstance(payload, Delegation) else prefix.delegation
        if delegation is None:
            raise _Void("its log has no valid delegation", Code.VOID_DELEGATION)
        _within(delegation, event)
        adds, deletes = _content(event, payload, prefix)
    except _Unknown:
        return Judgement(None, None, (), (), after)
    except _Void as void:
        return Judgement(void.reason, None, (), (), after)
    except (codec.MalformedError, InvalidBodyError) as error:
        return Judgement(Reason(str(error), Code.VOID_FORM), None, (), (), after)
    return Judgement(None, payload, adds, deletes, Prefix(delegation, event.hlc))


def _within(delegation: Delegation, event: Event) -> None:
    if not delegation.not_before * 1000 <= hlc_ms(event.hlc) <= delegation.not_after * 1000:
        raise _Void("its HLC lies outside the window of its log's delegation", Code.VOID_WINDOW)


def _content(
    event: Event, payload: Payload, prefix: Prefix
) -> tuple[tuple[CarriedAdd, ...], tuple[CarriedDelete, ...]]:
    """Check what the payload says; return the requests in it."""
    match payload:
        case AddPayload():
            return (_add(event, payload),), ()
        case DeletePayload():
            return (), (_delete(event, payload),)
        case Carry():
            return _carry(event, payload)
        case Delegation():
            _delegation(event, payload, prefix)
        case Verdict():
            if payload.since is not None and payload.since > event.hlc:
                raise _Void("since lies above the verdict's own HLC", Code.VOID_FORM)
        case Renew():
            if any(since > event.hlc for _, since in payload.claims):
                raise _Void("a since lies above the HLC of the event that renews it", Code.VOID_FORM)
        case Close():
            if not check_close(event.network_id, payload):
                raise _Void("the close does not carry its hotkey's signature", Code.VOID_SIGNATURE)
        case Evidence():
            _evidence(event.network_id, payload)
        case _:  # place and release: their fields say it all
            pass
    return (), ()


def _request(event: Event, request: Request) -> bytes:
    nonce = parse_nonce(request.nonce)
    if nonce is None or abs(hlc_ms(event.hlc) - nonce * 1000) > NONCE_WINDOW_S * 1000:
        raise _Void(f"the nonce {request.nonce} is over {NONCE_WINDOW_S} s away from the event's HLC", Code.VOID_NONCE)
    if not verify_request(request):
        raise _Void("the request does not carry its miner's signature", Code.VOID_SIGNATURE)
    return request_id(event.network_id, request)


def _add(event: Event, payload: AddPayload) -> CarriedAdd:
    body = parse_body(payload.request.body)
    check_claim(body)
    return CarriedAdd(_request(event, payload.request), payload, body, event.hlc)


def _delete(event: Event, payload: DeletePayload) -> CarriedDelete:
    purpose = payload.request.purpose
    if purpose not in (PURPOSE_DELETE, bound_purpose(payload.uuid)):
        raise _Void("the delete request is signed for another GPU or purpose", Code.VOID_SIGNATURE)
    return CarriedDelete(_request(event, payload.request), payload, event.hlc)


def _carry(event: Event, payload: Carry) -> tuple[tuple[CarriedAdd, ...], tuple[CarriedDelete, ...]]:
    adds, deletes = [], []
    for item, wire in enumerate(payload.events):
        inner = Event.decode(wire)
        if inner.network_id != event.network_id or not inner.signed():
            raise _Void("a carried event is foreign or not signed by its log", Code.VOID_SIGNATURE)
        if not known(inner):
            raise _Unknown  # a later build may know it: void would be for ever
        content = PAYLOADS[inner.kind].from_wire(codec.unpack(inner.payload))
        if isinstance(content, AddPayload):
            adds.append(_add(inner, content)._replace(item=item))
        elif isinstance(content, DeletePayload):
            deletes.append(_delete(inner, content)._replace(item=item))
        else:
            raise _Void(f"a carried event is a {inner.kind}: only add and delete can be carried", Code.VOID_FORM)
    return tuple(adds), tuple(deletes)


def _delegation(event: Event, payload: Delegation, prefix: Prefix) -> None:
    if not payload.signed_for(event.network_id, event.log):
        raise _Void("the delegation does not carry its hotkey's signature for this log", Code.VOID_DELEGATION)
    if prefix.delegation is not None and prefix.delegation.hotkey != payload.hotkey:
        raise _Void("the delegation names another hotkey than its log's first one", Code.VOID_DELEGATION)


def check_close(network_id: bytes, close: Close) -> bool:
    """Whether a closing carries its hotkey's signature; whose log it closes is for the store to know."""
    return verify_hotkey(close.hotkey, close.message(network_id), close.signature)


def check_evidence(network_id: bytes, evidence: Evidence) -> bool:
    """Whether evidence proves that its log forks."""
    try:
        _evidence(network_id, evidence)
    except (_Void, codec.MalformedError):
        return False
    return True


def _evidence(network_id: bytes, payload: Evidence) -> None:
    first, second = Header.decode(payload.first), Header.decode(payload.second)
    if codec.digest(payload.first) >= codec.digest(payload.second):
        raise _Void("the two headers are equal or not in ascending order of their ids", Code.VOID_FORM)
    if (first.log, first.seq, first.previous) != (second.log, second.seq, second.previous):
        raise _Void("the two headers are not rivals: log, seq or previous id differ", Code.VOID_FORM)
    if first.network_id != network_id or second.network_id != network_id:
        raise _Void("the two headers are of another network", Code.VOID_FORM)
    key = first.log.node_key
    if not verify_node(key, payload.first, payload.first_signature) or not verify_node(
        key, payload.second, payload.second_signature
    ):
        raise _Void("a header does not carry its log's signature", Code.VOID_SIGNATURE)


class Contents(NamedTuple):
    """What a valid event says.

    Attributes:
        payload: Its payload.
        adds: Ids of the registrations that it brings.
        deletes: The deletions that it brings, each with its request id.
    """

    payload: Payload
    adds: tuple[bytes, ...]
    deletes: tuple[tuple[bytes, DeletePayload], ...]


def contents(event: Event) -> Contents:
    """Read an event that was judged valid, without judging it again: no signature is checked."""
    payload = PAYLOADS[event.kind].from_wire(codec.unpack(event.payload))
    adds: list[bytes] = []
    deletes: list[tuple[bytes, DeletePayload]] = []
    carried = [Event.decode(wire) for wire in payload.events] if isinstance(payload, Carry) else []
    for said in (payload, *(PAYLOADS[inner.kind].from_wire(codec.unpack(inner.payload)) for inner in carried)):
        if isinstance(said, AddPayload):
            adds.append(request_id(event.network_id, said.request))
        elif isinstance(said, DeletePayload):
            deletes.append((request_id(event.network_id, said.request), said))
    return Contents(payload, tuple(adds), tuple(deletes))
