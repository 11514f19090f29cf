"""What a validator asks a miner's agent, and what the agent answers: the bytes of it, for both sides.

``POST /challenge`` at a GPU's verification host and port, with these headers (as miners' bootstrap services have them,
compat.md, section 5)::

    X-Chutes-Miner      SS58 of the miner that is asked
    X-Chutes-Validator  SS58 of the validator that asks
    X-Chutes-Nonce      Unix seconds; at most 30 s from the agent's clock
    X-Chutes-Signature  the validator's sr25519 signature, hex, over MINER:VALIDATOR:NONCE:SHA256(body), that in hex

and this body, JSON::

    {"network": 32 hex, "claim": 64 hex, "nonce": 64 hex, random, "uuids": the claim's GPUs at this agent, 1 to 10}

200 is ``{"report": TEXT, "signature": 128 hex}``. TEXT is itself JSON, a ``Report``; the miner's hotkey signs::

    p2pnodes-gpu-report:NETWORK:CLAIM:MINER:VALIDATOR:NONCE:SHA256(TEXT in UTF-8)

NONCE here is the random one, so an answer is good for one challenge of one validator on one claim in one network, and
nothing that a miner signs elsewhere can be taken for one.

A refusal is ``{"detail": text}``: 400 no challenge, 401 not signed or not now, 403 not on the agent's list, 408 too
slow, 409 asked already, 413 too large, 421 another miner's agent, 429 too often, 503 the agent is busy or cannot read
its GPUs; 429 and 503 name ``Retry-After`` in seconds. ``GET /ping`` answers ``pong``.
"""

from hashlib import sha256
from typing import Annotated, Final, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2pnodes.miner.hardware import GPUS_MAX, Gpu, Text
from p2pnodes.model.claims import GPUS_PER_CLAIM_MAX
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import RemoteProtocolError, printable
from p2pnodes.model.keys import Hotkey, ss58_decode, verify_hotkey
from p2pnodes.model.requests import UUID_CHARS_MAX

PATH: Final = "/challenge"
MINER: Final = "X-Chutes-Miner"
VALIDATOR: Final = "X-Chutes-Validator"
NONCE: Final = "X-Chutes-Nonce"
SIGNATURE: Final = "X-Chutes-Signature"
WINDOW_S: Final = 30
"""How far apart the clocks of agent and validator may be, either way (compat.md, section 5: younger than 30 s)."""

NONCE_BYTES: Final = 32
CHALLENGE_BYTES_MAX: Final = 4 * 1024
"""Bound of a challenge; one for ten GPUs has about a third of that."""

REPORT_CHARS_MAX: Final = 96 * 1024
"""Bound of a report; one of 64 GPUs has about a fifth of that."""

ANSWER_BYTES_MAX: Final = 256 * 1024
"""Bound of an answer: a report in which every character is escaped."""

PROBLEM_CHARS_MAX: Final = 512

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Address = Annotated[str, Field(max_length=64)]
Uuid = Annotated[str, Field(min_length=1, max_length=UUID_CHARS_MAX)]
Problem = Annotated[str, Field(max_length=PROBLEM_CHARS_MAX)]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)


class Challenge(_Message):
    """A challenge's body.

    Attributes:
        network: Network id, hex.
        claim: Claim id, hex.
        nonce: 32 random bytes, hex.
        uuids: GPUs of the claim that this agent is to show.
    """

    network: Hex16
    claim: Hex32
    nonce: Hex32
    uuids: Annotated[tuple[Uuid, ...], Field(min_length=1, max_length=GPUS_PER_CLAIM_MAX)]


class Report(_Message):
    """What an agent says of its host.

    Attributes:
        network: As in the challenge.
        claim: As in the challenge.
        miner: SS58 of who answers.
        validator: SS58 of who asked.
        nonce: As in the challenge.
        time: Unix seconds by the agent's clock.
        driver: Version of the NVIDIA driver.
        total: How many GPUs the host has.
        devices: The facts of those that were asked for; others are nobody's business before they are registered.
        problems: Why GPUs could not be read, one line each.
    """

    network: Hex16
    claim: Hex32
    miner: Address
    validator: Address
    nonce: Hex32
    time: Annotated[int, Field(ge=0, le=2**53)]
    driver: Text | None
    total: Annotated[int, Field(ge=0, le=GPUS_MAX)]
    devices: Annotated[tuple[Gpu, ...], Field(max_length=GPUS_MAX)]
    problems: Annotated[tuple[Problem, ...], Field(max_length=GPUS_MAX)]


