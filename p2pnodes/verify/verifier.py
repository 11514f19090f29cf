"""The interface of a verifier, the one that waves everything through, and how others plug theirs in.

A package adds a verifier with an entry point of the group ``p2pnodes.verifiers``: its name is the setting
``[verify] verifier``, its value a subclass of ``Verifier``. Our own are found the same way.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar, Final, NamedTuple

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, LocalProtocolError, P2PNodesError
from p2pnodes.model.events import VERIFIED
from p2pnodes.model.keys import Hotkey
from p2pnodes.model.network import Network
from p2pnodes.store.facts import StoredClaim
from p2pnodes.verify.exchange import Exchange
from p2pnodes.verify.finding import Finding
from p2pnodes.verify.settings import VerifySettings

ENTRY_POINTS: Final = "p2pnodes.verifiers"
METHOD_CHARS_MAX: Final = 32
"""Length of a verifier's name in its verdicts, as the format of events has it."""


class Setup(NamedTuple):
    """What a verifier is made from.

    Attributes:
        settings: ``[verify]``; a verifier of another package finds its own settings in ``options``.
        hotkey: The validator's, to sign challenges with; None when it is not on this machine.
        network: The network's parameters.
        exchange: HTTP to miners' hosts and to the operator's own services, bounded and told apart by whose fault it is.
        now_s: Wall clock, Unix seconds.
        randbytes: Secure random bytes.
    """

    settings: VerifySettings
    hotkey: Hotkey | None
    network: Network
    exchange: Exchange
    now_s: Callable[[], float]
    randbytes: Callable[[int], bytes]

    @property
    def signer(self) -> Hotkey:
        """The hotkey, for a verifier that says that it ``needs_hotkey``.

        Raises:
            LocalProtocolError: It does not say so, and there is none.
        """
        if self.hotkey is None:
            raise LocalProtocolError(
                "BUG! a verifier signs with the hotkey and does not say that it needs one", code=Code.SYSTEM_BUG
            )
        return self.hotkey


class Verifier(ABC):
    """Checks claims; several checks of different hosts may run at once.

    Attributes:
        method: Name in the verdict, 1 to 32 characters.
        needs_hotkey: Whether checks are signed with the validator's hotkey, which must then be on this machine.
    """

    method: ClassVar[str]
    needs_hotkey: ClassVar[bool] = True

    def __init__(self, setup: Setup) -> None:
        """Take what there is; nothing is connected yet.

        Raises:
            ConfigError: A setting that this verifier needs is missing or wrong.
        """
        self.setup = setup

    async def start(self) -> None:
        """Connect, start tasks; called once before the first check. What is down may come up later: do not fail."""
        return

    async def close(self) -> None:
        """Undo ``start``; checks under way have been cancelled."""
        return

    @abstractmethod
    async def verify(self, claim: StoredClaim) -> Finding:
        """Check the GPUs of a claim. It is cancelled when the claim is deleted, or the daemon stops.

        Raises:
            VerifierUnavailableError: This validator cannot check now, and that is not the miner's fault.
        """

    def slot_s(self, claim: StoredClaim) -> float:
        """Seconds that a check of the claim may take: validators take turns of this length at one host.

        Must depend on the claim alone, so that all validators with this verifier agree. 0: nothing is loaded by a
        check, so all may check at once.
        """
        return 0.0

    def endpoints(self, claim: StoredClaim) -> frozenset[tuple[str, int]]:
        """Hosts and ports that a check loads; this daemon checks no two claims with a common one at the same time."""
        return frozenset((node.verification_host, node.verification_port) for node in claim.body.nodes)


class NoneVerifier(Verifier):
    """Votes verified at once, without looking: upstream's ``skip_gpu_verification``, for devnets."""

    method = "none"
    needs_hotkey = False

    async def verify(self, claim: StoredClaim) -> Finding:
        """Say verified."""
        return Finding(VERIFIED)

    def endpoints(self, claim: StoredClaim) -> frozenset[tuple[str, int]]:
        """None: no host is asked."""
        return frozenset()


def installed_verifiers() -> dict[str, EntryPoint]:
    """Every verifier that is installed, by the name that the setting takes."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def load_verifier(name: str) -> type[Verifier]:
    """The verifier of a name.

    Raises:
        ConfigError: None is installed under this name, or it does not fit the interface.
    """
    installed = installed_verifiers()
    if name not in installed:
        raise ConfigError(
            f"verify.verifier: found {name!r}, expected one that is installed: {', '.join(sorted(installed))}",
            code=Code.VERIFIER_UNKNOWN,
        )
    point = installed[name]
    try:
        found = point.load()
    except Exception as error:
        raise ConfigError(
            f"verify.verifier: {name!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}; install "
            "its package anew, or choose another",
            code=Code.VERIFIER_UNKNOWN,
        ) from error
    if not (isinstance(found, type) and issubclass(found, Verifier)):
        raise ConfigError(
            f"verify.verifier: {name!r} ({point.value}) is no subclass of p2pnodes.verify.verifier.Verifier; tell its "
            "author, or choose another",
            code=Code.VERIFIER_UNKNOWN,
        )
    if not 1 <= len(getattr(found, "method", "")) <= METHOD_CHARS_MAX:
        raise ConfigError(
            f"verify.verifier: {name!r} ({point.value}) has no method of 1 to {METHOD_CHARS_MAX} characters; tell its "
            "author, or choose another",
            code=Code.VERIFIER_UNKNOWN,
        )
    return found


def make_verifier(name: str, setup: Setup) -> Verifier:
    """The verifier of a name, ready to be started.

    Raises:
        ConfigError: As ``load_verifier``, and when a setting or the hotkey that it needs is missing or wrong.
    """
    kind = load_verifier(name)
    if kind.needs_hotkey and setup.hotkey is None:
        raise ConfigError(
            f"verify.verifier: {name!r} signs its checks with the validator's hotkey, which is not on this machine; "
            'set wallet or hotkey_file, or verifier = "none"',
            code=Code.VERIFIER_SETTINGS,
        )
    try:
        return kind(setup)
    except P2PNodesError:
        raise
    except Exception as error:
        raise ConfigError(
            f"verify.verifier: {name!r} cannot be made: {type(error).__name__}: {error}; see what its package says of "
            "its settings, or choose another",
            code=Code.VERIFIER_SETTINGS,
        ) from error
