"""``p2pnodes keys``: make key files, show their public parts, delegate a hotkey to a node key, and take that back.

What the hotkey signs where it is travels in files (``chain/delegation.py``): ``request`` and ``publish`` run on the
daemon's machine, ``delegate`` and ``close`` where the hotkey is.
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlencode

import typer

from p2pnodes.cli.asking import ConfigOption as DaemonOption
from p2pnodes.cli.asking import SocketOption, admin_socket, ask
from p2pnodes.cli.output import (
    JsonOption,
    UnreachableError,
    command,
    confirm,
    note,
    print_fields,
    print_json,
    say,
    utc,
)
from p2pnodes.cli.settings import OptionalConfigOption
from p2pnodes.cli.signing import (
    HotkeyFileOption,
    HotkeyOption,
    UriOption,
    WalletOption,
    hotkey_of_uri,
    hotkey_path,
    load_signer,
)
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

if TYPE_CHECKING:
    from p2pnodes.chain.delegation import DelegationRequest, SignedClosing, SignedDelegation
    from p2pnodes.chain.wallet import HotkeyFile
    from p2pnodes.config import Settings
    from p2pnodes.model.events import LogId
    from p2pnodes.model.keys import Hotkey, NodeKey

DAYS_DEFAULT: Final = 30
"""For how long ``keys delegate`` signs without a request; the daemon's own default."""

VOIDED_MAX: Final = 10_000
"""Events that are looked at to say what a revocation voids."""

ROTATE_S_MAX: Final = 60.0
"""How long one waits for a daemon to replace its key: it closes every session and meets its peers anew."""

LogOption = Annotated[
    str | None,
    typer.Option("--log", metavar="HEX/NUMBER", help="The log: its node key and number, as forks and status show it."),
]

app = typer.Typer(
    no_args_is_help=True,
    help="Make, show, delegate to and replace keys. The hotkey is the validator's or miner's on chain, the node key is "
    "the daemon's own: the hotkey delegates to it, and can be kept elsewhere.",
)


@command(
    app,
    "p2pnodes keys new --config p2pnodes.toml",
    "p2pnodes keys new --node-key-file node.key",
    "p2pnodes keys new --hotkey-file hotkey.json",
)
def new(
    *,
    config: OptionalConfigOption = None,
    node_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a new node key here instead of where --config says.")
    ] = None,
    hotkey_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a new hotkey here, as a Bittensor hotkey file.")
    ] = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a node key, or a hotkey, in a new file that only its owner can read (mode 0600).

    A file that exists is never overwritten. A daemon without a node key makes one by itself; one that gets another
    key opens a new log. Back up hotkeys: what a lost one owns on chain is lost.
    """
    from nacl.utils import random as random_bytes

    from p2pnodes.chain.wallet import create_node_key, write_hotkey_file
    from p2pnodes.model.keys import KEY_BYTES, Hotkey

    if hotkey_file is not None:
        if node_key_file is not None:
            raise typer.BadParameter("give one of --node-key-file and --hotkey-file")
        hotkey = hotkey_of_uri(uri) if uri is not None else Hotkey.from_seed(random_bytes(KEY_BYTES))
        write_hotkey_file(hotkey_file, hotkey)
        made = _of_hotkey(hotkey, hotkey_file)
    else:
        if uri is not None:
            raise typer.BadParameter("--uri makes a hotkey; give --hotkey-file, too")
        path = node_key_file or _node_key_path(config)
        made = _of_node_key(create_node_key(path), path)
    _print(made, as_json=as_json)


@command(
    app,
    "p2pnodes keys show --config p2pnodes.toml",
    "p2pnodes keys show --wallet validator --hotkey default",
    "p2pnodes keys show node.key",
)
def show(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Key files.")] = None,
    *,
    config: OptionalConfigOption = None,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the public parts of key files: node keys, hotkeys; without FILE those that --config names.

    No secret is ever printed. A key file that others can read, or whose parts contradict each other, is an error; a
    hotkey file with public parts only is none, nor is a node key that the daemon has yet to make.
    """
    shown = [_of_file(path) for path in files or []]
    if (path := hotkey_path(None, wallet, hotkey)) is not None:
        shown.append(_of_file(path))
    if uri is not None:
        shown.append(_of_hotkey(hotkey_of_uri(uri), None))
    elif not shown:
        from p2pnodes.chain.wallet import load_node_key
        from p2pnodes.config import load_settings

        settings = load_settings(_required(config))
        if settings.hotkey_path is not None:
            shown.append(_of_file(settings.hotkey_path))
        path = settings.node_key_path
        shown.append(_of_node_key(load_node_key(path) if path.exists() else None, path))
    if as_json:
        print_json(shown)
    else:
        for number, key in enumerate(shown):
            if number:
                print()
            print_fields(key | ({} if key["public_key"] else {"public_key": "not made yet: run makes it"}))


