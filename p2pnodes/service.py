"""The daemon as a systemd service: the texts of its unit, its user and its configuration.

``p2pnodes service install`` writes them, ``configs/p2pnodes.service`` and ``configs/p2pnodes.sysusers`` are what it
writes for a program in /usr/bin.

Source: systemd.exec(5), systemd.service(5), sysusers.d(5); ``systemd-analyze security`` says what a sandbox is worth.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError

NAME: Final = "p2pnodes"
"""Of the unit, its user and group, and its directories below /etc and /var/lib."""

PROGRAM: Final = "/usr/bin/p2pnodes"
"""Where a package of the distribution would put it."""

CONFIG: Final = f"/etc/{NAME}/{NAME}.toml"

UNITS: Final = Path("/etc/systemd/system")
"""The administrator's own units; one there hides a package's of the same name."""

PACKAGED_UNIT: Final = Path("/usr/lib/systemd/system", f"{NAME}.service")
"""Where a package of the distribution puts the unit; with it come the user and the updates of both."""

ADMIN_PORT: Final = 9464
"""Loopback port of the console and of metrics that a new configuration names."""

DROP_IN: Final = f"{NAME}.service.d/hotkey.conf"
"""What hands the hotkey to the system's service, beside its unit."""

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
"""Hosts where nobody but this machine reaches a daemon."""

HIDDEN: Final = ("/home", "/root", "/run/user")
"""What ``ProtectHome=`` hides from the service: a program or a configuration there is none for it."""

UNSAFE: Final = frozenset("\"'\\")
"""Characters that systemd lets stand in no program's path."""

_UNIT: Final = """\
[Unit]
Description=p2pnodes: the GPU inventory of a Bittensor subnet, kept by its validators
Wants=network-online.target
After=network-online.target time-sync.target

[Service]
# READY comes once the database is open and the daemon listens; how far it is behind its peers, /readyz and the status
# say. So the first validator of a network starts, too.
Type=notify
NotifyAccess=main
ExecStart={program} run --config {config}
# Follows log level, bootstrap and the electorate's age; for all else it says that it needs a restart.
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5s
# A large log of another build's is counted anew at the start.
TimeoutStartSec=30min
# It bounds its own stop (12 s), and says then what did not end.
TimeoutStopSec=15s
# A stop is told to the daemon alone: it ends the processes that it has started, which end with it in any case. Told
# too, one dies in the middle of an answer and is blamed for it. What is there after the time, or after it, is killed.
KillMode=mixed
# A sign of life means that the writer did a job. Longer than the largest recount in one go: about two minutes for a
# log of a million events.
WatchdogSec=5min
# Where it listens outlives it: while it is restarted, connections wait instead of being refused.
FileDescriptorStoreMax=8
{user}UMask=0027
LimitNOFILE=16384
LimitCORE=0
# A name that is looked up has a thread until its servers answer: 32 of miners that register, 256 of peers, 512 of hosts
# and services that are asked. The daemon has some 40 threads and two processes besides.
TasksMax=1024
{sandbox}
[Install]
WantedBy={target}
"""

_USER: Final = f"""\
# A user of its own, who stays the same: members of the group may read the database and use the admin socket.
User={NAME}
Group={NAME}
StateDirectory={NAME}
StateDirectoryMode=0750
"""

_SANDBOX: Final = """
# The daemon listens and dials out, and writes to its state directory. Everything else is taken from it.
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
"""
"""What a user's own service manager can do as well."""

_SYSTEM_SANDBOX: Final = """\
AmbientCapabilities=
CapabilityBoundingSet=
DevicePolicy=closed
KeyringMode=private
PrivateDevices=yes
PrivateIPC=yes
PrivateTmp=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictNamespaces=yes
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
# It lowers its own limits (no core dumps); the processes that it starts their memory, one of them its priority.
SystemCallFilter=setpriority setrlimit
"""

