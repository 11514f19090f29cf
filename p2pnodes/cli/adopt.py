"""``p2pnodes miner adopt``: bring a miner's GPUs over from the central API, signed by the miner."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from p2pnodes.cli.miner import ApiOption, RetriesOption, TimeoutOption, open_client, run_with
from p2pnodes.cli.output import ExitCode, JsonOption, UnreachableError, fail_line, note, print_json, print_table, say
from p2pnodes.cli.progress import counting, waiting_for_votes
from p2pnodes.cli.signing import HotkeyFileOption, HotkeyOption, UriOption, WalletOption, load_signer
from p2pnodes.model.codes import Code

if TYPE_CHECKING:
    from p2pnodes.miner.adopt import Plan, Server
    from p2pnodes.miner.client import MinerClient

LINES_MAX: Final = 20
"""Rows that are named one by one on stderr; --json names all."""

PLAN_COLUMNS: Final = ("server", "host", "gpus", "models")
DONE_COLUMNS: Final = ("server", "gpus", "result", "task", "reason")


def adopt(
    *,
    source_url: Annotated[
        str, typer.Option("--from", metavar="URL", help="Base URL of the API that lists the GPUs now.")
    ],
    api: ApiOption,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    uri: UriOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan, and register nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the validators have decided.")] = False,
    timeout_s: TimeoutOption = None,
    retries: RetriesOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Register your own GPUs, as another API lists them, with the daemons: server by server, signed anew by you.

    Only the miner can move its GPUs: the central API's rows carry no signature. GPUs that the daemons list already are
    skipped, so the command can be repeated; nothing is changed at the other API. A server that is refused, or a row
    that cannot be read, is named and does not stop the others; the exit code is then 1.
    """
    signer = load_signer(hotkey_file, uri, wallet, hotkey)
    report: dict[str, Any] = {
        "from": source_url,
        "dry_run": dry_run,
        "planned": [],
        "skipped": [],
        "malformed": [],
        "adopted": [],
        "refused": [],
    }
    failed = False

    async def move(source: "MinerClient", client: "MinerClient") -> None:
        from p2pnodes.miner.adopt import plan_adoption

        nonlocal failed
        theirs = await source.own_nodes()
        held = {str(node.get("uuid")) for node in (await client.own_nodes()).nodes}
        plan = plan_adoption(theirs.nodes, held, signer.address)
        unreadable = [*theirs.malformed, *(f"{uuid}: {reason}" for uuid, reason in plan.malformed)]
        failed = bool(unreadable)
        report.update(
            planned=[_described(server) for server in plan.servers], skipped=list(plan.held), malformed=unreadable
        )
        _name(unreadable)
        if not as_json:
            _print_plan(plan)
        if not dry_run:
            await _register(client, plan, report)
            if wait:
                await _wait(client, report, timeout_s)
            failed = failed or bool(report["refused"]) or any(entry["reason"] for entry in report["adopted"])

    opened = open_client([source_url], signer, retries, option="--from"), open_client(api, signer, retries)
    try:
        run_with(move, *opened)
    finally:  # what was done is told, also when the APIs went away in the middle
        if as_json:
            print_json(report)
        elif report["adopted"] or report["refused"]:
            _print_done(report)
    if wait and not failed and any(entry["status"] == "pending" for entry in report["adopted"]):
        raise UnreachableError(
            f"some tasks are still pending after {timeout_s:g} s; they may be verified later",
            code=Code.MINER_TASK_PENDING,
        )
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)


async def _register(client: "MinerClient", plan: "Plan", report: dict[str, Any]) -> None:
    """Register each server; those that are refused are named, and the others go on."""
    from p2pnodes.miner.client import MalformedAnswerError, RefusedError

    with counting("registering servers", len(plan.servers)) as advance:
        for server in plan.servers:
            try:
                registration = await client.add(server.body())
            except (RefusedError, MalformedAnswerError) as error:
                fail_line(f"{server.name}: {error}", error.code)
                report["refused"].append({**_described(server), "reason": str(error)})
            else:
                task = {"task_id": registration.task_id, "status": "pending", "reason": None}
                report["adopted"].append({**_described(server), **task})
            advance()


async def _wait(client: "MinerClient", report: dict[str, Any], timeout_s: float | None) -> None:
    """Wait for the votes on what was registered."""
    by_task = {entry["task_id"]: entry for entry in report["adopted"]}
    with waiting_for_votes() as progress:
        decided = await client.wait_decided(list(by_task), timeout_s=timeout_s, on_progress=progress)
    for task_id, task in decided.items():
        entry = by_task[task_id]
        entry["status"] = task.status
        if task.status in {"failed", "error"}:
            entry["reason"] = task.reason or "the API gives no reason"
            fail_line(f"{entry['server_id'] or entry['host']}: {entry['reason']}", Code.MINER_TASK_FAILED)


def _described(server: "Server") -> dict[str, Any]:
    return {"server_id": server.server_id, "host": server.host, "uuids": server.uuids}


def _name(unreadable: Iterable[str]) -> None:
    lines = list(unreadable)
    for line in lines[:LINES_MAX]:
        fail_line(line, Code.MINER_ANSWER)
    if len(lines) > LINES_MAX:
        note(f"{len(lines) - LINES_MAX} more rows are left out; --json names all of them")


def _print_plan(plan: "Plan") -> None:
    rows = [
        {
            "server": server.name,
            "host": server.host,
            "gpus": len(server.nodes),
            "models": ", ".join(sorted({node.gpu_identifier for node in server.nodes})),
        }
        for server in plan.servers
    ]
    print_table(PLAN_COLUMNS, rows, empty="nothing to register")
    gpus = sum(len(server.nodes) for server in plan.servers)
    say(f"plan: register {gpus} GPUs of {len(plan.servers)} servers; the daemons hold {len(plan.held)} already")


def _print_done(report: dict[str, Any]) -> None:
    rows = [
        {
            "server": entry["server_id"] or entry["host"],
            "gpus": len(entry["uuids"]),
            "result": entry.get("status", "refused"),
            "task": entry.get("task_id"),
            "reason": entry["reason"],
        }
        for entry in (*report["adopted"], *report["refused"])
    ]
    print_table(DONE_COLUMNS, rows, empty="nothing was registered")
