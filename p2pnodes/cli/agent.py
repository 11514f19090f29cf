"""``p2pnodes miner probe`` and ``miner serve``: what runs on a GPU host. Registered in the group of ``cli.miner``."""

import asyncio
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from p2pnodes import __version__
from p2pnodes.cli.output import JsonOption, cell, note, plain, print_json, print_table, ss58, warn_line
from p2pnodes.cli.signing import HotkeyFileOption, HotkeyOption, UriOption, WalletOption, load_signer
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

if TYPE_CHECKING:
    from p2pnodes.miner.agent import Agent, Source
    from p2pnodes.miner.hardware import HostAnswers

PORT: Final = 30_000
"""Where an agent listens unless told otherwise: the port that ``miner example`` names for a first GPU."""

ANY: Final = "any"

RecordingOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Take the GPUs from a recording instead of from this host: for devnets and tests. Any miner could do so: "
        "what validators see is what the agent tells them.",
    ),
]


def _validator(text: str) -> str:
    return text if text == ANY else ss58(text)


def probe(
    *,
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Public address of this host, where validators reach its agent."),
    ] = None,
    port: Annotated[int, typer.Option(min=80, max=65_535, help="Port of its agent.")] = PORT,
    server_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Name of this server among the miner's; all validators see it.")
    ] = None,
    sources: Annotated[
        bool, typer.Option("--sources", help="Print where each number comes from, as a table, instead of the body.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep NVML's answers in a file that does not exist yet.")
    ] = None,
    recording: RecordingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the registration of this host's GPUs, for miner add, from what NVML says.

    The body goes to stdout. Where each number comes from goes to stderr, or is left out with --json: SM counts are not
    in NVML, they are derived from CUDA cores; clocks of GeForce and workstation cards come from CUDA. What NVML does
    not know is taken from the network's GPU table. What the network would refuse is a warning.
    """
    from p2pnodes.miner.probe import probe as read

    answers = _answers(recording)
    if record is not None:
        _write_new(record, answers)
    found = read(answers, host=host, port=port, server_id=server_id)
    rows = [{**source._asdict(), "gpus": _span(source.gpus)} for source in found.sources]
    if sources:
        if as_json:
            print_json([source._asdict() for source in found.sources])
        else:
            print_table(("gpus", "field", "value", "source"), rows, empty="no GPUs")
    else:
        print_json(found.body)
        if not as_json:
            for row in rows:
                value = "" if row["value"] is None else f" {cell(row['value'])}"
                note(f"GPU {row['gpus']}: {row['field']}{value}: {row['source']}")
    for warning in found.warnings:
        warn_line(warning, Code.AGENT_WARNING)


def serve(
    *,
    allow: Annotated[
        list[str],
        typer.Option(
            metavar="SS58|any",
            parser=_validator,
            help="A validator's hotkey that is answered; give several. any answers everybody: for devnets.",
        ),
    ],
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    uri: UriOption = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; :: takes challenges on every interface.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = PORT,
    recording: RecordingOption = None,
) -> None:
    """Answer validators' challenges about the GPUs of this host, until SIGTERM or Ctrl-C.

    For networks whose validators use the verifier nvml. Each challenge is signed by its validator and answered only
    when that is allowed; the GPUs are read anew for each, one challenge at a time. Needs no root rights, and no key
    but the miner's hotkey. The log is on stderr.
    """
    signer = load_signer(hotkey_file, uri, wallet, hotkey)
    from p2pnodes.config import LogSettings
    from p2pnodes.daemon import configure_logging
    from p2pnodes.miner.agent import Agent

    allowed = None if ANY in allow else frozenset(allow)
    agent = Agent(signer, _source(recording), allow=allowed)
    configure_logging(LogSettings())
    warnings = []
    if allowed is None:
        warnings.append("--allow any: whoever asks is told which GPUs are here; name the validators outside of devnets")
    if recording is not None:
        warnings.append(f"{recording}: these GPUs are a recording's, not this host's: for devnets and tests")
    asyncio.run(_serve(agent, host, port, warnings))


async def _serve(agent: "Agent", host: str, port: int, warnings: list[str]) -> None:
    from p2pnodes.inbound import authority
    from p2pnodes.miner.agent import models
    from p2pnodes.model.keys import ss58_encode

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    starting, stopped = asyncio.create_task(agent.start(host, port)), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            return
        gpus, problems = await starting
        for warning in (*warnings, *problems):
            warn_line(warning, Code.AGENT_WARNING)
        who = "any validator" if agent.allow is None else ", ".join(sorted(map(ss58_encode, agent.allow)))
        where = f"http://{authority(host, agent.port)}"
        _say(f"agent of {agent.hotkey.address} at {where} shows {models(gpus)} to {who}")
        await stopped
        _say("stopping")
    finally:
        for task in (starting, stopped):
            task.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)
        await agent.stop()


def _source(recording: Path | None) -> "Source":
    """Where the GPUs are read from."""
    from p2pnodes.miner.hardware import HostAnswers, NvmlGpus

    if recording is None:
        return NvmlGpus()
    answers = HostAnswers.load(recording)
    return lambda: answers


def _answers(recording: Path | None) -> "HostAnswers":
    answers = _source(recording)()
    if recording is None:
        when = time.strftime("%Y-%m-%d", time.gmtime())
        return answers.model_copy(update={"origin": f"NVML of a real host, p2pnodes {__version__}, {when}"})
    return answers


def _write_new(path: Path, answers: "HostAnswers") -> None:
    try:
        with path.open("x") as opened:
            opened.write(answers.dump())
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); choose another --record", code=Code.SYSTEM_REFUSED
        ) from error


def _span(indices: list[int]) -> str:
    """Indices as one reads them: ``0-7``, or a list."""
    if len(indices) > 1 and indices == list(range(indices[0], indices[-1] + 1)):
        return f"{indices[0]}-{indices[-1]}"
    return ", ".join(map(str, indices))


def _say(line: str) -> None:
    print(plain(line), flush=True)
