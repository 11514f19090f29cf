"""``p2pnodes proof``: export a proof that GPUs were registered and verified, and check one, offline."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.output import (
    EXIT_CODES,
    ExitCode,
    JsonOption,
    command,
    fail_line,
    note,
    print_fields,
    print_json,
    print_table,
    warn_line,
)
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

if TYPE_CHECKING:
    from p2pnodes.model.electorate import Electorate
    from p2pnodes.model.proof import Statement

app = typer.Typer(
    no_args_is_help=True,
    help="Prove to others that a GPU was registered by its miner and verified by a quorum, and check such proofs. "
    "A check needs no daemon and no network.",
    epilog=EXIT_CODES,
)


def _network_id(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{32}", text):
        raise typer.BadParameter(f"expected 32 hex digits, found {text!r:.80}")
    return text.lower()


@command(app, "p2pnodes proof export d52bd15208478ba8ca49e07ec1f002e6 --config p2pnodes.toml > proof.json")
def export(
    uuid: Annotated[str, typer.Argument(metavar="UUID", help="The GPU; the proof is of all GPUs of its server.")],
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
) -> None:
    """Print a proof of what a running daemon knows about a GPU, JSON.

    It holds the miner's signed request, and in it the host and port at which each GPU is verified. Exit code 1 when
    the votes do not suffice: a proof weighs all permitted validators, also those that are not enrolled.
    """
    print_json(ask(admin_socket(config, socket_path), f"/proof/{quote(uuid, safe='')}"))
    note(
        "the proof holds the miner's signed request, with the verification host and port of each of its GPUs: "
        "give it to nobody who may not know them"
    )


@command(
    app,
    "p2pnodes proof check proof.json --electorate electorate.toml --network 0123456789abcdef0123456789abcdef",
    "p2pnodes proof check proof.json --gpu d52bd15208478ba8ca49e07ec1f002e6 --json",
)
def check(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The proof; - reads standard input.")],
    *,
    electorate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your own electorate of the proof's block, a file as electorate.file names one: it must be equal.",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="HEX", parser=_network_id, help="The network id that the proof must have; see p2pnodes status."
        ),
    ] = None,
    gpu: Annotated[str | None, typer.Option(metavar="UUID", help="A GPU that the proof must be of.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a proof, and print what it proves: who registered what, and who voted for it with which stake.

    It proves what was signed, as of the electorate's time; not that nothing followed, such as a later verdict, a
    deletion, or another claim on the GPU. Exit code 0 when it holds, 1 when it does not, 2 when a file cannot be used.
    """
    from p2pnodes.chain.file import read_electorate
    from p2pnodes.model import proof
    from p2pnodes.model.proof import MalformedProofError, Proof, ProofError

    try:
        brought = Proof.decode(_read(file))
        own = None if electorate is None else read_electorate(electorate)
    except (MalformedProofError, ConfigError) as error:
        fail_line(f"{file}: {error}" if isinstance(error, MalformedProofError) else str(error), error.code)
        raise typer.Exit(ExitCode.USAGE) from error
    try:
        statement = proof.check(brought)
        _compare(statement, own, network, gpu)
    except ProofError as error:
        raise ProofError(f"{file}: the proof does not hold: {error}") from error
    if own is None:
        warn_line(
            "stakes, permits and registrations are as the proof states them, not compared with an electorate of your "
            "own: see --electorate",
            Code.PROOF_LIMITS,
        )
    if network is None:
        warn_line(
            "the network is the one that the proof states, not compared with the one that you mean: see --network",
            Code.PROOF_LIMITS,
        )
    if as_json:
        print_json(_document(statement))
    else:
        _print(statement)


def _read(file: str) -> bytes:
    from p2pnodes.model.proof import PROOF_BYTES_MAX

    try:
        if file == "-":
            return sys.stdin.buffer.read(PROOF_BYTES_MAX + 1)
        with Path(file).open("rb") as opened:
            return opened.read(PROOF_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}); expected a proof, or - for stdin", code=Code.PROOF_MALFORMED
        ) from error


def _compare(statement: "Statement", own: "Electorate | None", network: str | None, gpu: str | None) -> None:
    """Require what the caller knows to be so.

    Raises:
        ProofError: The proof is of another electorate, network or GPU.
    """
    from p2pnodes.model.proof import ProofError

    if own is not None and own.digest != statement.electorate_digest:
        raise ProofError(
            f"its electorate is not yours: found block {statement.electorate_block}, digest "
            f"{statement.electorate_digest.hex()}, expected block {own.block}, digest {own.digest.hex()}"
        )
    if network is not None and statement.network.id.hex() != network:
        raise ProofError(f"it is of network {statement.network.id.hex()}, expected {network}")
    if gpu is not None and gpu not in {listed.uuid for listed in statement.gpus}:
        raise ProofError(f"it is not of GPU {gpu}; it is of {', '.join(listed.uuid for listed in statement.gpus)}")


def _document(statement: "Statement") -> dict[str, Any]:
    """What a proof proves, for programs: derived from its signed contents alone."""
    from p2pnodes.model.clock import hlc_ms
    from p2pnodes.model.keys import ss58_encode

    network = statement.network
    return {
        "network": {
            "id": network.id.hex(),
            **network.model_dump(include={"genesis_hash", "netuid", "quorum", "min_share", "verdict_ttl_s"}),
        },
        "electorate": {
            "block": statement.electorate_block,
            "time": _utc(statement.electorate_time_ms),
            "digest": statement.electorate_digest.hex(),
        },
        "claim_id": statement.claim_id.hex(),
        "miner": ss58_encode(statement.miner),
        "nonce": statement.nonce,
        "gpus": [gpu._asdict() for gpu in statement.gpus],
        "carrier": ss58_encode(statement.carrier),
        "created_at": _utc(hlc_ms(statement.created_hlc)),
        "stake": {
            "verified": statement.verified,
            "weighed": statement.weighed,
            "needed": statement.needed,
            "permitted": statement.permitted,
        },
        "votes": [
            {
                "validator": ss58_encode(vote.validator),
                "finding": vote.finding,
                "stake": vote.stake,
                "method": vote.method,
                "at": _utc(hlc_ms(vote.hlc)),
                "event_id": vote.event_id.hex(),
            }
            for vote in statement.votes
        ],
    }


def _print(statement: "Statement") -> None:
    found = _document(statement)
    network, electorate, stake = found["network"], found["electorate"], found["stake"]
    print_fields(
        {
            "result": "the proof holds",
            "network": f"{network['id']} (netuid {network['netuid']}, genesis {network['genesis_hash']})",
            "electorate": f"block {electorate['block']} of {electorate['time']}, digest {electorate['digest']}",
            "miner": found["miner"],
            "claim": f"{found['claim_id']}, nonce {found['nonce']}",
            "registered": f"{found['created_at']}, carried by {found['carrier']}",
            "verified": f"by a stake of {stake['verified']}, {_percent(stake['verified'], stake['weighed'])} of "
            f"{stake['weighed']}; needed is {stake['needed']}",
            "all permitted": f"a stake of {stake['permitted']}, of which that is "
            f"{_percent(stake['verified'], stake['permitted'])}",
            "not proved": "that nothing followed: a later verdict, a deletion, another claim on a GPU",
        }
    )
    print()
    print_table(("uuid", "gpu_identifier", "name"), found["gpus"], empty="no GPUs")
    print()
    print_table(("validator", "finding", "stake", "method", "at"), found["votes"], empty="no votes")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _utc(ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
