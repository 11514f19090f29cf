"""Stable codes of everything that is refused or fails: what each means, and what to do about it.

An error says what was found this once; its code says which kind of thing that is, and stays the same for as long as
the interface does. Programs compare codes, people look them up: ``p2pnodes logs explain CODE`` and ``docs/codes.md``
show what stands here. A code is never renamed and never given another meaning; what is not used any more stays listed.

Errors carry theirs as ``P2PNodesError.code``, log records as the field ``code``, answers of the public HTTP interface
in the header ``P2PNodes-Code``, those of the operator's interface also under ``code``; commands end an error's line
with it, in brackets. A reason that is no error (of a refusal that lasts, a void event, a session that ended) is a
``Reason``: a text that knows its code.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Self

HEADER: Final = "P2PNodes-Code"
"""Header of every answer over HTTP to a request that was refused or failed."""

CODE_CHARS_MAX: Final = 64
"""Longest code; what claims to be one and is longer is none."""

_SLUG: Final = re.compile(r"[a-z]+(?:-[a-z]+)+")

AREAS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "config": "Configuration and environment",
        "key": "Keys on this machine",
        "delegation": "Delegations and closings",
        "data": "Data directory, database, backups",
        "chain": "Chain and electorate",
        "writes": "Writes that this daemon refuses",
        "log": "The own log",
        "event": "Events and logs of others",
        "checkpoint": "Checkpoints",
        "void": "Void events",
        "dial": "Dials to peers",
        "handshake": "Handshakes that are refused",
        "session": "Sessions that end",
        "verifier": "Verification",
        "api": "Requests of miners and other clients",
        "admin": "Requests of operators",
        "miner": "The miner's client",
        "agent": "The miner's agent",
        "gpu": "GPUs of a host",
        "proof": "Proofs",
        "system": "The system, and what none of this foresaw",
    }
)
"""First word of a code -> what its codes are about, in the order in which they are listed."""


class Code(StrEnum):
    """One kind of error or refusal; its value is the code as everybody sees it.

    Attributes:
        meaning: What has happened, one or two sentences.
        advice: What to do about it.
    """

    meaning: str
    advice: str

    def __new__(cls, slug: str, meaning: str, advice: str) -> Self:
        """Make a member of its code, meaning and advice."""
        member = str.__new__(cls, slug)
        member._value_ = slug
        member.meaning = meaning
        member.advice = advice
        return member

    @property
    def area(self) -> str:
        """Its first word, a key of AREAS."""
        return self.value.partition("-")[0]

    # -- configuration and environment -------------------------------------------------------------------------------

    CONFIG_VALUE = (
        "config-value",
        "A setting, or several that contradict each other, cannot be used.",
        "The message names the setting, what it holds and what it may hold; `p2pnodes config check` lists all of them.",
    )
    CONFIG_FILE = (
        "config-file",
        "The configuration is missing, cannot be read, or is not TOML.",
        "Check the path after --config and that the daemon's user may read it; `p2pnodes config check` shows the line.",
    )
    CONFIG_WARNING = (
        "config-warning",
        "The configuration works, but probably not as it is meant.",
        "Read the warning; `p2pnodes config check` repeats it with the setting's name.",
    )
    CONFIG_NEEDS_RESTART = (
        "config-needs-restart",
        "The configuration was read again, and settings changed that a running daemon cannot follow.",
        "Restart the daemon when it suits; until then the settings of its start are in force.",
    )
    CONFIG_ADDRESS_TAKEN = (
        "config-address-taken",
        "The daemon cannot listen where it should: the port is taken, or the address is not this machine's.",
        "Stop what listens there (`ss -ltnp`), or set another host or port in [http] or [admin].",
    )
    CONFIG_ADMIN_SOCKET = (
        "config-admin-socket",
        "The operator's Unix socket cannot be made at its path.",
        "Set admin.socket to a short path where the daemon's user may write; stop a daemon that holds it.",
    )
    CONFIG_NO_URL = (
        "config-no-url",
        "The setting http.url is unset, so that peers and miners cannot dial this daemon.",
        "Set [http] url to the public base URL, unless this daemon is to dial out only.",
    )
    CONFIG_UNREACHABLE = (
        "config-unreachable",
        "The public URL does not lead to this daemon, or WebSockets do not pass.",
        "Check the name, the firewall and the proxy; `p2pnodes docs --file nginx.conf` prints one that works.",
    )
    CONFIG_ENVIRONMENT = (
        "config-environment",
        "An environment variable holds something else than it must.",
        "Unset it, or set it right; NOTIFY_SOCKET and WATCHDOG_USEC are systemd's to set.",
    )
    CONFIG_HARDENING = (
        "config-hardening",
        "The process cannot be protected as the keys in its memory need it: core dumps cannot be turned off.",
        "Allow prctl and setrlimit in the sandbox or container that this runs in.",
    )
    CONFIG_DENY_FILE = (
        "config-deny-file",
        "The list of denied hotkeys cannot be used; where one was read before, that one stays in force.",
        "Mend the file that api.deny_file names; a running daemon looks at it again by itself.",
    )
    CONFIG_SERVICE = (
        "config-service",
        "The service cannot be installed or started as asked.",
        "The message says which file or command failed; run it as root, or take `service install --user`.",
    )

    # -- keys --------------------------------------------------------------------------------------------------------

    KEY_UNREADABLE = (
        "key-unreadable",
        "A key file is missing or cannot be read.",
        "Check the path in the settings, and that the daemon's user may read the file.",
    )
    KEY_EXPOSED = (
        "key-exposed",
        "A key file can be read by others than its owner.",
        "Run `chmod 600` on it, and think about who may have read it: `p2pnodes keys rotate` replaces a node key.",
    )
    KEY_MALFORMED = (
        "key-malformed",
        "A file, phrase or URI holds no key of the kind that is expected, or parts of different keys.",
        "Restore the file from its backup, or name another one; never edit it by hand.",
    )
    KEY_ENCRYPTED = (
        "key-encrypted",
        "The hotkey's file is encrypted with a password, which a daemon cannot type.",
        "Use an unencrypted hotkey, or sign delegations where the hotkey is: `p2pnodes keys request`, `keys delegate`.",
    )
    KEY_PUBLIC_ONLY = (
        "key-public-only",
        "The hotkey's file holds no secret.",
        "Name the file in the wallet's hotkeys folder, or sign where the hotkey is: `p2pnodes keys request`.",
    )
    KEY_EXISTS = (
        "key-exists",
        "A key would be written over a file that exists; keys are never overwritten.",
        "Move the file away, or choose another place.",
    )
    KEY_NOT_WRITTEN = (
        "key-not-written",
        "A key file cannot be written or replaced.",
        "Make its directory writable for the daemon's user; the key that was in use stays in use.",
    )
    KEY_CHANGED = (
        "key-changed",
        "The daemon was started with another hotkey than the one that its log speaks for; it opens a new log.",
        "Nothing, if that was meant. Otherwise stop the daemon and set the hotkey of before.",
    )
    KEY_ROTATION_FINISHED = (
        "key-rotation-finished",
        "A rotation of the node key was cut short by a crash, and is finished now.",
        "Nothing; back up the new node key file.",
    )

    # -- delegations and closings ------------------------------------------------------------------------------------

    DELEGATION_FILE = (
        "delegation-file",
        "A file of `p2pnodes keys` cannot be read or written, or is of another kind than expected.",
        "Give the file that the message asks for; make it anew where it is damaged.",
    )
    DELEGATION_UNSIGNED = (
        "delegation-unsigned",
        "A delegation or closing does not carry its hotkey's signature over what it says.",
        "Sign it anew with `p2pnodes keys delegate` or `keys close`, from a request of this network and log.",
    )
    DELEGATION_MISFIT = (
        "delegation-misfit",
        "A delegation is for another hotkey, log, node key or network than this daemon's.",
        "Make a new request with `p2pnodes keys request` on this daemon, and sign that one.",
    )
    DELEGATION_WINDOW = (
        "delegation-window",
        "A delegation does not hold now: its time is over, has not begun, or a clock is wrong.",
        "Check the clocks of both machines, then request and sign a new one.",
    )
    DELEGATION_ENDING = (
        "delegation-ending",
        "The own log's delegation ends soon, and no later one is here; writes stop with it.",
        "Run `p2pnodes keys request`, sign where the hotkey is, and put the file where delegation_file points.",
    )

    # -- data directory, database, backups ---------------------------------------------------------------------------

    DATA_DIR = (
        "data-dir",
        "The data directory is missing or cannot be written.",
        "Make it, owned by the daemon's user, or set another data_dir.",
    )
    DATA_IN_USE = (
        "data-in-use",
        "Another daemon, a restore or a rebuild works on this data directory.",
        "Stop the other one: two daemons on one directory would fork the log.",
    )
    DATA_MISSING = (
        "data-missing",
        "There is no p2pnodes database at this path.",
        "Give the daemon's data directory; a daemon makes the database at its first start.",
    )
    DATA_UNREADABLE = (
        "data-unreadable",
        "The database cannot be opened or read, by a command or by the running daemon.",
        "Run the command as the daemon's user; if it is that, check the disk and run `p2pnodes db verify`.",
    )
    DATA_DAMAGED = (
        "data-damaged",
        "The database contradicts itself, or SQLite finds it damaged.",
        "Keep a copy, check the disk, then restore a backup or start empty: peers bring everything but the node key.",
    )
    DATA_EVENT = (
        "data-event",
        "A stored event is not what it was when it was stored. It is not sent to peers, and asked for again from them.",
        "Look at the disk (`smartctl`, `dmesg`), and run `p2pnodes db verify`: more than that may be damaged.",
    )
    DATA_OTHER_NETWORK = (
        "data-other-network",
        "The database or backup belongs to another network than the settings name.",
        "Use the data directory of this network, or restore the parameters of [network].",
    )
    DATA_NEWER = (
        "data-newer",
        "The database was written by a newer p2pnodes than this one.",
        "Install that version again, or restore a backup from before the upgrade.",
    )
    DATA_NOT_WRITTEN = (
        "data-not-written",
        "A transaction failed, so that nothing of it was recorded; writes answer 503 meanwhile.",
        "Check free space and the disk (`df`, `dmesg`), put back files that were moved; it goes on once it can write.",
    )
    DATA_TEMPORARY = (
        "data-temporary",
        "A transaction is recorded, but what belongs to it in SQLite's temporary files is not, and is begun anew.",
        "Check free space of SQLite's temporary directory ($SQLITE_TMPDIR, else $TMPDIR, /var/tmp or /tmp).",
    )
    DATA_CHECKER = (
        "data-checker",
        "The process that checks signatures ahead failed, hung or could not be started; the daemon checks them itself.",
        "Nothing if it happens once: it is started anew later. Otherwise see the log for the reason, and the memory.",
    )
    DATA_STOPPING = (
        "data-stopping",
        "The database is being closed, because the daemon stops.",
        "Ask again once the daemon runs; nothing was recorded.",
    )
    DATA_CHECKPOINT = (
        "data-checkpoint",
        "The last checkpoint at the end of a daemon failed; nothing is lost, the next start reads the write-ahead log.",
        "Keep the -wal file beside the database; check free space and the disk.",
    )
    DATA_DISK_LOW = (
        "data-disk-low",
        "The disk that holds the data directory is nearly full.",
        "Make room: without it nothing can be written, and backup and recovery need as much again.",
    )
    DATA_BACKUP_PLACE = (
        "data-backup-place",
        "A backup cannot be written where it should go.",
        "Choose a new file in a directory that exists, on another disk; --force replaces an older backup.",
    )
    DATA_BACKUP_BAD = (
        "data-backup-bad",
        "A backup is missing, cannot be read, or did not pass its check.",
        "Give another backup; if a fresh one fails, the database itself is damaged: `p2pnodes db verify`.",
    )
    DATA_RESTORE_FAILED = (
        "data-restore-failed",
        "The restore could not put the files in their place; the message says where what was there is now.",
        "Set right what the disk says, as the owner of the data directory, and repeat the command.",
    )
    DATA_RESTORE_NOTE = (
        "data-restore-note",
        "A restore is done, and something about it needs attention.",
        "Do what the warning says before the daemon is started again.",
    )
    DATA_REBUILD_FAILED = (
        "data-rebuild-failed",
        "The database could not be rebuilt from its log; nothing was changed.",
        "Restore a backup, or start empty and let peers refill it.",
    )
    DATA_REBUILD_DIFFERED = (
        "data-rebuild-differed",
        "`db rebuild` found rows that were not as the log says, and set them right.",
        "Nothing more for these rows. A bug or a damaged disk made them: check the disk, and report the line.",
    )
    DATA_AUDIT = (
        "data-audit",
        "`db verify` found rows or events that are not as the log says.",
        "Keep a copy, then run `p2pnodes db rebuild`; restore a backup where the log itself is damaged.",
    )
    DATA_PRUNE = (
        "data-prune",
        "`db prune` could not remove something; nothing that is needed was touched.",
        "Do what the message says, and repeat the command.",
    )

    DATA_QUERY = (
        "data-query",
        "A question in SQL is wrong, would change something, or has no answer within its bounds of time and size.",
        "The message says where the mistake is; ask for less, or raise --timeout and --limit.",
    )

    # -- chain and electorate ----------------------------------------------------------------------------------------

    CHAIN_FILE = (
        "chain-file",
        "The file that stands in for the chain cannot be used.",
        "Mend the file that electorate.file names; the electorate that is held stays in force.",
    )
    CHAIN_NO_SOURCE = (
        "chain-no-source",
        "Nothing says where the electorate comes from.",
        "Set urls or file in [electorate].",
    )
    CHAIN_UNREAD = (
        "chain-unread",
        "The electorate could not be read from any endpoint; the one that is held stays in force.",
        "Check [electorate] urls, and that this machine may dial out; name a second endpoint.",
    )
    CHAIN_ENDPOINT = (
        "chain-endpoint",
        "An endpoint of the chain does not answer, or answers what cannot be right; it is put off for a while.",
        "Nothing while others answer; otherwise name another one in [electorate] urls.",
    )
    CHAIN_OTHER = (
        "chain-other",
        "An endpoint serves another chain than the network's.",
        "Name an endpoint of the network's chain, or set the network's genesis_hash right.",
    )
    CHAIN_UNDECODABLE = (
        "chain-undecodable",
        "This build cannot decode what the chain's runtime answers, and reads the storage maps instead where it can.",
        "Upgrade p2pnodes: the chain's runtime has been upgraded.",
    )
    CHAIN_CONTRADICTION = (
        "chain-contradiction",
        "Two endpoints contradict each other, so neither is believed.",
        "Find out which one lies, and name others in [electorate] urls; better one of your own.",
    )
    CHAIN_UNCONFIRMED = (
        "chain-unconfirmed",
        "Only one endpoint answers, so that nobody confirms what it says.",
        "Name a second, independent endpoint in [electorate] urls.",
    )
    CHAIN_NO_PIN = (
        "chain-no-pin",
        "The chain is younger than its first pinned block.",
        "Wait: the message names the block.",
    )
    CHAIN_WENT_BACK = (
        "chain-went-back",
        "The source offers an electorate below the one that is held.",
        "Check that [electorate] names the same chain or file as before, and that its endpoint is in sync.",
    )
    CHAIN_READER = (
        "chain-reader",
        "The process that reads the chain failed, hung or could not be started; it is started anew.",
        "Nothing if it happens once; otherwise see the log for the reason, and the machine's memory.",
    )
    CHAIN_OLD = (
        "chain-old",
        "The electorate is older than it may be, so that this daemon is not ready, or verdicts lapse.",
        "See `p2pnodes status` for why no newer one is read, and [electorate].",
    )
    CHAIN_CLOCK = (
        "chain-clock",
        "The system clock contradicts the chain's.",
        "Set the system clock right and keep it so (NTP); or use endpoints that keep up.",
    )
    CHAIN_NO_PERMIT = (
        "chain-no-permit",
        "The hotkey holds no validator permit in the electorate.",
        'Use the validator\'s wallet, wait for a permit, or set role = "observer".',
    )

    # -- refused writes ----------------------------------------------------------------------------------------------

    WRITES_REFUSED = (
        "writes-refused",
        "This daemon takes no writes at the moment; nothing was recorded.",
        "The reason says what is missing. Miners lose nothing: the same request is good at every other daemon.",
    )
    WRITES_STARTING = (
        "writes-starting",
        "The daemon is starting, and has not opened its log yet.",
        "Wait some seconds; `p2pnodes status` says what it waits for.",
    )
    WRITES_OBSERVER = (
        "writes-observer",
        "This daemon is an observer, which never takes writes.",
        "Ask a validator's daemon; the answer names some.",
    )
    WRITES_NO_HOTKEY = (
        "writes-no-hotkey",
        "This needs the hotkey, which is not on this machine, and nothing was signed elsewhere for it.",
        "Set wallet or hotkey_file, or sign elsewhere: `p2pnodes keys request`, `keys delegate`, `keys close`.",
    )
    WRITES_NO_PERMIT = (
        "writes-no-permit",
        "The validator's hotkey has lost its permit; what it would write would count for nothing.",
        "Writes go on by themselves once the chain gives it back; see the stake and the registration.",
    )
    WRITES_UNHEARD = (
        "writes-unheard",
        "The daemon has not heard from enough stake yet how far its own log goes, and must not fork it.",
        "Wait; see whether peers are reached (`p2pnodes peers`). After 30 s, longer with 64 logs, it opens a new one.",
    )
    WRITES_FOREIGN = (
        "writes-foreign",
        "Somebody else has written into this daemon's own log; it stops at once and opens a new one.",
        "Look for a clone of this disk or a second daemon with this node key, and stop it. See `p2pnodes forks`.",
    )
    WRITES_DELEGATION_OVER = (
        "writes-delegation-over",
        "The delegation has ended, and there is no hotkey to renew it with.",
        "Set wallet or hotkey_file, or bring a new delegation: `p2pnodes keys request`, `keys delegate`.",
    )
    WRITES_CLOCK = (
        "writes-clock",
        "The system clock is too far from the peers' or the chain's.",
        "Set the system clock right and keep it so (NTP); writes go on by themselves then.",
    )
    WRITES_CLOCK_AHEAD = (
        "writes-clock-ahead",
        "The log holds events from when the system clock ran ahead, so that nothing can follow them yet.",
        "Keep the clock right; the daemon leaves that log for a new one by itself, once a peer tells the same time.",
    )
    WRITES_ISOLATED = (
        "writes-isolated",
        "Validators with a quorum of the stake have not been heard of for half the horizon.",
        "See `p2pnodes peers` and `p2pnodes doctor`; writes go on as soon as they are heard of again.",
    )
    WRITES_LOADING = (
        "writes-loading",
        "The live set of a checkpoint is being loaded from peers.",
        "Wait: `p2pnodes status` shows how much of it is here.",
    )
    WRITES_NO_LOG = (
        "writes-no-log",
        "This daemon has no open log of its own, or the one it had has ended.",
        "It tries again by itself; the log says why none could be opened (code log-not-opened).",
    )
    WRITES_BUSY = (
        "writes-busy",
        "More waits for the disk or for name servers than is allowed at once.",
        "Ask again in a moment; if it lasts, the disk is too slow: see the metrics of fsync times.",
    )
    WRITES_LOGS_FULL = (
        "writes-logs-full",
        "The hotkey has as many logs as peers accept.",
        "Find out why logs were opened again and again: a disk that loses writes, a clone, a clock that jumps.",
    )
    WRITES_VOID = (
        "writes-void",
        "Peers would find what was to be written void, so it was not written.",
        "The reason says why: mostly a request too old or a delegation that ended meanwhile. Sign and send it again.",
    )

    # -- the own log -------------------------------------------------------------------------------------------------

    LOG_UNKNOWN = (
        "log-unknown",
        "The log or the event that was named is not held here.",
        "Name it as `p2pnodes status` or `p2pnodes events` shows it: node key, slash, number.",
    )
    LOG_FOREIGN = (
        "log-foreign",
        "The log is another hotkey's, which alone can close it.",
        "Name a log of this validator, or sign with that hotkey.",
    )
    LOG_NOT_OPENED = (
        "log-not-opened",
        "No new log could be opened; writes answer 503 until one can.",
        "The error says why; the daemon tries again by itself.",
    )
    LOG_CLOSED = (
        "log-closed",
        "A log of this validator was closed; what lies behind its last good event counts for nothing.",
        "Nothing, if it was rotated or revoked on purpose. Otherwise see `p2pnodes forks --all`.",
    )
    LOG_DISPLACED = (
        "log-displaced",
        "A log counts for nothing any more and is forgotten: its validator has too many, or it ended long ago.",
        "Nothing: what only it carried is carried by others. If there are many of one validator, tell its operator.",
    )
    LOG_LEFT_OUT = (
        "log-left-out",
        "The checkpoint in force does not name this daemon's log though that is older: its hotkey has too many logs.",
        "Others carry what it says. End what opens new ones (see log_opened in the log); old ones go by themselves.",
    )
    LOG_FORKED = (
        "log-forked",
        "The own log is proved to fork: another process wrote it, too.",
        "Find the other one (a clone of this disk?) and stop it; `p2pnodes forks` has the proof.",
    )
    LOG_ELSEWHERE = (
        "log-elsewhere",
        "Another daemon, with a node key of its own, writes with this validator's hotkey.",
        "Stop it if it is yours. Else the hotkey is stolen: `p2pnodes keys revoke` that log, and change the hotkey.",
    )

    # -- events and logs of others -----------------------------------------------------------------------------------

    EVENT_FORK = (
        "event-fork",
        "A log forks: its daemon signed two events at one place. Those from there on count for nothing.",
        "Nothing here. If it is your validator's, a clone of its disk runs somewhere: stop it.",
    )
    EVENT_FORK_NOT_FOUND = (
        "event-fork-not-found",
        "A peer's log differs from the one that is held, and the place where they part could not be found yet.",
        "Nothing; it is searched again. If it lasts, the peer answers wrongly: tell its operator.",
    )
    EVENT_HEADS_DIFFER = (
        "event-heads-differ",
        "A peer holds another event at the end of a log than this daemon: the log forks, or the peer errs.",
        "Nothing; the fork is searched for, and proved if there is one.",
    )
    EVENT_AHEAD = (
        "event-ahead",
        "An event lies more than 60 s in this clock's future, and is taken later.",
        "Check this machine's clock; if it is right, the author's is not.",
    )
    EVENT_REFUSED = (
        "event-refused",
        "An event is not stored: its author has no permit, too many logs, or it is of another network.",
        "Nothing; the peer that sent it holds other stakes for the moment.",
    )
    EVENT_PEER_BEHIND = (
        "event-peer-behind",
        "A peer reads more slowly than events come; it is told no more until it has caught up.",
        "Nothing here; its network or machine is slow, or yours sends slowly to everybody.",
    )
    EVENT_NOT_CARRIED = (
        "event-not-carried",
        "Requests of a log that does not count any more could not be carried on; it is tried again.",
        "The error says why; other holders carry them as well.",
    )

    # -- checkpoints -------------------------------------------------------------------------------------------------

    CHECKPOINT_DELAYED = (
        "checkpoint-delayed",
        "A step of this validator's part in a checkpoint could not be taken; it is tried again.",
        "The error says why. Nothing waits for a checkpoint but room on the disk.",
    )
    CHECKPOINT_DIFFERS = (
        "checkpoint-differs",
        "More than two thirds of the stake signed another live set than this daemon finds below the same cut.",
        "Nothing is taken away here. Compare with a peer's backup (`p2pnodes db diff`); then let peers refill.",
    )
    CHECKPOINT_LACKS = (
        "checkpoint-lacks",
        "A checkpoint is final whose events are not all here, or lie on another branch here.",
        "Nothing: its live set is loaded from peers.",
    )
    CHECKPOINT_FORGED = (
        "checkpoint-forged",
        "A peer sent a certificate or a slice of a live set that proves nothing.",
        "Nothing: its session ended, and another peer is asked.",
    )
    CHECKPOINT_DISTRUSTED = (
        "checkpoint-distrusted",
        "A peer sent a certificate whose signers have no quorum of the stake in the electorate that is known here.",
        "Wait: it is asked for again. If this stays, see “No checkpoint is believed” in `p2pnodes docs recover`.",
    )

    # -- void events -------------------------------------------------------------------------------------------------

    VOID_FORM = (
        "void-form",
        "What the event says is malformed, contradicts itself, or does not prove what it claims.",
        "Nothing here: it counts for nothing. Tell its author, whose build has a bug.",
    )
    VOID_ORDER = (
        "void-order",
        "The event's clock does not lie above those of the events before it in its log.",
        "Nothing here: it counts for nothing. Its author's clock was set back.",
    )
    VOID_DELEGATION = (
        "void-delegation",
        "The event's log has no valid delegation, or one that its hotkey did not sign, or another hotkey's.",
        "Nothing here: it counts for nothing. Its author must open a log that its hotkey delegates to.",
    )
    VOID_WINDOW = (
        "void-window",
        "The event lies outside the time for which its log's delegation holds.",
        "Nothing here: it counts for nothing. Its author's delegation has ended, or its clock is wrong.",
    )
    VOID_NONCE = (
        "void-nonce",
        "The miner's request in the event was signed too long before or after the event.",
        "Nothing here: it counts for nothing. The miner signs and sends it again.",
    )
    VOID_SIGNATURE = (
        "void-signature",
        "A signature inside the event is not its signer's, or is for another purpose.",
        "Nothing here: it counts for nothing. Its author passed on what nobody signed: do not trust that author.",
    )

    # -- dials -------------------------------------------------------------------------------------------------------

    DIAL_FAILED = (
        "dial-failed",
        "A peer cannot be reached at its address; it is dialled again, ever more seldom.",
        "Nothing while other peers are connected. If none is: the firewall, DNS, and `p2pnodes peers` for each reason.",
    )
    DIAL_PRIVATE = (
        "dial-private",
        "A peer's address is private, loopback or link-local, and is not dialled.",
        "On a devnet set [gossip] allow_private_addresses; otherwise the peer must publish a public URL.",
    )
    DIAL_NOT_A_PEER = (
        "dial-not-a-peer",
        "Something answers at a peer's address, but no p2pnodes daemon: a redirect, a proxy, another server.",
        "If it is your bootstrap address, mend it; a proxy must pass WebSockets at /gossip on.",
    )
    DIAL_TLS = (
        "dial-tls",
        "A peer's TLS certificate cannot be trusted.",
        "The peer's operator must renew it; check this machine's clock and its root certificates if many fail.",
    )
    DIAL_NO_PEERS = (
        "dial-no-peers",
        "No other validator is connected, or none has an address that is known.",
        "Name one that runs a daemon in [gossip] bootstrap, and check that this machine may dial out.",
    )

    # -- handshakes --------------------------------------------------------------------------------------------------

    HANDSHAKE_MALFORMED = (
        "handshake-malformed",
        "The other side does not speak this protocol, or breaks it.",
        "Nothing: strangers knock at every public port. If it is a known peer, compare the versions.",
    )
    HANDSHAKE_TIMEOUT = (
        "handshake-timeout",
        "The other side did not finish the handshake in time, or went away.",
        "Nothing, if it comes seldom; otherwise the way between the two is bad.",
    )
    HANDSHAKE_VERSION = (
        "handshake-version",
        "The two daemons have no protocol version in common.",
        "Upgrade the older one.",
    )
    HANDSHAKE_NETWORK = (
        "handshake-network",
        "The other side belongs to another network, or has other network parameters.",
        "Compare [network] on both: genesis hash, netuid, quorum, min_share, verdict_ttl, epoch_blocks, horizon.",
    )
    HANDSHAKE_IMPOSTOR = (
        "handshake-impostor",
        "Somebody else answers than who was dialled, or who answers does not hold the keys that it names.",
        "Check that the URL is that validator's; if it is, somebody sits in between.",
    )
    HANDSHAKE_DELEGATION = (
        "handshake-delegation",
        "The delegation that was shown is not signed, or does not hold now.",
        "Renew it on the daemon that showed it; check the clocks of both.",
    )
    HANDSHAKE_NO_PERMIT = (
        "handshake-no-permit",
        "The other side's hotkey holds no validator permit here, and observers are not allowed.",
        "Nothing, unless it should: then its registration, or set [gossip] allow_observers.",
    )
    HANDSHAKE_LOG_CLOSED = (
        "handshake-log-closed",
        "The other side speaks through a log that its hotkey has closed.",
        "Its operator must let it open another log: a daemon does that by itself once it hears of the closing.",
    )
    HANDSHAKE_BANNED = (
        "handshake-banned",
        "The other side's hotkey is banned here for a while.",
        "See `p2pnodes bans` for the reason; `p2pnodes bans lift HOTKEY` ends a ban.",
    )
    HANDSHAKE_FULL = (
        "handshake-full",
        "There are as many sessions or handshakes as are allowed at once.",
        "Nothing, if it comes seldom: it tries again. A flood of strangers belongs into the firewall.",
    )
    HANDSHAKE_OWN_KEY = (
        "handshake-own-key",
        "The daemon met itself, or a copy of itself with the same node key.",
        "If the address is not its own, find the copy and stop it: two daemons with one node key fork the log.",
    )
    HANDSHAKE_ONE_PER_PAIR = (
        "handshake-one-per-pair",
        "Another session between the same two daemons goes on instead.",
        "Nothing.",
    )
    HANDSHAKE_REFUSED_BY_PEER = (
        "handshake-refused-by-peer",
        "The other side refused this daemon; the text is its reason.",
        "Do what the reason says; `handshake-...` codes in its log tell more.",
    )

    # -- sessions ----------------------------------------------------------------------------------------------------

    SESSION_PROTOCOL = (
        "session-protocol",
        "A peer sent what the format or the order of frames does not allow; it is banned for a while.",
        "Compare the versions; tell its operator. Its events still come through others.",
    )
    SESSION_FLOOD = (
        "session-flood",
        "A peer said more than a rate allows; for what it signed it is banned for a while.",
        "Tell its operator: no honest build does that. Its events still come through others.",
    )
    SESSION_FORGERY = (
        "session-forgery",
        "A peer sent an event that its log did not sign; it is banned for a while.",
        "Do not trust that peer; tell others. Its events still come through others.",
    )
    SESSION_OPENINGS = (
        "session-openings",
        "A peer opened too many sessions in a row; it is banned for a minute.",
        "It restarts again and again, or its network breaks: tell its operator.",
    )
    SESSION_BANNED = (
        "session-banned",
        "The operator of this daemon has banned the peer.",
        "`p2pnodes bans` shows until when; `p2pnodes bans lift HOTKEY` ends it.",
    )
    SESSION_SILENT = (
        "session-silent",
        "Nothing was heard from the peer, or it read nothing, for too long.",
        "Nothing, if it comes seldom; otherwise the way between the two is bad.",
    )
    SESSION_SLOW = (
        "session-slow",
        "The peer reads too slowly to keep up.",
        "Nothing here; it catches up in another session.",
    )
    SESSION_CLOSED = (
        "session-closed",
        "The peer ended the session; what it gave as its reason is told.",
        "Nothing, if it comes seldom: it is dialled again.",
    )
    SESSION_LOST = (
        "session-lost",
        "The connection broke.",
        "Nothing, if it comes seldom: it is dialled again.",
    )
    SESSION_UNFIT = (
        "session-unfit",
        "The peer's standing changed: it got or lost its permit, or closed its log.",
        "Nothing; it comes back as what it is now.",
    )
    SESSION_NOT_NEEDED = (
        "session-not-needed",
        "A visit was over, or another session took this one's place.",
        "Nothing.",
    )
    SESSION_STOPPED = (
        "session-stopped",
        "This daemon stops.",
        "Nothing.",
    )

    # -- verification ------------------------------------------------------------------------------------------------

    VERIFIER_UNKNOWN = (
        "verifier-unknown",
        "The verifier that the settings name is not installed, or is no verifier.",
        "Set [verify] verifier to one that the message lists, or install its package into this environment.",
    )
    VERIFIER_SETTINGS = (
        "verifier-settings",
        "The verifier cannot be made with its settings, or needs the hotkey, which is not here.",
        "See [verify] and what the verifier's page says of its settings.",
    )
    VERIFIER_NONE = (
        "verifier-none",
        "Every claim gets the verdict verified, unchecked.",
        "Fit for devnets alone: set [verify] verifier to graval or nvml.",
    )
    VERIFIER_UNAVAILABLE = (
        "verifier-unavailable",
        "This validator could not check a claim, through no fault of the miner's; it abstains or tries again.",
        "See the reason: the GraVal service, this machine's network, its load.",
    )
    VERIFIER_NOT_CHECKABLE = (
        "verifier-not-checkable",
        "The claim cannot be checked now: it does not stand, conflicts with a verified one, or too many checks run.",
        "See `p2pnodes claim show CLAIM` for why it is where it is.",
    )
    VERIFIER_NOT_WRITTEN = (
        "verifier-not-written",
        "A check is done, but its verdict could not be written.",
        "The error says why; the claim is checked again later.",
    )

    # -- requests of miners and other clients ------------------------------------------------------------------------

    API_UNSIGNED = (
        "api-unsigned",
        "The request lacks the hotkey's signature or one of its headers.",
        "Send X-Chutes-Hotkey, X-Chutes-Nonce and X-Chutes-Signature; every peer checks them.",
    )
    API_NONCE = (
        "api-nonce",
        "The nonce is no number of seconds, or over 600 s away from this daemon's clock.",
        "Set the signing machine's clock right (NTP), and sign anew.",
    )
    API_SIGNATURE = (
        "api-signature",
        "The signature is not the hotkey's over this request.",
        "Sign hotkey:nonce:tail with that hotkey; the tail is the SHA-256 of the body as sent, or the purpose.",
    )
    API_UNREGISTERED = (
        "api-unregistered",
        "The hotkey is not registered on the subnet, by the electorate that this daemon holds.",
        "Register it on the chain; a new registration is seen within two epochs.",
    )
    API_FORM = (
        "api-form",
        "The body or a parameter is not as it must be.",
        "The answer says what was found and what is expected; see /docs for the public interface.",
    )
    API_TOO_LARGE = (
        "api-too-large",
        "The request's body is too large.",
        "Send one server's GPUs per request.",
    )
    API_BODY_LATE = (
        "api-body-late",
        "The request's body did not arrive in time, or not as HTTP frames it.",
        "Send it again; check the network and the proxies in between.",
    )
    API_DENIED = (
        "api-denied",
        "The operator of this daemon has denied the hotkey new registrations.",
        "Ask that operator, or use another validator's daemon.",
    )
    API_TOO_MANY_GPUS = (
        "api-too-many-gpus",
        "More GPUs than one server may have.",
        "Register the host in parts of at most 10 GPUs.",
    )
    API_TAKEN = (
        "api-taken",
        "A GPU is in the inventory already: by a standing claim of the same miner, or verified for another.",
        "Delete the own claim first; another's must lapse or be deleted by its owner.",
    )
    API_HOPPING = (
        "api-hopping",
        "The GPUs changed hands between hotkeys too often of late.",
        "Wait as long as Retry-After says, and keep a GPU under one hotkey.",
    )
    API_TOO_MANY_CLAIMS = (
        "api-too-many-claims",
        "The hotkey has as many undecided claims as are allowed, or registered a GPU as often as one may in a day.",
        "Wait as long as Retry-After says; look why the GPU is registered and deleted again and again.",
    )
    API_RATE = (
        "api-rate",
        "The address or hotkey asks more often than is allowed, or holds too many connections.",
        "Wait as long as Retry-After says; follow the event stream instead of polling.",
    )
    API_BUSY = (
        "api-busy",
        "This daemon serves as many connections of this kind as it may.",
        "Wait as long as Retry-After says, or ask another daemon.",
    )
    API_HOST = (
        "api-host",
        "A verification host is private, malformed, or has no address.",
        "Register the public address of the host; it must resolve.",
    )
    API_SPECS = (
        "api-specs",
        "A GPU's figures do not fit the model that its name says.",
        "Register what the driver reports: `p2pnodes miner probe` does.",
    )
    API_DUPLICATE = (
        "api-duplicate",
        "The request names one GPU twice.",
        "Name each once.",
    )
    API_CLOCK_BACK = (
        "api-clock-back",
        "The request's nonce lies below one that was used for the GPU, so that it would lose.",
        "The signing machine's clock went back: set it right and sign again.",
    )
    API_NOT_OWNED = (
        "api-not-owned",
        "The GPU does not exist, or belongs to another hotkey.",
        "Check uuid and hotkey with `p2pnodes miner list`.",
    )
    API_REUSED_SIGNATURE = (
        "api-reused-signature",
        "The signature was used to delete another GPU.",
        "Sign each deletion by itself.",
    )
    API_FOREIGN_TASK = (
        "api-foreign-task",
        "The task is another hotkey's, or no task id at all.",
        "Ask with the hotkey that registered it.",
    )
    API_NO_ROUTE = (
        "api-no-route",
        "There is no such path, or not with this method.",
        "See /docs for what is served.",
    )
    API_UNAVAILABLE = (
        "api-unavailable",
        "The daemon could not record or read at the moment; its operator sees why.",
        "Ask again, here or at another daemon: the same request is good at every one.",
    )
    API_CUT = (
        "api-cut",
        "An answer that was under way had to be cut.",
        "The client asks again; see the error beside it, and the disk.",
    )
    API_UPSTREAM = (
        "api-upstream",
        "The upstream API, to which other paths are passed on, cannot be reached or does not answer.",
        "Check api.upstream; the routes of this daemon itself go on.",
    )
    API_UPSTREAM_REFUSED = (
        "api-upstream-refused",
        "This request is not passed on to the upstream API: no path, a WebSocket, or a loop.",
        "Ask the upstream API itself; check that api.upstream is not this daemon.",
    )
    API_UNREADABLE = (
        "api-unreadable",
        "Something came on the public port that is no HTTP request.",
        "Nothing: strangers knock at every public port. A flood belongs into the firewall.",
    )

    # -- requests of operators ---------------------------------------------------------------------------------------

    ADMIN_READ_ONLY = (
        "admin-read-only",
        "Something was to be changed over TCP, where the operator's interface can only be read.",
        "Use the Unix socket: --config or --socket of the commands do.",
    )
    ADMIN_HOST = (
        "admin-host",
        "The operator's interface was asked under a foreign name.",
        "Use localhost or 127.0.0.1; a web page that leads here by another name means harm.",
    )
    ADMIN_UNKNOWN = (
        "admin-unknown",
        "What was asked for is not known to this daemon.",
        "Check the spelling with `p2pnodes nodes`, `claims` or `peers`; it may also arrive yet.",
    )
    ADMIN_NOT_NOW = (
        "admin-not-now",
        "What was asked for cannot be done now.",
        "The message says why.",
    )
    ADMIN_BANS_FULL = (
        "admin-bans-full",
        "There are as many operator's bans as are kept.",
        "Lift some that are not needed any more: `p2pnodes bans`.",
    )
    ADMIN_UNREACHABLE = (
        "admin-unreachable",
        "No daemon answered at the admin socket, or not in time.",
        "Start it, name its configuration with --config, and run the command as a member of its group.",
    )
    ADMIN_ANSWER = (
        "admin-answer",
        "What answered at the admin socket is no p2pnodes daemon, or answered too much.",
        "Check --socket and --config; ask for less with --limit.",
    )
    ADMIN_REFUSED = (
        "admin-refused",
        "The daemon answered, and did not do it.",
        "The message is its reason; `p2pnodes logs explain` tells more where it has a code of its own.",
    )

    # -- the miner's client ------------------------------------------------------------------------------------------

    MINER_UNREACHABLE = (
        "miner-unreachable",
        "No API took the request; it may have been recorded all the same, and can be repeated.",
        "Check the URLs after --api and the network; a repeat is free.",
    )
    MINER_REFUSED = (
        "miner-refused",
        "The API refused the request; nothing has changed.",
        "The message is its reason.",
    )
    MINER_ANSWER = (
        "miner-answer",
        "The API answered something else than this interface promises.",
        "Check that the URL is a p2pnodes daemon's, and that no proxy changes its answers.",
    )
    MINER_TASK_FAILED = (
        "miner-task-failed",
        "The validators' vote went against the claim.",
        "The message has their reason: mend that, delete the GPUs and register them again.",
    )
    MINER_TASK_PENDING = (
        "miner-task-pending",
        "The claim was not decided in the time that the command waits.",
        "Ask again later; the claim stays in the inventory.",
    )
    MINER_INPUT = (
        "miner-input",
        "A file or argument of the command cannot be used.",
        "The message says what was found and what is expected; `p2pnodes miner example` prints a registration.",
    )

    # -- the miner's agent -------------------------------------------------------------------------------------------

    AGENT_FORM = (
        "agent-form",
        "A challenge is malformed, too large, too late, or was asked already.",
        "Validators: draw a new nonce, and compare the versions.",
    )
    AGENT_RATE = (
        "agent-rate",
        "A validator or address asks the agent more often than it answers.",
        "Wait as long as Retry-After says.",
    )
    AGENT_SIGNATURE = (
        "agent-signature",
        "A challenge does not carry the signature of the validator that it names.",
        "Validators: sign with the hotkey in the header; check both clocks.",
    )
    AGENT_NOT_ALLOWED = (
        "agent-not-allowed",
        "The validator is not on the agent's allow-list, or asks for another miner.",
        "Miners: add it with --allow if it should verify this host.",
    )
    AGENT_BUSY = (
        "agent-busy",
        "The agent has as many challenges as it can answer.",
        "Wait as long as Retry-After says.",
    )
    AGENT_SETTINGS = (
        "agent-settings",
        "The agent's allow-list or recording cannot be used.",
        "The message says what was found and what is expected.",
    )
    AGENT_WARNING = (
        "agent-warning",
        "The agent works, but somebody can or cannot reach it as it may be meant.",
        "Read the warning; see `p2pnodes miner serve --help`.",
    )

    # -- GPUs --------------------------------------------------------------------------------------------------------

    GPU_DRIVER = (
        "gpu-driver",
        "The NVIDIA driver cannot be loaded, hangs, or shows no GPUs that can be registered.",
        "Run nvidia-smi on the host; set persistence mode (nvidia-smi -pm 1), and see the kernel's log.",
    )
    GPU_UNFIT = (
        "gpu-unfit",
        "A GPU cannot be registered as the driver reports it.",
        "The message says which figure is wrong: turn MIG off, upgrade the driver, or leave the GPU out.",
    )
    GPU_REPORT = (
        "gpu-report",
        "An agent's report about its GPUs does not hold.",
        "Run the agent with the miner's hotkey, and the same version as the validators.",
    )

    # -- proofs ------------------------------------------------------------------------------------------------------

    PROOF_MALFORMED = (
        "proof-malformed",
        "The file is no proof of a version that this build reads.",
        "Give the file that `p2pnodes proof export` wrote, unchanged; upgrade p2pnodes if it is a newer one's.",
    )
    PROOF_FAILS = (
        "proof-fails",
        "The proof does not hold, or the events that are held do not make one.",
        "Do not rely on it. To export one, wait until the claim is verified by enough stake.",
    )
    PROOF_LIMITS = (
        "proof-limits",
        "The proof holds by its own numbers, which nobody has confirmed or which are old.",
        "Compare its electorate with the chain's at that block, as the warning says.",
    )

    # -- the system --------------------------------------------------------------------------------------------------

    SYSTEM_REFUSED = (
        "system-refused",
        "The operating system refused something: a file, a full disk, a closed output.",
        "The message is the system's; set that right and repeat.",
    )
    SYSTEM_SUPERVISOR = (
        "system-supervisor",
        "The supervisor that started the daemon, such as systemd, could not be told how it is.",
        "See NOTIFY_SOCKET and the unit; the daemon goes on, but may be taken for hung.",
    )
    SYSTEM_STOP = (
        "system-stop",
        "The daemon was told to stop, something did not let go in time, and the process ended all the same.",
        "Nothing acknowledged is lost. The record names what still ran: a plugin that ignores its end, say.",
    )
    SYSTEM_DEVNET = (
        "system-devnet",
        "A devnet or demo cannot be started with these options, did not come up, or a step of it failed.",
        "The message says which peer or step; its log lies in the devnet's directory.",
    )
    SYSTEM_CATCHING_UP = (
        "system-catching-up",
        "This observer has not held all that some peer holds since it started.",
        "Wait: `p2pnodes status` says how many events are to come. If no peer is connected, see `p2pnodes peers`.",
    )
    SYSTEM_INSTALLATION = (
        "system-installation",
        "Files that belong to the package are missing.",
        "Install p2pnodes again.",
    )
    SYSTEM_UNKNOWN_NAME = (
        "system-unknown-name",
        "A command was asked for a page or a code that does not exist.",
        "The message names near ones.",
    )
    SYSTEM_USAGE = (
        "system-usage",
        "The command line cannot be used: a command, an option or a value that there is not, or one that is missing.",
        "The message says which; `p2pnodes COMMAND --help` has all options with examples. Nothing was done.",
    )
    SYSTEM_TERMINAL = (
        "system-terminal",
        "The command draws on a terminal, and its output is none.",
        "Run it on a terminal, or take the option that the message names.",
    )
    SYSTEM_MISUSE = (
        "system-misuse",
        "A library of p2pnodes was called as it must not be, or broke one of its own rules.",
        "If it is your program, read the message; otherwise report it with the log.",
    )
    SYSTEM_FAILED = (
        "system-failed",
        "Something failed that has no code of its own, in a plugin say.",
        "The message says what.",
    )
    SYSTEM_BUG = (
        "system-bug",
        "Here is a bug of p2pnodes: something happened that its code did not foresee. The daemon goes on without it.",
        "Report it with the traceback from the log and the version.",
    )


BY_NAME: Final[Mapping[str, Code]] = MappingProxyType({code.value: code for code in Code})
"""Codes as text -> what they are."""


def from_header(headers: Mapping[str, str]) -> str | None:
    """The code that an answer's HEADER names, also one that only a newer build knows; None for none."""
    code = headers.get(HEADER, "")
    return code if len(code) <= CODE_CHARS_MAX and _SLUG.fullmatch(code) else None


class Reason(str):
    """A reason in words that knows its code; to everybody else it is the text.

    Attributes:
        code: Which kind of reason it is.
    """

    __slots__ = ("code",)

    code: str

    def __new__(cls, text: str, code: str) -> Self:
        """Give a text its code."""
        reason = super().__new__(cls, text)
        reason.code = code
        return reason

    def __reduce__(self) -> tuple[type[Self], tuple[str, str]]:
        """What copies are made of."""
        return type(self), (str(self), self.code)


def code_of(reason: str, default: Code) -> str:
    """The code of a reason; the default for a plain text."""
    return reason.code if isinstance(reason, Reason) else default
