"""Verification hosts: a miner may name public hosts only, since the daemon's verifier is going to call them.

An address is judged by what it is, a name by all addresses that it resolves to. The verifier checks again what it
connects to (a name can resolve to something else tomorrow); here the point is that a miner hears of it at once.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final
from weakref import WeakValueDictionary

from p2pnodes.model.addresses import is_public
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import WritesRefusedError
from p2pnodes.outbound import LookupsBusyError, look_up

LOOKUPS_MAX: Final = 32
"""Names that are looked up at the same time, over all requests: a lookup that hangs holds a thread."""

LOOKUPS_PER_MINER_MAX: Final = 4
"""Of those, for one miner: it takes several miners whose names hang to delay others, who are told to try again."""

BUSY_RETRY_S: Final = 2
"""When a miner shall come back whose names could not be looked up."""

HOSTS_KEPT: Final = 1_024
"""Hosts that are kept parsed: a miner's servers are few, and each of their GPUs names its server."""

_NAME = re.compile(r"(?=.{1,253}\.?$)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?", re.ASCII)

Resolver = Callable[[str], Coroutine[Any, Any, Iterable[str]]]
"""Looks up the addresses of a name, as text; raises OSError (or UnicodeError) for one that does not resolve."""


async def system_resolver(name: str) -> Iterable[str]:
    """Ask the system. A ``Resolver``."""
    return [str(address[0]) for *_, address in await asyncio.shield(look_up(name))]


class HostCheck:
    """Decides which verification hosts are acceptable."""

    def __init__(self, resolver: Resolver, *, timeout_s: float, allow_private: bool) -> None:
        """Take the resolver for names; ``allow_private`` lifts the check of publicness, and nothing else."""
        self._resolver = resolver
        self._timeout_s = timeout_s
        self._allow_private = allow_private
        self._slots = asyncio.Semaphore(LOOKUPS_MAX)
        self._slots_of: WeakValueDictionary[bytes, asyncio.Semaphore] = WeakValueDictionary()
        self._running: set[asyncio.Task[Iterable[str]]] = set()

    async def acceptable(self, hosts: Iterable[str], miner: bytes) -> bool:
        """Whether every host that a miner names is a public address or resolves to public ones only, in time.

        Raises:
            WritesRefusedError: Too many names are being looked up for others.
        """
        names = []
        for host in set(hosts):
            address = _literal(host)
            if address is None:
                if not _NAME.fullmatch(host):
                    return False
                names.append(host)
            elif not self._public(address):
                return False
        if not names:
            return True
        try:
            async with asyncio.timeout(self._timeout_s):
                for name in names:
                    if not await self._name_acceptable(name, miner):
                        return False
        except TimeoutError:
            return False
        return True

    async def _name_acceptable(self, name: str, miner: bytes) -> bool:
        try:
            found = [_literal(text) for text in await self._look_up(name, miner)]
        except LookupsBusyError as error:  # no fault of the miner's
            raise _busy() from error
        except (OSError, UnicodeError):  # UnicodeError: a label that the resolver cannot encode
            return False
        return bool(found) and all(address is not None and self._public(address) for address in found)

    async def _look_up(self, name: str, miner: bytes) -> Iterable[str]:
        """Addresses of a name. Its slots are taken until the lookup ends, also when nobody waits for it any more."""
        own = self._slots_of.get(miner)
        if own is None:
            own = self._slots_of[miner] = asyncio.Semaphore(LOOKUPS_PER_MINER_MAX)
        await own.acquire()
        try:
            async with asyncio.timeout(self._timeout_s / 2):
                await self._slots.acquire()
        except TimeoutError as error:
            own.release()
            raise _busy() from error
        except BaseException:
            own.release()
            raise
        lookup = asyncio.create_task(self._resolver(name))
        self._running.add(lookup)

        def ended(task: asyncio.Task[Iterable[str]]) -> None:
            self._running.discard(task)
            self._slots.release()
            own.release()
            if not task.cancelled():
                task.exception()  # seen, in case that nobody waits

        lookup.add_done_callback(ended)
        return await asyncio.shield(lookup)

    def _public(self, address: IPv4Address | IPv6Address) -> bool:
        return self._allow_private or is_public(address)


def _busy() -> WritesRefusedError:
    return WritesRefusedError(
        "too many names are being looked up: try again", retry_after_s=BUSY_RETRY_S, code=Code.WRITES_BUSY
    )


@lru_cache(HOSTS_KEPT)
def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
