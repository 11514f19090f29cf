"""What is wrong with a daemon, by what it says of itself and what its disk says: judgements, without asking anybody.

``p2pnodes doctor`` asks, and shows them. Each finding names its check, what was found, and what to do about it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from p2pnodes.model.clock import CLOCK_OFF_MS_MAX
from p2pnodes.model.codes import Code

Level = Literal["ok", "warning", "problem", "not checked"]

DISK_BYTES_MIN: Final = 256 << 20
"""Free space below which a daemon may stop writing any hour: a write-ahead log takes 64 MiB, or 160 behind a load."""

DELEGATION_S_MIN: Final = 3 * 86_400
"""Time that a delegation should still hold: who signs it elsewhere needs some days."""

PEERS_NAMED_MAX: Final = 3
"""Peers that one finding names."""

PRIVATE_ADDRESS: Final = "[gossip] allow_private_addresses allows that"
"""In the reason of a dial that is not made because the address is no public one."""

OTHER_LOGS_NAMED_MAX: Final = 3
"""Logs of the own hotkey by other daemons that get a finding each."""


class Finding(NamedTuple):
    """What one check found.

    Attributes:
        check: Its name, one word.
        level: How bad it is.
        found: One line.
        advice: What to do; empty when nothing is to be done.
        code: Which kind of problem or warning it is; None for none.
    """

    check: str
    level: Level
    found: str
    advice: str = ""
    code: str | None = None


def of_status(status: Mapping[str, Any], now_s: float) -> list[Finding]:
    """Judge a running daemon by ``Daemon.status()``.

    Args:
        status: Its answer.
        now_s: Wall clock, Unix seconds.
    """
    return [
        _clock(status["clock_offset_ms"]),
        _electorate(status),
        *_delegation(status["delegation"], now_s),
        *_writes(status),
        _peers(status["gossip"]),
        _agreement(status["gossip"]["peers"]),
        *_verifier(status["verification"]),
        _forks(status),
        *_checkpoint(status["checkpoint"]),
        *_elsewhere(status["other_logs"]),
    ]


def of_disk(free_bytes: int, database_bytes: int) -> Finding:
    """Judge the disk that holds the data directory.

    Args:
        free_bytes: What the daemon's user may still write.
        database_bytes: Size of the database with its write-ahead log, 0 for none yet.
    """
    free = f"{size(free_bytes)} free, the database takes {size(database_bytes)}"
    if free_bytes < DISK_BYTES_MIN:
        return Finding(
            "disk",
            "problem",
            free,
            "make room: without it nothing can be written, and writes answer 503",
            Code.DATA_DISK_LOW,
        )
    if free_bytes < database_bytes:
        return Finding(
            "disk",
            "warning",
            free,
            "make room for a copy of the database: `backup` and recovery need it",
            Code.DATA_DISK_LOW,
        )
    return Finding("disk", "ok", free)


def size(size_bytes: int) -> str:
    """Bytes in the unit in which one says them."""
    for unit, unit_bytes in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes} bytes"


def _clock(offset_ms: int | None) -> Finding:
    if offset_ms is None:
        return Finding("clock", "not checked", "no peer tells the time, and the chain did not contradict it")
    found = f"{-offset_ms / 1000:+.1f} s off the peers' median"
    if abs(offset_ms) > CLOCK_OFF_MS_MAX:
        return Finding("clock", "problem", found, "set the system clock right and keep it so (NTP)", Code.WRITES_CLOCK)
    return Finding("clock", "ok", found)


def _electorate(status: Mapping[str, Any]) -> Finding:
    electorate = status["electorate"]
    if electorate["error"]:
        return Finding(
            "chain",
            "problem",
            str(electorate["error"]),
            "check [electorate]: `p2pnodes config check`, the endpoints",
            electorate.get("code") or Code.CHAIN_UNREAD,
        )
    return Finding("chain", "ok", f"electorate of block {electorate['block']}, {electorate['age_s']} s old")


def _delegation(delegation: Mapping[str, Any] | None, now_s: float) -> Iterator[Finding]:
    if delegation is None:  # an observer, or a log that is not open yet: ``writes`` says why
        return
    if delegation.get("error"):
        yield Finding(
            "delegation", "problem", str(delegation["error"]), "renew it: `p2pnodes keys request`", Code.DELEGATION_FILE
        )
        return
    left_s = delegation["not_after"] - now_s
    found = f"the own log's delegation holds for {max(0, left_s) / 86_400:.1f} days"
    if left_s < DELEGATION_S_MIN:
        yield Finding(
            "delegation", "problem", found, "renew it: see `p2pnodes keys request`, and the log", Code.DELEGATION_ENDING
        )
    else:
        yield Finding("delegation", "ok", found)


def _writes(status: Mapping[str, Any]) -> Iterator[Finding]:
    failure = status["database"]["failure"]
    if failure:
        yield Finding(
            "database", "problem", f"cannot be written: {failure}", "see the disk, and its owner", Code.DATA_NOT_WRITTEN
        )
    database = status["database"]
    if found := database.get("damaged_events"):  # a daemon of a release before knows of none
        left = database["damaged_left"]
        yield Finding(
            "database", "problem" if left else "warning",
            f"{found} stored events were found damaged since the start, {left} of them did not come again from peers",
            "look at the disk (`smartctl`, `dmesg`), then run `p2pnodes db verify`", Code.DATA_EVENT,
        )  # fmt: skip
    if status["role"] == "observer":
        return
    writes = status["writes"]
    if writes["allowed"]:
        yield Finding("writes", "ok", "taken")
    else:
        code = writes.get("code") or Code.WRITES_REFUSED
        found = f"answered 503: {writes['reason']}"
        yield Finding("writes", "problem", found, f"`p2pnodes logs explain {code}` says what to do", code)


def _peers(gossip: Mapping[str, Any]) -> Finding:
    peers = gossip["peers"]
    connected = [peer for peer in peers if peer["connected"]]
    members = gossip["view"]["members"]
    if connected:
        accepted = sum(peer["direction"] == "accepted" for peer in connected)
        return Finding("peers", "ok", f"{len(connected)} connected, {accepted} of them reached this daemon")
    if not members:
        return Finding("peers", "ok", "there is no other validator in the electorate")
    if not peers:
        return Finding(
            "peers", "problem", f"none of {members} validators has a known address",
            "give one that runs a daemon in [gossip] bootstrap", Code.DIAL_NO_PEERS,
        )  # fmt: skip
    errors = Counter(str(peer.get("last_error")) for peer in peers if peer.get("last_error"))
    common = (
        "; ".join(f"{error} ({count})" for error, count in errors.most_common(PEERS_NAMED_MAX)) or "not dialled yet"
    )
    advice = "check that this machine may dial out, and the reasons in `p2pnodes peers`"
    if errors and all(PRIVATE_ADDRESS in error for error in errors):
        advice = "set [gossip] allow_private_addresses = true if these peers are in your own network"
    return Finding(
        "peers", "problem", f"none of {len(peers)} known addresses is connected: {common}", advice, Code.DIAL_NO_PEERS
    )


def comparable(peer: Mapping[str, Any]) -> bool:
    """Whether the state root of a peer's last digest must equal ours: where anything else differs, it does by right."""
    return all(peer.get(f"same_{name}") for name in ("vector", "electorate", "checkpoint"))


