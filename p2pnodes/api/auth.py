"""Who signed a request: the three headers of compat.md, sections 1 and 2, checked in upstream's order.

Every peer checks the miner's own signature in the events that it receives, so nothing else (no token, no session) can
stand in for it: a write that only this daemon vouched for would be void everywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from p2pnodes.api.errors import ApiError, echo
from p2pnodes.model.codes import Code
from p2pnodes.model.electorate import Electorate
from p2pnodes.model.keys import ss58_decode, ss58_encode, which_signed
from p2pnodes.model.requests import NONCE_WINDOW_S, parse_nonce, signing_message

HOTKEY: Final = "X-Chutes-Hotkey"
NONCE: Final = "X-Chutes-Nonce"
SIGNATURE: Final = "X-Chutes-Signature"
AUTHORIZATION: Final = "Authorization"

NEEDED: Final = (
    f"A hotkey signature is needed, because every peer checks it: send {HOTKEY}, {NONCE} and {SIGNATURE}. "
    f"{AUTHORIZATION} cannot replace it."
)


class Signed(NamedTuple):
    """A request whose signature holds.

    Attributes:
        hotkey: Public key, 32 bytes.
        address: Its SS58 address.
        nonce: Unix seconds, as sent.
        signature: 64 bytes.
        tail: Which of the accepted tails was signed.
    """

    hotkey: bytes
    address: str
    nonce: str
    signature: bytes
    tail: str


def authenticate(
    headers: Mapping[str, str],
    tails: Sequence[str],
    *,
    now_s: float,
    electorate: Electorate,
    netuid: int,
    likely: str | None = None,
) -> Signed:
    """Check nonce, hex, signature and registration, in this order.

    Args:
        headers: The request's headers.
        tails: What the signed message may end in; errors name the first.
        now_s: Unix seconds.
        electorate: Who is registered.
        netuid: For the error text.
        likely: Which of the tails to try first, for each that was not signed costs a check; None for the first.

    Raises:
        ApiError: 401 with upstream's text.
    """
    address, signature = headers.get(HOTKEY), headers.get(SIGNATURE)
    if not signature and AUTHORIZATION in headers:
        raise ApiError(401, NEEDED, code=Code.API_UNSIGNED)
    nonce = headers.get(NONCE, "")
    require_fresh(nonce, now_s)
    if not address or not signature:
        raise ApiError(401, NEEDED, code=Code.API_UNSIGNED)
    try:
        decoded = bytes.fromhex(signature)
    except ValueError as error:
        raise ApiError(
            401, f"Invalid signature: {echo(signature)}, with error: {error}", code=Code.API_SIGNATURE
        ) from error
    hotkey = _public_key(address)
    order = tails if likely is None else sorted(tails, key=lambda tail: tail != likely)
    index = None
    if hotkey is not None:
        index = which_signed(hotkey, [signing_message(address, nonce, tail) for tail in order], decoded)
    if hotkey is None or index is None:
        claimed = echo(address)
        raise ApiError(
            401,
            f"Invalid request signature for hotkey {claimed}. Message: {claimed}:{nonce}:{tails[0]}",
            code=Code.API_SIGNATURE,
        )
    if electorate.registration_block(hotkey) is None:
        raise ApiError(401, f"Hotkey is not registered on netuid {netuid}", code=Code.API_UNREGISTERED)
    return Signed(hotkey, address, nonce, decoded, order[index])


def require_fresh(nonce: str, now_s: float) -> None:
    """Raise the 401 of a nonce that is no number or not within NONCE_WINDOW_S of ``now_s``.

    The last second is refused, as upstream does: the event that will carry the request is stamped a moment later, and
    must still lie within the window.
    """
    sent = parse_nonce(nonce)
    if sent is None or abs(int(now_s) - sent) >= NONCE_WINDOW_S:
        raise ApiError(401, "Invalid nonce!", code=Code.API_NONCE)


def _public_key(address: str) -> bytes | None:
    """Public key of a canonical address: base58 decoders are lenient, and the miner signed over the text."""
    try:
        hotkey = ss58_decode(address)
    except ValueError:
        return None
    return hotkey if ss58_encode(hotkey) == address else None