TRUSTED_PROXIES: Final = ("127.0.0.1/32", "::1/128")
"""Whose word about clients is believed where only this machine's own proxy reaches the daemon."""

GRAVAL_URL: Final = "http://127.0.0.1:8001"
"""Where the GraVal service is, unless it is said."""

_COMMENTS: Final = {
    "[api]": "The reverse proxy on this machine says who a client is; without it all share one client's limits.",
    "[verify]": "`p2pnodes docs verifiers` says what each way of checking needs and proves.",
}
"""Table of a new configuration -> what is said of it there."""

_HEADING: Final = (
    "# Written by `p2pnodes service install`; `p2pnodes config show --config FILE` explains every setting.\n"
)

_CREDENTIAL: Final = """\
# Only root can read the hotkey; systemd hands it to the service, and to nobody else.
[Service]
LoadCredential=hotkey:{hotkey}
"""


class Choice(NamedTuple):
    """What an installation is for.

    Attributes:
        program: Absolute path of ``p2pnodes``.
        network: Content of the network file.
        url: Where the daemon is reached; None when it only dials out.
        host: Where it listens.
        port: And on which port.
        bootstrap: Base URLs to begin with.
        hotkey: The hotkey's file; None for an observer.
        home: Of the user whose own service it is; None for the system's.
        admin_port: Where on 127.0.0.1 the console and metrics are; None for nowhere.
        packaged: Whether the unit for this program came with a package: then it is not written, nor its user.
        systemd: Whether systemd runs where the files are written; without it the operator starts the daemon by hand.
        verifier: How it checks GPUs; None for what the network file says.
    """

    program: Path
    network: str
    url: str | None
    host: str
    port: int
    bootstrap: Sequence[str]
    hotkey: Path | None
    home: Path | None
    admin_port: int | None = ADMIN_PORT
    packaged: bool = False
    systemd: bool = True
    verifier: str | None = None


class File(NamedTuple):
    """A file that an installation has.

    Attributes:
        path: Absolute.
        content: Its text.
        keep: Whether one that is there already stays as it is: somebody may have edited it.
    """

    path: Path
    content: str
    keep: bool = False


class Plan(NamedTuple):
    """What an installation does.

    Attributes:
        config: The configuration, one of the files.
        files: Written in this order.
        commands: Run then, by whoever owns the service manager.
        following: Commands that are left to the operator: they start the daemon.
    """

    config: Path
    files: Sequence[File]
    commands: Sequence[Sequence[str]]
    following: Sequence[str]


def plan(choice: Choice) -> Plan:
    """What is to be done for a service.

    Raises:
        ConfigError: The service could not run the program where that is.
    """
    import tomli_w

    home = choice.home
    if not choice.packaged:
        _require_runnable(choice.program)
    if home is None:
        _require_visible(choice.program)
        config, data, units = Path("/etc", NAME), Path("/var/lib", NAME), UNITS
    else:
        config, data, units = home / ".config" / NAME, home / ".local/share" / NAME, home / ".config/systemd/user"
    settings: dict[str, object] = {"data_dir": str(data)}
    if choice.hotkey is None:
        settings["role"] = "observer"
    elif home is not None:
        settings["hotkey_file"] = str(choice.hotkey)
    if choice.verifier is not None:
        settings["verify"] = {"verifier": choice.verifier}
        if choice.verifier == "graval":
            settings["verify"] = {"verifier": choice.verifier, "graval": {"url": GRAVAL_URL}}
    http = {"host": choice.host, "port": choice.port, **({} if choice.url is None else {"url": choice.url})}
    settings |= {"network_file": "network.toml", "http": http}
    if choice.admin_port is not None:
        settings["admin"] = {"port": choice.admin_port}
    if choice.url is not None and choice.host in LOOPBACK:
        settings["api"] = {"trusted_proxies": list(TRUSTED_PROXIES)}
    if choice.bootstrap:
        settings["gossip"] = {"bootstrap": list(choice.bootstrap)}
    path = config / f"{NAME}.toml"
    files = [
        File(config / "network.toml", choice.network),
        File(path, _HEADING + _commented(tomli_w.dumps(settings)), keep=True),
    ]
    if not choice.packaged:
        files.append(File(units / f"{NAME}.service", unit(str(choice.program), str(path), user=home is not None)))
    commands: list[Sequence[str]] = []
    if home is None:
        if choice.hotkey is not None:
            files.append(File(units / DROP_IN, credential(str(choice.hotkey))))
        if not choice.packaged:
            users = File(Path("/etc/sysusers.d", f"{NAME}.conf"), sysusers())
            files.append(users)
            commands.append(("systemd-sysusers", str(users.path)))
    if not choice.systemd:
        # Without a credential the daemon is told where the hotkey is.
        key = () if choice.hotkey is None or home is not None else ("--hotkey-file", str(choice.hotkey))
        run = shlex.join([str(choice.program), "run", "--config", str(path), *key])
        return Plan(path, files, [], (run,))
    manager = ("systemctl",) if home is None else ("systemctl", "--user")
    commands.append((*manager, "daemon-reload"))
    following = [f"{' '.join(manager)} enable --now {NAME}"]
    if home is not None:
        following.append("loginctl enable-linger    # so that it outlives your session")
    return Plan(path, files, commands, following)


