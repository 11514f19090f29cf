"""``p2pnodes compare``: how the inventory of one API differs from a daemon's."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from p2pnodes.cli.miner import ApiOption, RetriesOption, open_client, run_with
from p2pnodes.cli.output import ExitCode, JsonOption, fail_line, print_json, print_table, say
from p2pnodes.cli.signing import HotkeyFileOption, HotkeyOption, UriOption, WalletOption, signer_if_any
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError

if TYPE_CHECKING:
    from p2pnodes.miner.client import MinerClient

COUNT_COLUMNS: Final = ("miner", "gpu", "here", "there", "in_use_here", "in_use_there")
NODE_COLUMNS: Final = ("uuid", "difference", "column", "here", "there")


def compare(
    url: Annotated[
        str, typer.Argument(metavar="URL", help="Base URL of the central API, or of another daemon: there.")
    ],
    *,
    api: ApiOption,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    uri: UriOption = None,
    gpus_only: Annotated[
        bool,
        typer.Option("--gpus-only", help="Without a key: compare how many GPUs there are, not how many are in use."),
    ] = False,
    retries: RetriesOption = 5,
    as_json: JsonOption = False,
) -> None:
    """Show how two inventories differ: the one of --api (here), and the one at URL (there).

    Without a key by counts per miner and GPU model, which anybody may read. With a miner's key GPU by GPU: which are
    missing here or there, and which columns differ; seeds and times, which each API gives itself, are left out.

    Exit code 0 when they are equal, 1 when they differ or cannot be read, 3 when nobody answers.
    """
    signer = signer_if_any(hotkey_file, uri, wallet, hotkey)
    equal = True

    async def by_counts(here: "MinerClient", there: "MinerClient") -> None:
        from p2pnodes.miner.compare import compare_counts

        nonlocal equal
        ours, theirs = await _counts(here), await _counts(there)
        found = compare_counts(ours, theirs, chutes=not gpus_only)
        equal = not found
        rows = [
            {
                "miner": miner,
                "gpu": gpu,
                "here": one.gpus,
                "there": other.gpus,
                "in_use_here": one.provisioned,
                "in_use_there": other.provisioned,
            }
            for miner, gpu, one, other in found
        ]
        if as_json:
            print_json({"equal": equal, "there": url, "counts": rows})
        elif equal:
            gpus, miners = sum(count.gpus for count in ours.values()), len({miner for miner, _ in ours})
            say(f"equal: {gpus} GPUs of {miners} miners")
        else:
            print_table(COUNT_COLUMNS, rows, empty="")

    async def by_gpu(here: "MinerClient", there: "MinerClient") -> None:
        from p2pnodes.miner.compare import DIFFERS, MISSING_HERE, MISSING_THERE, compare_nodes

        nonlocal equal
        (ours, unreadable_here), (theirs, unreadable_there) = await _nodes(here), await _nodes(there)
        found = compare_nodes(ours, theirs)
        unreadable = [*unreadable_here, *unreadable_there]
        for line in unreadable:
            fail_line(line, Code.MINER_ANSWER)
        equal = not found and not unreadable
        if as_json:
            differing = [difference for difference in found if difference.kind == DIFFERS]
            print_json(
                {
                    "equal": equal,
                    "there": url,
                    "missing_here": [difference.uuid for difference in found if difference.kind == MISSING_HERE],
                    "missing_there": [difference.uuid for difference in found if difference.kind == MISSING_THERE],
                    "different": [
                        {
                            "uuid": uuid,
                            "columns": {name: {"here": one, "there": other} for name, (one, other) in fields.items()},
                        }
                        for uuid, _, fields in differing
                    ],
                    "malformed": unreadable,
                }
            )
        elif equal:
            say(f"equal: {len(ours)} GPUs")
        else:
            rows: list[dict[str, Any]] = []
            for uuid, kind, fields in found:
                if not fields:
                    rows.append({"uuid": uuid, "difference": kind})
                for name, (one, other) in fields.items():
                    rows.append({"uuid": uuid, "difference": kind, "column": name, "here": one, "there": other})
            print_table(NODE_COLUMNS, rows, empty="no GPU differs among the rows that can be read")

    run_with(
        by_counts if signer is None else by_gpu,
        open_client(api, signer, retries),
        open_client([url], signer, retries, option="URL"),
    )
    raise typer.Exit(ExitCode.DONE if equal else ExitCode.FAILED)


async def _counts(client: "MinerClient") -> dict[tuple[str, str], Any]:
    from p2pnodes.miner.compare import count_by_model

    try:
        return dict(count_by_model(await client.detailed_inventory()))
    except ValueError as error:
        raise P2PNodesError(
            f"{client.apis[0]} answered {error}; is it an API of this interface?", code=Code.MINER_ANSWER
        ) from error


async def _nodes(client: "MinerClient") -> tuple[list[dict[str, Any]], list[str]]:
    """Rows that name a GPU, and what else was in the list."""
    found = await client.own_nodes()
    readable = [node for node in found.nodes if isinstance(node.get("uuid"), str)]
    unreadable = [f"{found.api}: {reason}" for reason in found.malformed]
    if missing := len(found.nodes) - len(readable):
        unreadable.append(f"{found.api}: {missing} rows without a uuid")
    return readable, unreadable
