"""``p2pnodes devnet``: a network on this machine, until it is told to stop."""

import asyncio
import json
import signal
import socket
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

if TYPE_CHECKING:
    from p2pnodes.devnet import Devnet

PEERS_MAX: Final = 16
CONSOLE_OFFSET: Final = 2 * PEERS_MAX
"""From a peer's port to that of its console: behind the peers', and the replayed chain's with its control port."""

BASE_PORT_MAX: Final = 65_535 - CONSOLE_OFFSET - PEERS_MAX


class Chain(StrEnum):
    """Where a devnet's electorate comes from."""

    FILE = "file"
    REPLAY = "replay"


def _options(text: str) -> str:
    """A JSON object, as it is: typer takes no dict."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise typer.BadParameter(f"found {text!r:.80}, expected a JSON object")
    return text


def devnet(
    *,
    peers: Annotated[int, typer.Option(min=1, max=PEERS_MAX, help="How many daemons.")] = 3,
    base_port: Annotated[
        int,
        typer.Option(
            min=1024,
            max=BASE_PORT_MAX,
            help="Peer I serves http://127.0.0.1:<base port + I>, its console at <base port + 32 + I>; a replayed "
            "chain, ws://127.0.0.1:<base port + 16>.",
        ),
    ] = 8100,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", show_default="temporary", help="Keeps keys, databases and logs; run again, it goes on."),
    ] = None,
    quorum: Annotated[
        float, typer.Option(min=0.000001, max=0.999999, help="Share of the stake that must say verified.")
    ] = 0.5,
    epoch_s: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds between blocks of the electorate.")
    ] = 60.0,
    chain: Annotated[
        Chain,
        typer.Option(
            help="Where the electorate comes from: a file, or a node on this machine that replays a subnet of 256 "
            "neurons and is read as the chain is (needs a checkout of the sources)."
        ),
    ] = Chain.FILE,
    verifier: Annotated[
        list[str] | None,
        typer.Option(
            show_default="none",
            help="How GPUs are checked: none, nvml (miners run `p2pnodes miner serve`) or an installed package's. Give "
            "it once, or once for each peer.",
        ),
    ] = None,
    options: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            parser=_options,
            help='Settings of an installed package\'s verifier, for all peers: \'{"service": "http://127.0.0.1:9000"}\'.',
        ),
    ] = "{}",
    stake: Annotated[
        list[int] | None,
        typer.Option(
            min=0, max=2**62, show_default="100", help="Once, or once for each peer; the replayed chain has its own."
        ),
    ] = None,
) -> None:
    """Run a network of real daemons on this machine, for development.

    The validators are //validator0, //validator1, …, the registered miners //Alice, //Bob, //Charlie and //Dave:
    development keys that everybody knows. On the replayed chain the validators are hk0, hk1, hk7, …, keys that
    everybody knows too. Verifier none votes verified without a check, and private verification hosts are allowed. A
    daemon that dies is reported and started again.

    Prints the URLs, then “devnet ready” once every peer has its links with others; runs until Ctrl-C or SIGTERM.
    """
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2pnodes-")))
        ports = [base_port + index for index in range(peers)]
        from p2pnodes.devnet import Devnet

        check_free([*ports, *(port + CONSOLE_OFFSET for port in ports)])
        net = Devnet(
            directory.absolute(),
            ports,
            quorum=quorum,
            epoch_s=epoch_s,
            chain=chain.value,
            chain_port=base_port + PEERS_MAX,
            stakes=stake or (),
            console_ports=[port + CONSOLE_OFFSET for port in ports],
            verify=[{"verifier": name, "options": json.loads(options)} for name in verifier or ()],
            report=_say,
        )
        asyncio.run(_run(net))


def check_free(ports: Iterable[int]) -> None:
    """Check that a devnet can have its ports, before it makes anything.

    Raises:
        ConfigError: One is taken.
    """
    for port in ports:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"127.0.0.1:{port}: {error.strerror}; expected a free port: does another devnet run? Stop it, or give "
                "another --base-port",
                code=Code.CONFIG_ADDRESS_TAKEN,
            ) from error


async def _run(net: "Devnet") -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    starting = asyncio.create_task(net.start())
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not starting.done():
            starting.cancel()
            return
        await starting
        for peer in net.peers:
            _say(f"{peer.name}  {peer.url}  {peer.hotkey_uri}  {peer.directory}")
        console = (await net.peers[0].status())["console"]
        _say(f"console of peer0  {console}  (peer1's at the next port, and so on)")
        if net.replay is not None:
            _say(f"chain  {net.replay.url}  takes changes at {net.replay.control_url}")
        _say("devnet ready")
        await stopped
        _say("stopping")
    finally:
        stopped.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)
        await net.stop()


def _say(line: str) -> None:
    print(line, flush=True)
