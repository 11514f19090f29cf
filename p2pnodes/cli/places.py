"""``p2pnodes place`` and ``release``: what a validator says of the chutes that run on GPUs."""

from typing import Annotated, Any

import typer

from p2pnodes.cli.asking import ConfigOption, SocketOption, admin_socket, ask
from p2pnodes.cli.output import JsonOption, print_json, print_table, say, warn_line
from p2pnodes.model.codes import Code

NodesOption = Annotated[
    list[str],
    typer.Option("--nodes", metavar="UUID,...", help="GPUs, separated by commas; may be given several times."),
]


def place(
    *,
    nodes: NodesOption,
    chute_id: Annotated[str, typer.Option(metavar="ID", help="The chute that runs there.")],
    instance_id: Annotated[str, typer.Option(metavar="ID", help="Its instance on these GPUs.")],
    name: Annotated[str | None, typer.Option(help="The chute's name; needed unless --private.")] = None,
    username: Annotated[str | None, typer.Option(help="The user whose chute it is; needed unless --private.")] = None,
    private: Annotated[
        bool, typer.Option("--private", help="A private chute: its name and username are never sent anywhere.")
    ] = False,
    verified: Annotated[
        bool, typer.Option("--verified/--unverified", help="Whether the instance has been verified.")
    ] = False,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that a chute runs on GPUs, so that every daemon counts them as provisioned.

    It holds under the claim that owns each GPU now, and until this validator releases it. To repeat the same command
    changes nothing. The events of a private chute carry neither name nor username: nobody else ever learns them.
    """
    if not private and (name is None or username is None):
        raise typer.BadParameter("give --name and --username, or --private")
    body = {"uuids": _uuids(nodes), "chute_id": chute_id, "instance_id": instance_id, "verified": verified}
    body |= {"private": True} if private else {"name": name, "username": username}
    _print(ask(admin_socket(config, socket_path), "/place", body), "placed", as_json=as_json)


def release(
    *,
    nodes: NodesOption,
    config: ConfigOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that what this validator placed on GPUs runs there no more.

    Places of other validators stay: each one's own word ends them. To repeat the same command changes nothing.
    """
    body = {"uuids": _uuids(nodes)}
    _print(ask(admin_socket(config, socket_path), "/release", body), "released", as_json=as_json)


def _uuids(options: list[str]) -> list[str]:
    uuids = [uuid for option in options for uuid in option.split(",") if uuid]
    if not uuids:
        raise typer.BadParameter("--nodes names no GPU; expected UUID,...")
    return list(dict.fromkeys(uuids))


def _print(found: dict[str, Any], done: str, *, as_json: bool) -> None:
    if found["warning"]:
        warn_line(found["warning"], Code.WRITES_NO_PERMIT)
    if as_json:
        print_json(found)
        return
    if found["written"]:
        rows = [{"gpu": uuid, **event} for event in found["written"] for uuid in event["uuids"]]
        print_table(("gpu", "claim_id", "event_id"), rows, empty="")
        say(f"{done}: {len(rows)}")
    if found["unchanged"]:
        say(f"unchanged, said before: {', '.join(found['unchanged'])}")
