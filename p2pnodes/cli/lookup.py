"""``p2pnodes claim show`` and ``node show``: why one claim, or one GPU, is where it is."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.output import (
    EXIT_CODES,
    JsonOption,
    command,
    note,
    print_fields,
    print_json,
    print_table,
    say,
)

claim_app = typer.Typer(no_args_is_help=True, help="Look at one claim.", epilog=EXIT_CODES)
node_app = typer.Typer(no_args_is_help=True, help="Look at one GPU.", epilog=EXIT_CODES)


@command(
    claim_app,
    "p2pnodes claim show 5Grw...::0123456789abcdef0123456789abcdef --config p2pnodes.toml",
    "p2pnodes claim show 0123abcd --json",
    name="show",
)
def show_claim(
    claim: Annotated[
        str, typer.Argument(metavar="CLAIM", help="Its id or how that begins (8 digits or more), or its task id.")
    ],
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the vote on a claim stands: who said what, with which stake, what is missing, and whose turn it is.

    Verified needs more than the quorum of the weighed stake, and a minimum share of all enrolled stake. Weighed is the
    enrolled stake less the abstainers' and less that of new validators that have not voted.
    """
    found = ask(admin_socket(config, socket_path), f"/claims/{quote(claim, safe='')}")
    if as_json:
        print_json(found)
        return
    vote = found["vote"]
    print_fields(
        {
            "claim": found["claim_id"],
            "task": found["task_id"],
            "created": found["created_at"],
            "electorate": f"block {found['electorate']['block']}, {found['electorate']['time']}",
            "counts": "yes" if found["counts"] else f"no: {found['why']}",
            "miner is told": _with_detail(found["task"]["status"], found["task"]["detail"]),
            "vote": _with_detail(vote["status"], vote["detail"]),
            **({"verified since": vote["verified_since"]} if vote["verified_since"] else {}),
            "stake": f"{vote['enrolled_stake']} enrolled, {vote['weighed_stake']} weighed",
            "for it": _side(vote["verified_stake"], _more(vote)),
            "against": _side(vote["failed_stake"], _missing(vote["missing"]["failed"], "fail it")),
            **({"own check": _own_check(found["own_check"])} if found.get("own_check") else {}),
        }
    )
    _section("votes")
    rows = [row | {"counts": row["state"]} for row in found["votes"]]
    print_table(("validator", "stake", "finding", "counts", "at", "method", "detail"), rows, empty="nobody is enrolled")
    _section("GPUs")
    rows = [
        {
            "uuid": gpu["uuid"],
            "this_claim": gpu["state"],
            "owner": gpu["owner"] and gpu["owner"]["claim_id"],
            "owner_is": gpu["owner"] and f"{gpu['owner']['status']}, {gpu['rule']}",
            "reason": gpu["why"] or None,
        }
        for gpu in found["gpus"]
    ]
    print_table(("uuid", "this_claim", "owner", "owner_is", "reason"), rows, empty="none")
    if found["turns"]:
        _section("turns")
        print_table(("rank", "validator", "state", "begins_at"), found["turns"], empty="none")
    if not all(carriage["state"] == "counts" for carriage in found["carriages"]):
        _section("carried by")
        print_table(("author", "electorate_block", "at", "state"), found["carriages"], empty="none")
    _note_left_out(found["left_out"])


@command(node_app, "p2pnodes node show d52bd15208478ba8ca49e07ec1f002e6 --config p2pnodes.toml", name="show")
def show_node(
    uuid: Annotated[str, typer.Argument(metavar="UUID", help="The GPU.")],
    *,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show why a GPU has the owner that it has: every claim on it, deletions, and what runs there by whose word.

    Among the claims that stand, the one that was verified first owns the GPU; while none is verified, the earliest one.
    """
    found = ask(admin_socket(config, socket_path), f"/nodes/{quote(uuid, safe='')}")
    if as_json:
        print_json(found)
        return
    owner = found["owner"]
    print_fields(
        {
            "GPU": found["uuid"],
            "electorate": f"block {found['electorate']['block']}, {found['electorate']['time']}",
            "owner": "nobody" if owner is None else owner["hotkey"],
            "because": found["rule"],
            **(
                {}
                if owner is None
                else {
                    "claim": owner["claim_id"],
                    "status": _with_detail(owner["status"], owner["detail"]),
                    "verified since": owner["verified_since"],
                    "runs": _chute(owner["chute"]) or "nothing",
                }
            ),
        }
    )
    _section("claims, in order of their requests")
    rows = [row | {"is": row["state"], "reason": row["why"] or row["detail"] or None} for row in found["claims"]]
    print_table(
        ("claim_id", "is", "status", "verified_since", "nonce", "hotkey", "reason"), rows, empty="no claim names it"
    )
    if found["deletions"]:
        _section("deletions")
        rows = [row | {"reason": row["effect"]} for row in found["deletions"]]
        print_table(("request_id", "nonce", "state", "hotkey", "bound", "reason"), rows, empty="none")
    if found["placements"]:
        _section("chutes, by the word of validators")
        rows = [row | {"runs": _chute(row["chute"])} for row in found["placements"]]
        print_table(("validator", "state", "runs", "at", "claim_id"), rows, empty="none")
    _section("history")
    print_table(("at", "what", "who", "id"), found["history"], empty="none")
    _note_left_out(found["left_out"])


def _with_detail(status: str, detail: str) -> str:
    return f"{status}: {detail}" if detail else status


def _more(vote: dict[str, Any]) -> str:
    """What is missing to verify a claim: the larger of the two, and which it is."""
    missing = vote["missing"]
    if missing["share"] > missing["quorum"]:
        return _missing(missing["share"], "reach the minimum share")
    return _missing(missing["quorum"], "exceed the quorum")


def _missing(stake: int, end: str) -> str:
    return f"{stake} more would {end}" if stake else f"enough to {end}"


def _own_check(entry: dict[str, Any]) -> str:
    """What this validator's own book says: when it looks again, and why it could not."""
    reason = f"; it could not, {entry['faults']} times in a row: {entry['note']}" if entry["faults"] else ""
    return f"again at {entry['due_at']}{reason}"


def _side(stake: int, rest: str) -> str:
    return f"{stake}; {rest}"


def _chute(chute: dict[str, Any] | None) -> str | None:
    if chute is None:
        return None
    whose = f"{chute['username']}/{chute['name']}" if chute["public"] else "a private chute"
    state = "verified" if chute["verified"] else "unverified"
    return f"{whose}, chute {chute['chute_id']}, instance {chute['instance_id']} ({state})"


def _section(title: str) -> None:
    print()
    say(f"{title}:")


def _note_left_out(counts: dict[str, int]) -> None:
    if left := ", ".join(f"{count} {name}" for name, count in counts.items() if count):
        note(f"not shown: {left}, see the views of the database")
