"""``p2pnodes miner``: register GPUs, follow their verification, delete them, at any of several daemons."""

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from p2pnodes.cli.output import (
    EXIT_CODES,
    ExitCode,
    JsonOption,
    UnreachableError,
    command,
    fail_line,
    note,
    print_fields,
    print_json,
    print_table,
    say,
    ss58,
)
from p2pnodes.cli.progress import waiting_for_votes
from p2pnodes.cli.signing import HotkeyFileOption, HotkeyOption, UriOption, WalletOption, load_signer
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, LocalProtocolError, P2PNodesError

if TYPE_CHECKING:
    from p2pnodes.miner.client import MinerClient
    from p2pnodes.model.keys import Hotkey

EXAMPLE_GPUS: Final = 8

HELD_ELSEWHERE: Final = "already exist in inventory"
"""In the central API's text, and so a daemon's, when a GPU is verified as another miner's."""

ApiOption = Annotated[
    list[str],
    typer.Option(
        metavar="URL",
        help="Base URL of a daemon; give several, and the next one is asked when one does not answer.",
    ),
]
RetriesOption = Annotated[
    int, typer.Option(min=0, max=100, help="Further rounds over all APIs when none of them serves the request.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="S", show_default="no limit", help="Seconds to wait at most."),
]

app = typer.Typer(
    no_args_is_help=True,
    help="Register GPUs and follow their verification. A request is signed once and taken to the first daemon that "
    "answers; the same signed request at several daemons is one claim.",
    epilog=EXIT_CODES,
)


@command(app, "p2pnodes miner example > server.json")
def example() -> None:
    """Print a registration to fill in: one server with eight H100 GPUs.

    On a devnet it is accepted as it is; elsewhere verification_host must be a public address.
    """
    import secrets

    from p2pnodes.miner.example import example_server

    print_json(example_server([secrets.token_hex(16) for _ in range(EXAMPLE_GPUS)]))


@command(
    app,
    "p2pnodes miner add server.json --hotkey-file HOTKEY --api https://a.example --api https://b.example",
    "p2pnodes miner example | p2pnodes miner add - --uri //Alice --api http://127.0.0.1:8100 --wait",
)
def add(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The registration, JSON; - reads standard input.")],
    *,
    api: ApiOption,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    uri: UriOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the validators have decided.")] = False,
    timeout_s: TimeoutOption = None,
    retries: RetriesOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Register the GPUs of one server, 1 to 10: {"server_id", "server_name", "nodes": [...]}.

    Prints the task, whose status tells how the vote went. To repeat it while its claim stands is no error.
    """
    body = _read_body(file)
    signer = load_signer(hotkey_file, uri, wallet, hotkey)

    from p2pnodes.miner.client import ConflictError

    async def register(client: "MinerClient") -> None:
        try:
            registration = await client.add(body)
        except ConflictError as error:
            if HELD_ELSEWHERE in error.detail:
                note(
                    "a GPU of these is verified as another miner's, until that one deletes it or fails a check: "
                    "`p2pnodes node show UUID` at a daemon says whose, and why"
                )
            raise
        found = registration.model_dump(mode="json")
        if not as_json:
            print_fields({"task": registration.task_id, "seed": registration.seed})
            print_table(("uuid", "gpu_identifier", "created_at"), found["nodes"], empty="no GPUs")
        try:
            if wait:
                with waiting_for_votes() as progress:
                    status = await client.wait_verified(registration.task_id, timeout_s=timeout_s, on_progress=progress)
                found["status"] = status.status
                if not as_json:
                    say(f"decided: {status.status}")
        finally:
            if as_json:
                print_json(found)

    run_with(register, open_client(api, signer, retries))


@command(app, "p2pnodes miner list --api http://127.0.0.1:8100 --hotkey 5Grw...", name="list")
def list_(
    *,
    api: ApiOption,
    hotkey: Annotated[str | None, typer.Option(metavar="SS58", parser=ss58, help="Only this miner's GPUs.")] = None,
    model: Annotated[str | None, typer.Option(metavar="GPU", help="Only this GPU model, such as h100_sxm.")] = None,
    detailed: Annotated[bool, typer.Option("--detailed", help="By miner, with what runs on the GPUs.")] = False,
    retries: RetriesOption = 5,
    as_json: JsonOption = False,
) -> None:
    """List the inventory: how many GPUs of each model, and how many of them are idle. Needs no key."""

    async def fetch(client: "MinerClient") -> None:
        if detailed:
            by_miner = await client.detailed_inventory(hotkey=hotkey, model=model)
            if as_json:
                print_json(by_miner)
            else:
                print_table(
                    ("miner", "gpu", "idle", "provisioned", "chutes"), _by_model(by_miner), empty="no GPUs are listed"
                )
        else:
            totals = await client.inventory(hotkey=hotkey, model=model)
            if as_json:
                print_json(totals)
            else:
                rows = [{"gpu": gpu_identifier, **counts} for gpu_identifier, counts in totals.items()]
                print_table(("gpu", "provisioned", "idle"), rows, empty="no GPUs are listed")

    run_with(fetch, open_client(api, None, retries))


@command(app, "p2pnodes miner status TASK --wait --timeout 600 --uri //Alice --api http://127.0.0.1:8100")
def status(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task, as add printed it.")],
    *,
    api: ApiOption,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    uri: UriOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the validators have decided.")] = False,
    timeout_s: TimeoutOption = None,
    retries: RetriesOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Show how the vote on a registration stands: pending, verified, or failed and why.

    Exit code 0 when it is verified, or pending and --wait is not given; 1 when it failed; 3 when it is still pending
    after --timeout.
    """
    signer = load_signer(hotkey_file, uri, wallet, hotkey)

    async def fetch(client: "MinerClient") -> None:
        from p2pnodes.miner.client import TaskFailedError

        found = await client.task_status(task)
        if wait and found.status == "pending":
            with waiting_for_votes() as progress:
                found = await client.wait_verified(task, timeout_s=timeout_s, on_progress=progress)
        if as_json:
            print_json(found.model_dump(mode="json", exclude_none=True))
        else:
            say(found.status)
        if found.status in {"failed", "error"}:
            raise TaskFailedError(task, found.reason or "the API gives no reason")

    run_with(fetch, open_client(api, signer, retries))


@command(
    app,
    "p2pnodes miner follow --uri //Alice --api http://127.0.0.1:8100 --api http://127.0.0.1:8101",
    "p2pnodes miner follow --hotkey 5Grw... --api http://127.0.0.1:8100 --timeout 3600 --json",
)
def follow(
    *,
    api: ApiOption,
    hotkey: Annotated[
        str | None,
        typer.Option(
            metavar="SS58|NAME", help="The miner, instead of its key: this needs none. With --wallet its hotkey's name."
        ),
    ] = None,
    wallet: WalletOption = None,
    hotkey_file: HotkeyFileOption = None,
    uri: UriOption = None,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", min=0, metavar="S", show_default="no limit", help="Seconds to follow, then exit 0."),
    ] = None,
    retries: RetriesOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Follow a miner's GPUs and tasks: how things stand now, then each change as it happens, until Ctrl-C.

    When a daemon goes away the next one is asked, and what changed meanwhile is told. With --json every event of the
    stream is a line: {"event", "api", "data"}; reset means that a whole snapshot follows, up to snapshot_end.
    """
    by_address = hotkey if wallet is None else None
    if [by_address, wallet, hotkey_file, uri].count(None) != 3:
        raise typer.BadParameter(
            "give exactly one of --hotkey SS58, --wallet NAME (and --hotkey NAME), --hotkey-file FILE and --uri URI"
        )
    address = load_signer(hotkey_file, uri, wallet, hotkey).address if by_address is None else ss58(by_address)

    async def tail(client: "MinerClient") -> None:
        from datetime import UTC, datetime

        from p2pnodes.miner.tail import Tail

        told = Tail()
        followed = ""
        try:
            async with asyncio.timeout(timeout_s), aclosing(client.follow(address)) as changes:
                async for kind, data, served_by in changes:
                    if served_by != followed:
                        followed = served_by
                        note(f"{followed}: following {address}")
                    if as_json:
                        line = json.dumps({"event": kind, "api": served_by, "data": data})
                        print(line, flush=True)  # whoever reads a pipe waits for it
                        continue
                    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                    for line in told.take(kind, data):
                        say(f"{now} {line}")
                    sys.stdout.flush()
        except TimeoutError:
            pass  # followed for as long as was asked

    run_with(tail, open_client(api, None, retries))


@command(app, "p2pnodes miner delete UUID UUID --hotkey-file HOTKEY --api https://a.example")
def delete(
    uuids: Annotated[list[str], typer.Argument(metavar="UUID...", help="The GPUs.")],
    *,
    api: ApiOption,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    uri: UriOption = None,
    retries: RetriesOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Delete GPUs from the inventory; each signature is good for one GPU only.

    All are tried, also when one is refused; the exit code is then 1.
    """
    signer = load_signer(hotkey_file, uri, wallet, hotkey)
    refused: dict[str, str] = {}

    async def remove(client: "MinerClient") -> None:
        from p2pnodes.miner.client import RefusedError

        deleted: list[str] = []
        try:
            for uuid in dict.fromkeys(uuids):
                try:
                    await client.delete(uuid)
                except RefusedError as error:
                    refused[uuid] = str(error)
                    fail_line(f"{uuid}: {error}", error.code)
                else:
                    deleted.append(uuid)
                    if not as_json:
                        say(f"deleted {uuid}")
        finally:  # what was done is told, also when the APIs went away in the middle
            if as_json:
                print_json({"deleted": deleted, "refused": refused})

    run_with(remove, open_client(api, signer, retries))
    raise typer.Exit(ExitCode.FAILED if refused else ExitCode.DONE)


def open_client(apis: list[str], hotkey: "Hotkey | None", retries: int, *, option: str = "--api") -> "MinerClient":
    """A client for ``run_with``; what keeps an API from serving is told on stderr when it changes.

    Raises:
        typer.BadParameter: An API is no base URL; names the option that it came from.
    """
    from p2pnodes.miner.client import MinerClient

    told: dict[str, str] = {}

    def failed(api: str, reason: str) -> None:
        if told.get(api) != reason:
            told[api] = reason
            note(f"{api}: {reason}")

    def retrying(wait_s: float, number: int) -> None:
        note(f"retrying in {wait_s:g} s ({number} of {retries})")

    try:
        return MinerClient(apis, hotkey, retries=retries, on_failure=failed, on_retry=retrying)
    except LocalProtocolError as error:
        raise typer.BadParameter(f"{option}: {error}") from error


def run_with(work: "Callable[..., Coroutine[Any, Any, None]]", *clients: "MinerClient") -> None:
    """Do a command's work with open clients, which are its arguments.

    Raises:
        UnreachableError: No API served a request, or nothing was decided in time.
    """
    from p2pnodes.miner.client import ApiUnreachableError, TaskTimeoutError

    async def with_clients() -> None:
        async with AsyncExitStack() as stack:
            await work(*[await stack.enter_async_context(client) for client in clients])

    try:
        asyncio.run(with_clients())
    except (ApiUnreachableError, TaskTimeoutError) as error:
        raise UnreachableError(str(error), code=error.code) from error


def _read_body(file: str) -> bytes:
    """A registration as bytes, without what upstream's client leaves out; what it means is the daemon's to judge."""
    import orjson

    from p2pnodes.miner.client import without_nulls
    from p2pnodes.model.requests import BODY_BYTES_MAX

    try:
        if file == "-":
            content = sys.stdin.buffer.read(BODY_BYTES_MAX + 1)
        else:
            with Path(file).open("rb") as opened:
                content = opened.read(BODY_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read ({error.strerror}); expected a JSON file, or - for stdin", code=Code.MINER_INPUT
        ) from error
    if len(content) > BODY_BYTES_MAX:
        raise ConfigError(
            f"{file}: over {BODY_BYTES_MAX} bytes; expected the registration of one server", code=Code.MINER_INPUT
        )
    try:
        body = orjson.loads(content)
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON: {error}", code=Code.MINER_INPUT) from error
    if not isinstance(body, dict):
        raise ConfigError(
            f'{file}: expected {{"server_id", "server_name", "nodes": [...]}}: see miner example', code=Code.MINER_INPUT
        )
    return orjson.dumps(without_nulls(body))


def _by_model(by_miner: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the detailed inventory: one per miner and GPU model."""
    from p2pnodes.miner.compare import count_by_model

    chutes: dict[tuple[str, str], set[str]] = {}
    try:
        counts = count_by_model(by_miner)
        for miner, held in by_miner.items():
            for node in held["provisioned"]:
                chutes.setdefault((miner, node["gpu"]), set()).add(str(node["chute"]["name"]))
    except (ValueError, TypeError, KeyError) as error:
        raise P2PNodesError(
            "the API answered no detailed inventory; is it a p2pnodes daemon?", code=Code.MINER_ANSWER
        ) from error
    return [
        {
            "miner": miner,
            "gpu": gpu,
            "idle": count.idle,
            "provisioned": count.provisioned,
            "chutes": ", ".join(sorted(chutes.get((miner, gpu), ()))) or None,
        }
        for (miner, gpu), count in counts.items()
    ]