@command(app, "p2pnodes keys request --config p2pnodes.toml --out request.json")
def request(
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write the request here; it holds no secret.")],
    config: OptionalConfigOption = None,
    days: Annotated[
        int | None, typer.Option(min=1, max=366, show_default="delegation_days", help="For how long.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """On the daemon's machine: write down what the hotkey is to sign elsewhere. Needs no hotkey.

    First step of three, for a hotkey that is kept on another machine. Next: keys delegate --request there, which needs
    no network. Then bring its file back and name it in delegation_file; the daemon finds a new file there by itself.

    Do it again before the delegation ends (status shows when), when url changes, and when the daemon had to open
    another log, as after a restored backup; writes answer 503 until the new file is there.
    """
    from p2pnodes.chain.delegation import parse_request, write_signed
    from p2pnodes.config import load_settings

    settings = load_settings(_required(config))
    days = days or settings.delegation_days
    try:
        answer = ask(settings.admin_socket_path, f"/keys/request?days={days}")
        asked = parse_request(json.dumps(answer).encode(), f"the daemon at {settings.admin_socket_path}")
    except UnreachableError:
        note(f"no daemon answers at {settings.admin_socket_path}; its files are asked instead")
        asked = _request_of_files(settings, days)
    write_signed(out, asked)
    _print_signed(asked, as_json=as_json)
    if not as_json:
        say(f"next, where the hotkey is: p2pnodes keys delegate --request {out.name} --wallet NAME --out signed.json")


@command(
    app,
    "p2pnodes keys delegate --request request.json --wallet validator --out delegation.json",
    "p2pnodes keys delegate --hotkey-file hotkey.json --network-id HEX --node-key HEX --out delegation.json",
    "p2pnodes keys delegate --verify delegation.json",
)
def delegate(
    *,
    request: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sign what this file of keys request asks for.")
    ] = None,
    verify: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check a delegation instead of signing one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the delegation here; it holds no secret.")
    ] = None,
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    uri: UriOption = None,
    network_id: Annotated[
        str | None, typer.Option(metavar="HEX", help="Without --request: the network, as status shows it.")
    ] = None,
    node_key: Annotated[
        str | None,
        typer.Option(metavar="HEX", help="Without --request: the daemon's public node key, as keys show tells."),
    ] = None,
    log: Annotated[
        int | None,
        typer.Option(
            min=0, max=2**32 - 1, show_default="the time, as daemons do", help="Without --request: the log's number."
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Without --request: where peers reach the daemon; unset: it only dials out."),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=366, show_default=str(DAYS_DEFAULT), help="Without --request: for how long."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign a delegation where the hotkey is: it lets a node key elsewhere speak for the hotkey in one log.

    Works offline, and needs no secret of the daemon's: bring a request from keys request, and the delegation back to
    the daemon's delegation_file. What is signed is shown: node key and network must be your daemon's, the URL where
    peers find it. Whoever holds that node key can then publish verdicts in the hotkey's name until the end that is
    shown, or until keys revoke; it can never move stake.

    With --verify, check one: the signature, and whether it is good now. Exit code 1 when it is not.
    """
    from p2pnodes.chain.delegation import DelegationRequest, read_delegation, window, write_signed
    from p2pnodes.model.events import LogId
    from p2pnodes.model.keys import KEY_BYTES
    from p2pnodes.model.protocol import NETWORK_ID_BYTES

    explicit = {"--network-id": network_id, "--node-key": node_key, "--log": log, "--url": url, "--days": days}
    now_s = int(time.time())
    if verify is not None:
        if request is not None:
            raise typer.BadParameter("give one of --request and --verify")
        signed = read_delegation(verify)
        if not signed.delegation.not_before <= now_s < signed.delegation.not_after:
            raise ConfigError(
                f"{verify}: well signed, but good from {utc(signed.delegation.not_before)} to "
                f"{utc(signed.delegation.not_after)}, which is not now: sign it anew",
                code=Code.DELEGATION_WINDOW,
            )
    else:
        if request is not None and (given := [name for name, value in explicit.items() if value is not None]):
            raise typer.BadParameter(f"--request says it all; leave out {', '.join(given)}")
        if request is not None:
            asked = _signable(request, now_s)
        else:
            if network_id is None or node_key is None:
                raise typer.BadParameter(
                    "give --request FILE, which `p2pnodes keys request` writes on the daemon's machine; or "
                    "--network-id and --node-key"
                )
            network = _hex(network_id, NETWORK_ID_BYTES, "--network-id")
            log_id = LogId(_hex(node_key, KEY_BYTES, "--node-key"), now_s if log is None else log)
            asked = DelegationRequest(network, log_id, None, url or "", *window(now_s, days or DAYS_DEFAULT), None)
        signed = asked.sign(load_signer(hotkey_file, uri, wallet, hotkey))
        if out is not None:
            write_signed(out, signed)
    _print_signed(signed, as_json=as_json)
    if verify is not None and not as_json:
        say("good: signed by the hotkey, and the time is right")


@command(
    app,
    "p2pnodes keys close --log HEX/NUMBER --good 0 --network-id HEX --wallet validator --out closing.json",
    "p2pnodes keys close --log HEX/NUMBER --good 9 --last-id HEX --network-id HEX --wallet w --out closing.json",
)
def close(
    *,
    log: Annotated[
        str, typer.Option("--log", metavar="HEX/NUMBER", help="The log to close: its node key, a slash, its number.")
    ],
    good: Annotated[int, typer.Option(min=0, metavar="N", help="How many events of it are good: the first N.")],
    last_id: Annotated[
        str | None, typer.Option(metavar="HEX", help="Id of the last good event, as events shows it; none with 0.")
    ] = None,
    network_id: Annotated[str, typer.Option(metavar="HEX", help="The network, as status shows it.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Write the closing here; it holds no secret.")],
    wallet: WalletOption = None,
    hotkey: HotkeyOption = None,
    hotkey_file: HotkeyFileOption = None,
    uri: UriOption = None,
    as_json: JsonOption = False,
) -> None:
    """Where the hotkey is: sign that a log ends, for a node key that was stolen or lost. Works offline.

    Everything in the log behind the last good event counts for nothing then, on every daemon, whenever it comes; of
    several closings the lowest counts, and none can be taken back. Hand the file to any running daemon of this hotkey
    with keys publish. Where the hotkey is on the daemon's machine, keys revoke does both.
    """
    from p2pnodes.chain.delegation import sign_closing, write_signed
    from p2pnodes.model.codec import DIGEST_BYTES
    from p2pnodes.model.events import Head
    from p2pnodes.model.protocol import NETWORK_ID_BYTES

    if (good == 0) is not (last_id is None):
        raise typer.BadParameter("--last-id is the id of the last good event: give it unless --good is 0")
    head = None if last_id is None else Head(good - 1, _hex(last_id, DIGEST_BYTES, "--last-id"))
    log_id = _log(log)
    network = _hex(network_id, NETWORK_ID_BYTES, "--network-id")
    signed = sign_closing(load_signer(hotkey_file, uri, wallet, hotkey), network, log_id, head)
    write_signed(out, signed)
    _print_signed(signed, as_json=as_json)


@command(app, "p2pnodes keys publish closing.json --config p2pnodes.toml")
def publish(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A closing, as keys close wrote it.")],
    *,
    config: DaemonOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hand a closing that was signed elsewhere to a running daemon, which tells the others.

    The daemon need not hold the log that is closed; the hotkey that signed must be that log's, else the closing counts
    for nothing. To repeat it does no harm.
    """
    from p2pnodes.chain.delegation import read_closing

    signed = read_closing(file)
    found = ask(admin_socket(config, socket_path), "/keys/close", signed.fields())
    _print({"log": found["log"], "good_events": found["good_events"]}, as_json=as_json)


@command(app, "p2pnodes keys rotate --config p2pnodes.toml")
def rotate(*, config: DaemonOption = None, socket_path: SocketOption = None, as_json: JsonOption = False) -> None:
    """Replace the node key of a running daemon by a new one. Everything that the old one wrote stays good.

    For a change on schedule, a new machine, an administrator who leaves. Nothing that was acknowledged is lost: the
    daemon writes a new key file, opens a new log with it, closes the old log at its last event, and meets its peers
    anew, which takes some seconds. The old key is worth nothing then.

    When somebody else may have used the key, keys revoke says from where on it does not count. When one log was
    written on two machines (a cloned disk, a backup that runs beside its original), stop one of them and rotate on the
    other: that is the whole way back.

    Needs the hotkey on this machine. Where it is elsewhere: stop the daemon, move the node key away, and make a new
    delegation (keys request, keys delegate) and a closing of the old log (keys close, keys publish).
    """
    found = ask(admin_socket(config, socket_path), "/keys/rotate", {}, timeout_s=ROTATE_S_MAX)
    _print({name: found[name] for name in ("node_key", "log", "closed")}, as_json=as_json)


@command(
    app,
    "p2pnodes keys revoke --config p2pnodes.toml",
    "p2pnodes keys revoke --config p2pnodes.toml --last 1207",
    "p2pnodes keys revoke --config p2pnodes.toml --log HEX/NUMBER --last -1",
)
def revoke(
    *,
    log: LogOption = None,
    last: Annotated[
        int | None,
        typer.Option(
            min=-1,
            metavar="SEQ",
            show_default="the last that counts",
            help="Seq of the last good event, as events shows it; -1: none is good.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    config: DaemonOption = None,
    socket_path: SocketOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a log whose node key is stolen or lost: what is in it behind the last good event counts for nothing.

    That holds on every daemon, whatever it received first, and cannot be taken back. Verdicts and places behind that
    event are void. Miners' requests are not lost: they carry the miners' own signatures, and the daemons that hold them
    publish them again, this one at once.

    Without --log the running daemon's own log ends, and its node key is replaced as by keys rotate. With --log another
    log of the same hotkey ends: that of a lost disk, of a machine that is gone, or one that a thief opened. Look at
    p2pnodes events --node-key HEX for what was written and when, and name the last event that was yours.

    Needs the hotkey on the daemon's machine. Where it is elsewhere: keys close there, keys publish here.
    """
    path = admin_socket(config, socket_path)
    named = None if log is None else _log_name(log)
    body = {"log": named, "last": last}
    if not yes:
        note(_voided(path, named, last))
        confirm("End this log? It cannot be taken back.", yes=yes)
    found = ask(path, "/keys/revoke", body, timeout_s=ROTATE_S_MAX)
    _print({name: found[name] for name in ("log", "good_events", "closed_by")}, as_json=as_json)


def _voided(path: Path, log: str | None, last: int | None) -> str:
    """What a revocation would void, in one line; the daemon decides what counts, this tells what it holds."""
    if log is None:
        status = ask(path, "/status")
        if status["log"] is None:
            return "this daemon has no log to end"
        name = {"node_key": status["node_key"], "number": str(status["log"]["number"])}
    else:
        name = dict(zip(("node_key", "number"), log.split("/"), strict=True))
    query = {**name, "newest_first": "true", "limit": str(VOIDED_MAX)}
    events = ask(path, f"/events?{urlencode(query)}")
    title = f"log {name['node_key']}/{name['number']}"
    if not events:
        return f"{title}: no event of it is held here"
    head = events[0]["seq"]
    if last is None:
        return f"{title}: it ends with what counts of its {head + 1} events; nothing that counts is voided"
    voided = [event for event in events if event["seq"] > last]
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(event["kind"] for event in voided).items()))
    more = " at least" if len(voided) == VOIDED_MAX else ""
    if not voided:
        return f"{title}: nothing is voided, its last event here is seq {head}"
    return f"{title}: {len(voided)} events behind seq {last} are voided{more}: {kinds}, up to seq {head}"


def _request_of_files(settings: "Settings", days: int) -> "DelegationRequest":
    """What a daemon that does not run will want to be signed: a renewal while its own log goes on, else the next log.

    A node key is made if there is none, as the daemon would do.
    """
    from p2pnodes.chain.delegation import DelegationRequest, window
    from p2pnodes.chain.file import read_electorate
    from p2pnodes.chain.wallet import create_node_key, load_node_key, read_hotkey_file
    from p2pnodes.model.events import LogId
    from p2pnodes.store.ownlog import read_own_log

    path = settings.node_key_path
    if path.exists():
        node_key = load_node_key(path)
    else:
        _make_parent(path)
        node_key = create_node_key(path)
        note(f"{path}: a new node key")
    public_key = node_key.public_key
    hotkey = None if settings.hotkey_path is None else read_hotkey_file(settings.hotkey_path).public_key
    now_s = int(time.time())
    held = read_own_log(settings.database_path, public_key)
    if held is None:
        log, predecessor = LogId(public_key, now_s), None
    elif held.goes_on and held.delegation is not None:
        log, predecessor = held.id, held.delegation.predecessor
        hotkey = hotkey or held.delegation.hotkey
    else:
        log, predecessor = LogId(public_key, max(now_s, held.id.number + 1)), (held.id, held.counted)
    file = settings.electorate.file
    electorate_s = None if file is None else read_electorate(file).time_ms // 1000
    times = window(now_s, days, electorate_s)
    return DelegationRequest(settings.network.id, log, hotkey, settings.http.url or "", *times, predecessor)


def _signable(path: Path, now_s: int) -> "DelegationRequest":
    """A request from its file.

    Raises:
        ConfigError: It cannot be read, or asks for a time that nobody should sign.
    """
    from p2pnodes.chain.delegation import DAY_S, DAYS_MAX, read_request

    asked = read_request(path)
    if not now_s < asked.not_after <= now_s + (DAYS_MAX + 1) * DAY_S:
        raise ConfigError(
            f"{path}: asks for a delegation until {utc(asked.not_after)}, and here it is {utc(now_s)}; expected an end "
            f"within the next {DAYS_MAX} days: set this machine's clock, or make a new request",
            code=Code.DELEGATION_WINDOW,
        )
    return asked


def _print_signed(signed: "DelegationRequest | SignedDelegation | SignedClosing", *, as_json: bool) -> None:
    """Show what one of the files says; times as people read them."""
    fields = signed.fields()
    if not as_json:
        fields |= {name: utc(fields[name]) for name in ("not_before", "not_after") if name in fields}
        if isinstance(position := fields.get("predecessor"), dict):
            fields["predecessor"] = f"{position['log']}, {position['good_events']} good events"
    _print(fields, as_json=as_json)


def _log(name: str) -> "LogId":
    from p2pnodes.chain.delegation import parse_log

    try:
        return parse_log(name.lower())
    except ValueError as error:
        raise typer.BadParameter(f"--log: {error}; found {name!r:.80}") from None


def _log_name(name: str) -> str:
    from p2pnodes.chain.delegation import log_name

    return log_name(_log(name))


def _node_key_path(config: Path | None) -> Path:
    from p2pnodes.config import load_settings

    path = load_settings(_required(config)).node_key_path
    _make_parent(path)
    return path


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path.parent}: cannot be made ({error.strerror}); choose another data_dir", code=Code.DATA_DIR
        ) from error


def _required(config: Path | None) -> Path:
    if config is None:
        raise typer.BadParameter(
            "give the key's file, or the daemon's configuration with --config (or P2PNODES_CONFIG)"
        )
    return config


def _of_file(path: Path) -> dict[str, Any]:
    """Public parts of a key file of either kind."""
    from p2pnodes.chain.wallet import HotkeyFile, read_key

    key = read_key(path)
    return _of_hotkey(key, path) if isinstance(key, HotkeyFile) else _of_node_key(key, path)


def _of_hotkey(hotkey: "Hotkey | HotkeyFile", path: Path | None) -> dict[str, Any]:
    file = {"file": str(path)} if path else {}
    return {"kind": "hotkey", "address": hotkey.address, "public_key": hotkey.public_key.hex(), **file}


def _of_node_key(node_key: "NodeKey | None", path: Path) -> dict[str, Any]:
    return {"kind": "node key", "public_key": node_key and node_key.public_key.hex(), "file": str(path)}


def _print(fields: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(fields)
    else:
        print_fields(fields)


def _hex(text: str, size: int, option: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != size:
        raise typer.BadParameter(f"{option}: expected {2 * size} hex digits, found {text!r:.80}")
    return found
