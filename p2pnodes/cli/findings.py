"""What ``config check`` finds in a configuration and the files that it names, or in a network file."""

import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from p2pnodes.cli.output import duration, utc
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.store.directory import status_of

if TYPE_CHECKING:
    from p2pnodes.chain.delegation import SignedDelegation
    from p2pnodes.chain.wallet import HotkeyFile
    from p2pnodes.config import Settings
    from p2pnodes.model.electorate import Electorate
    from p2pnodes.model.keys import NodeKey

_Found = TypeVar("_Found")


class Findings(NamedTuple):
    """What was found.

    Attributes:
        problems: What keeps a daemon from starting, a line each.
        warnings: What works, but perhaps not as it was meant to, a line each.
        shown: What else is told, JSON-able; of a network file its id, and what is hashed into that and what is not.
    """

    problems: list[str]
    warnings: list[str]
    shown: dict[str, Any]


def nearest(path: Path) -> tuple[Path, os.stat_result]:
    """A path, or the nearest one above it that there is, and what that leads to.

    Raises:
        OSError: See ``status_of``.
    """
    while (status := status_of(path)) is None:
        path = path.parent
    return path, status


def of_network_file(path: Path) -> Findings:
    """Check a network file.

    Raises:
        InvalidSettingsError: It cannot be used; lists every problem.
    """
    from p2pnodes.config import load_network_file
    from p2pnodes.model.problems import masked

    network, defaults = load_network_file(path)
    if "options" in (verify := defaults.get("verify", {})):
        defaults["verify"] = {**verify, "options": masked(verify["options"])}
    shown = {
        "network_id": network.id.hex(),
        "hashed": network.model_dump(mode="json"),
        "not_hashed": {
            f"{table}.{name}": value for table, values in defaults.items() for name, value in values.items()
        },
    }
    return Findings([], [], shown)


def of_configuration(config: Path, options: Mapping[str, Any]) -> Findings:
    """Check a configuration and the files that it names.

    Args:
        config: The daemon's configuration.
        options: Settings from the command line, see ``load_settings``.

    Raises:
        InvalidSettingsError: It cannot be read itself; lists every problem.
    """
    from p2pnodes.api.denied import read_denied
    from p2pnodes.chain.delegation import read_delegation
    from p2pnodes.chain.file import read_electorate
    from p2pnodes.chain.wallet import load_hotkey, load_node_key, read_hotkey_file
    from p2pnodes.config import load_settings
    from p2pnodes.verify.exchange import Exchange
    from p2pnodes.verify.verifier import Setup, make_verifier

    settings = load_settings(config, options)
    problems: list[str] = []

    def checked(load: Callable[[Path], _Found], path: Path | None, *, optional: bool = False) -> _Found | None:
        try:
            return None if path is None or (optional and status_of(path) is None) else load(path)
        except P2PNodesError as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(f"{path}: cannot be looked for ({error.strerror}); run this as the daemon's user")
        return None

    electorate = checked(read_electorate, settings.electorate.file)
    elsewhere = settings.delegation_file is not None
    hotkey = checked(read_hotkey_file, settings.hotkey_path)
    if hotkey is not None and hotkey.hotkey is None and not elsewhere:
        checked(load_hotkey, settings.hotkey_path)  # says why a public part is not enough
    node_key = checked(load_node_key, settings.node_key_path, optional=settings.node_key_file is None)
    delegation = checked(read_delegation, settings.delegation_file)
    if delegation is not None:
        problems += _delegation_problems(settings, delegation, node_key, hotkey)
    checked(read_denied, settings.api.deny_file)
    signing = hotkey is not None and hotkey.hotkey is not None
    if settings.role == "validator" and (signing or elsewhere):  # without one nothing is verified
        exchange = Exchange(allow_private=settings.api.allow_private_hosts, online=lambda: True)
        key = None if hotkey is None else hotkey.hotkey
        setup = Setup(settings.verify, key, settings.network, exchange, time.time, os.urandom)
        checked(lambda _: make_verifier(settings.verify.verifier, setup), config)
    problem, warning = _data_dir_findings(settings.data_dir)
    warnings = service_warnings(settings) + _hotkey_warnings(settings, hotkey, delegation, electorate)
    warnings += _chain_warnings(settings) + _network_warnings(settings)
    if electorate is not None:
        warnings += _electorate_warnings(settings, electorate)
    return Findings(problems + problem, warnings + warning, {})


def service_warnings(settings: "Settings") -> list[str]:
    """What a daemon of a real network had better not be started with."""
    if not settings.network.genesis_hash.strip("0"):  # a network of one's own
        return []
    warnings: list[str] = []
    if settings.role == "validator" and settings.verify.verifier == "none":
        warnings.append(
            'verify.verifier: "none" votes verified without a check, with the stake of this validator: choose another, '
            "see `p2pnodes docs verifiers`"
        )
    if not settings.gossip.bootstrap and not _has_run(settings):
        found = "only axons on chain lead to peers" if settings.electorate.urls else "nothing leads to peers"
        warnings.append(f"gossip.bootstrap: empty, so {found}; add the URL of one validator's daemon")
    return warnings


def _has_run(settings: "Settings") -> bool:
    """Whether a daemon was here before, and so may know peers; also where this user cannot tell."""
    try:
        return status_of(settings.database_path) is not None
    except OSError:
        return True