def _commented(text: str) -> str:
    for table, comment in _COMMENTS.items():
        text = text.replace(f"\n{table}\n", f"\n# {comment}\n{table}\n")
    return text


def hands_hotkey(config: Path) -> bool:
    """Whether the system's service of a configuration is handed a hotkey, as ``plan`` writes it beside."""
    try:
        return (config.parent.parent / "systemd/system" / DROP_IN).is_file()
    except OSError:  # it cannot be told by this user
        return False


def _require_visible(program: Path) -> None:
    """Refuse a program where the sandbox hides it."""
    for place in HIDDEN:
        if program.is_relative_to(place):
            raise ConfigError(
                f"the service cannot run {program}: its sandbox hides {place}; install p2pnodes elsewhere, as with "
                "`pipx install --global p2pnodes`, or take --user",
                code=Code.CONFIG_SERVICE,
            )


def _require_runnable(program: Path) -> None:
    """Refuse a program whose path systemd takes for none: it would find the whole unit bad.

    Source: systemd.service(5), ``string_is_safe`` in systemd's sources.
    """
    if not str(program).isprintable() or UNSAFE & set(str(program)):
        raise ConfigError(
            f"the service cannot run {str(program)!r}: systemd takes no program whose path holds quotes, backslashes "
            "or control characters; install p2pnodes elsewhere",
            code=Code.CONFIG_SERVICE,
        )


def unit(program: str = PROGRAM, config: str = CONFIG, *, user: bool = False) -> str:
    """Text of the unit.

    Args:
        program: Absolute path of ``p2pnodes``.
        config: Absolute path of its configuration.
        user: For a user's own service manager instead of the system's.
    """
    return _UNIT.format(
        program=_quoted(program.replace("%", "%%")),  # unlike in arguments, $ means nothing in it
        config=_quoted(config.replace("%", "%%").replace("$", "$$")),
        user="" if user else _USER,
        sandbox=_SANDBOX + ("" if user else _SYSTEM_SANDBOX),
        target="default.target" if user else "multi-user.target",
    )


def sysusers() -> str:
    """Who the service runs as, for ``systemd-sysusers``."""
    return f'# The user and the group that the daemon runs as.\nu {NAME} - "p2pnodes daemon" /var/lib/{NAME}\n'


def credential(hotkey: str) -> str:
    """Text of a drop-in that hands a hotkey's file to the service."""
    return _CREDENTIAL.format(hotkey=hotkey.replace("%", "%%"))


def _quoted(path: str) -> str:
    """A path as one word of ExecStart=: blanks and quotes lose their meaning."""
    if not any(letter.isspace() or letter in "\"'\\;" for letter in path):
        return path
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
