"""``p2pnodes verify``: check a claim by hand, out of turn."""

from typing import Annotated, Final

import typer

from p2pnodes.cli.asking import ConfigOption, RefusedError, SocketOption, admin_socket, ask
from p2pnodes.cli.output import ExitCode, JsonOption, UnreachableError, print_fields, print_json
from p2pnodes.cli.progress import waiting_for

TIMEOUT_S: Final = 900.0
"""How long one waits for a check: upstream's longest takes some minutes, and others may load the same host first."""

_LATER: Final = frozenset({409, 503})
"""Answers of a daemon that cannot check or publish now: no word on the claim."""


def verify(
    claim: Annotated[
        str, typer.Argument(metavar="CLAIM", help="Its id or how that begins (8 digits or more), or its task id.")
    ],
    *,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, metavar="S", help="Seconds to wait.")] = TIMEOUT_S,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a running daemon check a claim now, and vote.

    Exit code 0 when the check says verified, 1 when it says failed, 3 when the daemon could not check: it abstains, its
    verifier is not available, or there is no answer in time (the check then goes on).
    """
    path = admin_socket(config, socket_path)
    with waiting_for("the daemon checks the claim"):
        try:
            found = ask(path, "/verify", {"claim_id": claim}, timeout_s=timeout_s)
        except RefusedError as error:
            if error.status in _LATER:
                raise UnreachableError(str(error), code=error.code) from error
            raise
    if as_json:
        print_json(found)
    else:
        print_fields(
            {
                "finding": found["finding"],
                "method": found["method"],
                **({"detail": found["detail"]} if found["detail"] else {}),
                "took": f"{found['seconds']:.1f} s",
                "published": found["published"],
            }
        )
    codes = {"verified": ExitCode.DONE, "failed": ExitCode.FAILED}
    raise typer.Exit(codes.get(found["finding"], ExitCode.UNREACHABLE))