def _agreement(peers: list[Mapping[str, Any]]) -> Finding:
    compared = [peer for peer in peers if peer["connected"] and comparable(peer)]
    apart = [str(peer["hotkey"]) for peer in compared if not peer["same_state_root"]]
    if apart:
        more = f" and {len(apart) - PEERS_NAMED_MAX} more" if len(apart) > PEERS_NAMED_MAX else ""
        return Finding(
            "agreement", "problem",
            f"equal events and stakes, but another state root than {', '.join(apart[:PEERS_NAMED_MAX])}{more}",
            "run `p2pnodes db verify` on both: one of the databases is damaged, or a build has a bug",
            Code.DATA_DAMAGED,
        )  # fmt: skip
    if not compared:
        return Finding("agreement", "not checked", "no connected peer holds the same events and stakes right now")
    return Finding("agreement", "ok", f"equal state roots with all {len(compared)} peers that hold the same events")


def _verifier(verification: Mapping[str, Any] | None) -> Iterator[Finding]:
    if verification is None:
        return
    if verification["problem"]:
        yield Finding(
            "verifier",
            "problem",
            f"{verification['method']}: {verification['problem']}",
            "see [verify] and its service",
            Code.VERIFIER_UNAVAILABLE,
        )
    elif verification["method"] == "none":
        yield Finding(
            "verifier",
            "warning",
            "every claim gets the verdict verified, unchecked",
            "set [verify] verifier",
            Code.VERIFIER_NONE,
        )
    else:
        yield Finding("verifier", "ok", f"{verification['method']} works, {verification['running']} checks run")


def _forks(status: Mapping[str, Any]) -> Finding:
    own = status["log"]
    name = None if own is None else f"{status['node_key']}/{own['number']}"
    if any(fork["log"] == name for fork in status["forks"]):
        return Finding(
            "forks", "problem", "the own log is proved to fork: another process wrote it, too",
            "find the other one (a clone of this disk?) and stop it; `p2pnodes forks` has the proof",
            Code.LOG_FORKED,
        )  # fmt: skip
    return Finding("forks", "ok", f"{len(status['forks'])} of other daemons are proved")


def _checkpoint(checkpoint: Mapping[str, Any]) -> Iterator[Finding]:
    """What an operator has to know of; that a live set is being loaded ``writes`` says."""
    if checkpoint["differs"]:
        yield Finding(
            "checkpoint", "problem",
            f"validators signed another live set than this daemon finds; {checkpoint['number'] or 'none'} is in force",
            "see “A checkpoint differs” in `p2pnodes docs recover`, and make a backup before anything else",
            Code.CHECKPOINT_DIFFERS,
        )  # fmt: skip
    if checkpoint["lacks"] is not None and checkpoint["loading"] is None:
        yield Finding(
            "checkpoint", "warning",
            f"{checkpoint['lacks']} is final, and not all that it takes is here",
            "wait: it is loaded from peers; with none connected see `p2pnodes peers`",
            Code.CHECKPOINT_LACKS,
        )  # fmt: skip
    if checkpoint["leaves_own_log_out"]:
        yield Finding(
            "checkpoint", "problem", f"{checkpoint['number']} does not name the own log: its hotkey has too many",
            "see “A checkpoint does not name the own log” in `p2pnodes docs recover`",
            Code.LOG_LEFT_OUT,
        )  # fmt: skip


def _elsewhere(others: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    for other in others[:OTHER_LOGS_NAMED_MAX]:
        at = datetime.fromtimestamp(other["written_at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        yield Finding(
            "hotkey", "problem", f"another daemon writes with this hotkey: log {other['log']}, last at {at}",
            f"stop it if it is yours; else the hotkey is stolen: `p2pnodes keys revoke --last -1 --log {other['log']}`",
            Code.LOG_ELSEWHERE,
        )  # fmt: skip
