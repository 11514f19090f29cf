"""The daemon's side of the process that checks signatures: started for a batch, ended when it is told to.

Several batches are under way at once, so that the process always has one to go on with; it answers them in order. A
deadline kills it, and whoever waits hears why; the next batch starts another one.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Sequence
from typing import Final

from p2pnodes import children
from p2pnodes.model.codec import MalformedError
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError
from p2pnodes.store.checker import ANSWER_BYTES_MAX, LENGTH_BYTES, Answer, pack_batch

ANSWER_S_MAX: Final = 5.0
"""Bound of a batch's answer, the start of the process and the batches before it included: a few tenths of a second on
a core that nobody else uses. It is what the store may wait for in vain."""

END_S_MAX: Final = 1.0
"""Bound of a process's end by itself."""

COMMAND: Final = (sys.executable, "-P", "-m", "p2pnodes.store.checker")
"""-P: the directory that the daemon was started in names no modules."""


class CheckerError(P2PNodesError):
    """The process that checks signatures failed; nothing is known of what it was asked for."""

    code = Code.DATA_CHECKER


class CheckerProcess:
    """A ``Checker`` in a process of its own."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        """Start nothing yet."""
        self._command = command
        self._turn = asyncio.Lock()
        self._run: _Run | None = None

    @property
    def pid(self) -> int | None:
        """Of the process while there is one."""
        return None if self._run is None or self._run.over else self._run.process.pid

    async def check(self, wires: Sequence[bytes]) -> Answer:
        """Have the signatures of events checked, behind those of whoever asked before; see ``checker.answer``.

        Raises:
            CheckerError: They were not.
        """
        late = f"no answer within {ANSWER_S_MAX:g} s"
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                async with self._turn:
                    if self._run is None or self._run.stopped:
                        self._run = _Run(await children.start(self._command, limit=ANSWER_BYTES_MAX))
                    run = self._run
                return await run.ask(pack_batch(wires))
        except TimeoutError as error:
            if self._run is not None:
                self._run.stop(late)
            raise CheckerError(late) from error
        except OSError as error:
            raise CheckerError(f"it cannot be started: {error.strerror or error}") from error

    async def end(self) -> None:
        """End the process if there is one; whoever waits for it hears so."""
        async with self._turn:  # one that is being started is ended, too
            run, self._run = self._run, None
        if run is not None:
            await run.end()


class _Run:
    """One process, from its start to its end.

    Attributes:
        process: The process.
        over: Whether it is sent nothing any more: it is dying, or dead.
        stopped: Whether whoever waited for it has been told.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.over = self.stopped = False
        self._asked: deque[asyncio.Future[Answer]] = deque()
        """Who waits for the answer to a batch, the next one first."""
        self._listening = asyncio.create_task(self._listen())

    def ask(self, batch: bytes) -> "asyncio.Future[Answer]":
        """Send a batch; whoever asks bounds what is under way. Of one that is dying, hear what it died of."""
        assert self.process.stdin is not None
        found: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._asked.append(found)
        if not self.over:
            self.process.stdin.write(batch)
        return found

    def stop(self, why: str) -> None:
        """Kill the process, and tell whoever waits for it."""
        self.over = self.stopped = True
        children.kill(self.process)
        asked, self._asked = self._asked, deque()
        for found in asked:
            if not found.done():
                found.set_exception(CheckerError(why))

    async def end(self) -> None:
        """Let the process end by itself, unless somebody waits for it, and see it end."""
        assert self.process.stdin is not None
        self.over = True
        if self._asked:
            self.stop("it was ended")
        self.process.stdin.close()
        await children.ended(self.process, END_S_MAX)
        await self._listening

    async def _listen(self) -> None:
        """Hand answers to those who wait for them, in order, until the process dies or says what is no answer."""
        reader = self.process.stdout
        assert reader is not None
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
                if not self._asked or size > ANSWER_BYTES_MAX:
                    raise MalformedError(f"{size} bytes for {len(self._asked)} batches")
                answer = Answer.unpack(await reader.readexactly(size))
                found = self._asked.popleft()
                if not found.done():
                    found.set_result(answer)
        except MalformedError as error:
            self.stop(f"it answered with garbage: {error}")
        except (EOFError, OSError):
            self.over = True
            status = await children.ended(self.process, END_S_MAX)
            self.stop(f"it died ({children.told(status)})")
        await self.process.wait()