class Sealed(_Message):
    """A report with its signature: the body of a 200."""

    report: Annotated[str, Field(max_length=REPORT_CHARS_MAX)]
    signature: Hex64

    @classmethod
    def of(cls, report: Report, hotkey: Hotkey) -> Self:
        """Sign a report with the miner's hotkey."""
        text = report.model_dump_json()
        return cls(report=text, signature=hotkey.sign(_report_message(report, text)).hex())


class Asked(NamedTuple):
    """A challenge as it goes over the wire."""

    headers: dict[str, str]
    body: bytes


class MalformedReportError(RemoteProtocolError):
    """An answer is no report, not an answer to this challenge, or not the miner's; the text says which and why."""

    code = Code.GPU_REPORT


def ask(challenge: Challenge, validator: Hotkey, miner: str, now_s: float) -> Asked:
    """Sign a challenge.

    Args:
        challenge: What to ask.
        validator: Who asks.
        miner: SS58 of who is asked.
        now_s: Unix seconds.
    """
    body = challenge.model_dump_json().encode()
    headers = signed_headers(validator, miner, now_s, sha256(body).hexdigest())
    return Asked({**headers, "Content-Type": "application/json"}, body)


def signed_headers(validator: Hotkey, miner: str, now_s: float, tail: str) -> dict[str, str]:
    """The headers of a validator's signed request to a miner's host.

    Args:
        validator: Who asks.
        miner: SS58 of who is asked.
        now_s: Unix seconds.
        tail: What the signed message ends in (compat.md, section 5).
    """
    nonce = str(int(now_s))
    signature = validator.sign(f"{miner}:{validator.address}:{nonce}:{tail}".encode())
    return {MINER: miner, VALIDATOR: validator.address, NONCE: nonce, SIGNATURE: signature.hex()}


def challenge_message(miner: str, validator: str, nonce: str, body: bytes) -> bytes:
    """The bytes that the validator signs."""
    return f"{miner}:{validator}:{nonce}:{sha256(body).hexdigest()}".encode()


def open_report(answer: bytes, challenge: Challenge, *, miner: str, validator: str, now_s: float) -> Report:
    """Read an answer and check that it is this miner's, to this challenge of this validator, and of now.

    Args:
        answer: Body of a 200.
        challenge: What was asked.
        miner: SS58 of who was asked.
        validator: SS58 of who asked.
        now_s: Unix seconds.

    Raises:
        MalformedReportError: It is not.
    """
    try:
        sealed = Sealed.model_validate_json(answer)
        report = Report.model_validate_json(sealed.report)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        loc = ".".join(str(part) for part in first["loc"][:4])
        raise MalformedReportError(
            f"its answer is no report ({f'{loc}: ' if loc else ''}{first['msg']:.100}); run the agent of this p2pnodes"
        ) from error
    expected = {
        "network": challenge.network,
        "claim": challenge.claim,
        "miner": miner,
        "validator": validator,
        "nonce": challenge.nonce,
    }
    for field, value in expected.items():
        if (found := getattr(report, field)) != value:
            raise MalformedReportError(
                f"its report answers another challenge: found {field} {printable(found)}, expected {value}"
            )
    message = _report_message(report, sealed.report)
    if not verify_hotkey(ss58_decode(miner), message, bytes.fromhex(sealed.signature)):
        raise MalformedReportError(f"its report is not signed by {miner}; run the agent with that hotkey")
    if abs(ahead_s := report.time - now_s) > WINDOW_S:
        direction = "ahead of" if ahead_s > 0 else "behind"
        raise MalformedReportError(
            f"its report is {abs(ahead_s):.0f} s {direction} the validator's clock, expected at most {WINDOW_S} s; set "
            "the host's clock"
        )
    return report


def _report_message(report: Report, text: str) -> bytes:
    """The bytes that the miner signs: what the report answers, and a hash of it."""
    parts = (report.network, report.claim, report.miner, report.validator, report.nonce)
    return ":".join(("p2pnodes-gpu-report", *parts, sha256(text.encode()).hexdigest())).encode()