def _delegation_problems(
    settings: "Settings", signed: "SignedDelegation", node_key: "NodeKey | None", hotkey: "HotkeyFile | None"
) -> list[str]:
    """Why a daemon cannot use its delegation file, though it is well signed."""
    from p2pnodes.chain.delegation import misfits

    path, not_after = settings.delegation_file, signed.delegation.not_after
    assert path is not None
    problems = misfits(
        signed,
        path,
        settings.network.id,
        None if node_key is None else node_key.public_key,
        None if hotkey is None else hotkey.public_key,
    )
    if time.time() >= not_after:
        problems.append(f"{path}: ended at {utc(not_after)}: make a new request with `p2pnodes keys request`")
    return problems


def _network_warnings(settings: "Settings") -> list[str]:
    """Parameters of the network file that this daemon overrides: it would be in a network of its own."""
    from p2pnodes.config import load_network_file

    if settings.network_file is None:
        return []
    network, _ = load_network_file(settings.network_file)
    return [
        f"network.{each.name}: {each.here} here, {each.there} in {settings.network_file}: another network id, so peers "
        "of that file refuse this daemon"
        for each in settings.network.differences(network.parameters)
    ]


def _hotkey_warnings(
    settings: "Settings",
    hotkey: "HotkeyFile | None",
    delegation: "SignedDelegation | None",
    electorate: "Electorate | None",
) -> list[str]:
    """What keeps this daemon from voting and writing."""
    from p2pnodes.model.keys import ss58_encode
    from p2pnodes.service import hands_hotkey

    if settings.role == "observer":
        return []
    warnings: list[str] = []
    if settings.hotkey_path is None and settings.delegation_file is None and not hands_hotkey(settings.config_file):
        warnings.append(
            "neither wallet nor hotkey_file nor delegation_file is set: unless its unit hands it a hotkey, the daemon "
            "serves and gossips, but cannot open a log, renew its delegation or vote"
        )
    if hotkey is not None and hotkey.hotkey is not None and settings.delegation_file is not None:
        warnings.append("delegation_file is not used: the hotkey is on this machine, and signs by itself")
    public_key = hotkey.public_key if hotkey is not None else delegation and delegation.delegation.hotkey
    if public_key is not None and electorate is not None and not electorate.permitted(public_key):
        warnings.append(
            f"the hotkey {ss58_encode(public_key)} holds no permit in {settings.electorate.file}: nothing that this "
            "daemon writes would count"
        )
    if delegation is not None and (delegation.delegation.url or None) != settings.http.url:
        warnings.append(
            f"{settings.delegation_file}: peers go by its URL, {delegation.delegation.url or 'none'}, "
            f"but http.url is {settings.http.url or 'unset'}: make a new request with `p2pnodes keys request`"
        )
    return warnings


def _chain_warnings(settings: "Settings") -> list[str]:
    """What makes the chain's endpoints worth less than they could be."""
    from p2pnodes.model.addresses import has_credentials, without_credentials
    from p2pnodes.service import LOOPBACK

    urls = settings.electorate.urls
    hosts = {urlsplit(url).hostname for url in urls}
    warnings: list[str] = []
    if urls and len(hosts) < 2 and not hosts <= LOOPBACK:
        warnings.append(
            "electorate.urls: one endpoint, so nothing tells when it lies or stands still; "
            "give a second one of another operator"
        )
    warnings += [
        f"electorate.urls: {without_credentials(url)} is not encrypted: whoever is in between can change what it says; "
        "use wss://"
        for url in urls
        if url.startswith("ws://") and urlsplit(url).hostname not in LOOPBACK
    ]
    if any(has_credentials(url) for url in urls) and settings.origins.get("electorate.urls") == "file":
        mode = stat.S_IMODE(settings.config_file.stat().st_mode)
        if mode & stat.S_IROTH:
            warnings.append(
                f"{settings.config_file}: others can read the credentials in electorate.urls (mode {mode:04o}): run "
                f"`chmod o= {settings.config_file}`"
            )
    return warnings


def _electorate_warnings(settings: "Settings", electorate: "Electorate") -> list[str]:
    """What makes an electorate look old, or like one of another network."""
    file, network = settings.electorate.file, settings.network
    warnings: list[str] = []
    if electorate.block % network.epoch_blocks:
        warnings.append(
            f"{file}: block {electorate.block} is no multiple of network.epoch_blocks, {network.epoch_blocks}"
        )
    age_s = time.time() - electorate.time_ms / 1000
    if age_s > network.verdict_ttl_s:
        warnings.append(
            f"{file}: {duration(age_s)} old, but verdicts lapse after {duration(network.verdict_ttl_s)} "
            "(network.verdict_ttl_s): write a newer one"
        )
    return warnings


def _data_dir_findings(data_dir: Path) -> tuple[list[str], list[str]]:
    """Whether the data directory, or the nearest directory in which it would be made, can be written.

    A path that leads through a file is a problem for everybody; what this user may not do, the daemon's perhaps may.
    """
    try:
        place, status = nearest(data_dir)
    except OSError as error:
        return [], [f"data_dir {data_dir}: cannot be looked into by this user ({error.strerror})"]
    if not stat.S_ISDIR(status.st_mode):
        return [f"data_dir {data_dir}: {place} is no directory; choose another"], []
    if not os.access(place, os.W_OK | os.X_OK):
        return [], [f"data_dir {data_dir}: {place} cannot be written by this user; the daemon's must be able to"]
    return [], []
