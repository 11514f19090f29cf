"""The daemon's side of the process that reads the chain: started for a request, ended when it is idle.

Whatever a request comes to, the event loop only waits: a deadline kills the process, and the next request starts
another.
"""

import asyncio
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Protocol, Self

from p2pnodes import children
from p2pnodes.chain.reading import (
    ANSWER_BYTES_MAX,
    LENGTH_BYTES,
    Answer,
    Failure,
    Heads,
    HeadsRequest,
    Pins,
    PinsRequest,
    ReadError,
    Request,
    pack_request,
    unpack_answer,
)
from p2pnodes.model.codec import MalformedError
from p2pnodes.model.codes import Code

HEADS_S_MAX: Final = 25.0
"""Bound of asking how far an endpoint is, the start of the process included."""

PINS_S_MAX: Final = 90.0
"""Bound of reading a subnet at two blocks: metadata of 1.4 MB, up to 2 s of CPU to decode it, some twenty calls."""

IDLE_S: Final = 30.0
"""Seconds without a request after which the process ends, and its 50 to 140 MB with it."""

END_S_MAX: Final = 2.0
"""Bound of a process's end by itself."""

COMMAND: Final = (sys.executable, "-P", "-m", "p2pnodes.chain.reader")
"""-P: the directory that the daemon was started in names no modules."""


class ChainReader(Protocol):
    """Reads endpoints of the chain."""

    async def heads(self, request: HeadsRequest) -> Heads:
        """How far an endpoint is.

        Raises:
            ReadError: It cannot be read.
        """

    async def pins(self, request: PinsRequest) -> Pins:
        """What an endpoint says of a subnet.

        Raises:
            ReadError: It cannot be read, or not so.
        """

    async def close(self) -> None:
        """Let go of everything; a later request begins anew."""


class ReaderProcess:
    """A ``ChainReader`` in a process of its own, one request at a time.

    Attributes:
        pid: Of the process while there is one.
    """

    def __init__(
        self,
        *,
        command: Sequence[str] = COMMAND,
        idle_s: float = IDLE_S,
    ) -> None:
        """Start nothing yet."""
        self._command = command
        self._idle_s = idle_s
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process while there is one."""
        return None if self._process is None else self._process.pid

    async def heads(self, request: HeadsRequest) -> Heads:
        """How far an endpoint is.

        Raises:
            ReadError: It cannot be read, or the process died of it.
        """
        answer = await self._ask(request, HEADS_S_MAX)
        if not isinstance(answer, Heads):
            raise ReadError(
                f"the chain reader answered {type(answer).__name__} to a question for heads", code=Code.CHAIN_READER
            )
        return answer

    async def pins(self, request: PinsRequest) -> Pins:
        """What an endpoint says of a subnet.

        Raises:
            ReadError: It cannot be read, or not so, or the process died of it.
        """
        answer = await self._ask(request, PINS_S_MAX)
        if not isinstance(answer, Pins):
            raise ReadError(
                f"the chain reader answered {type(answer).__name__} to a question for pins", code=Code.CHAIN_READER
            )
        return answer

    async def close(self) -> None:
        """End the process if there is one; a request that is under way ends with it."""
        if self._process is not None and self._turn.locked():
            children.kill(self._process)
        async with self._turn:
            await self._end()
        if self._ending is not None:
            await self._ending

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, request: Request, seconds: float) -> Answer:
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                async with asyncio.timeout(seconds):
                    data = await self._exchange(pack_request(request))
                # Two pins of 1,024 neurons take some milliseconds to check and to make.
                answer = await asyncio.to_thread(unpack_answer, data)
            except BaseException as error:
                # Whatever happened, an answer may still come: it must not be taken for that to the next request.
                status = await self._abandon(dying=isinstance(error, EOFError))
                match error:
                    case TimeoutError():
                        raise ReadError(
                            f"not read within {seconds:g} s; the chain reader was stopped", code=Code.CHAIN_READER
                        ) from error
                    case EOFError():
                        raise ReadError(f"the chain reader died of it ({status})", code=Code.CHAIN_READER) from error
                    case MalformedError():
                        raise ReadError(
                            f"the chain reader answered with garbage: {error}", code=Code.CHAIN_READER
                        ) from error
                    case OSError():
                        raise ReadError(
                            f"the chain reader cannot be started: {error.strerror or error}", code=Code.CHAIN_READER
                        ) from error
                raise
            self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._retire)
        if isinstance(answer, Failure):
            raise ReadError(answer.text)
        return answer

    async def _exchange(self, request: bytes) -> bytes:
        """Send a request to the process, started if there is none, and take its answer.

        Raises:
            EOFError: The process died.
            MalformedError: The answer is over its bound.
            OSError: No process can be started.
        """
        if self._process is None or self._process.returncode is not None:
            self._process = await children.start(self._command, limit=ANSWER_BYTES_MAX)
        writer, reader = self._process.stdin, self._process.stdout
        assert writer is not None
        assert reader is not None
        try:
            writer.write(request)
            await writer.drain()
        except ConnectionError as error:
            raise EOFError from error
        size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
        if size > ANSWER_BYTES_MAX:
            raise MalformedError(f"{size} bytes, expected at most {ANSWER_BYTES_MAX}")
        return await reader.readexactly(size)

    async def _abandon(self, *, dying: bool) -> str:
        """Let go of the process, dead or alive; returns what it died of."""
        process, self._process = self._process, None
        if process is None:
            return "not started"
        return children.told(await children.ended(process, END_S_MAX if dying else 0))

    async def _end(self) -> None:
        """Let the process end by itself, or else kill it."""
        if self._idle is not None:
            self._idle.cancel()
        if (process := self._process) is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        await children.ended(process, END_S_MAX)
        self._process = None

    def _retire(self) -> None:
        self._ending = asyncio.get_running_loop().create_task(self._end_if_idle())

    async def _end_if_idle(self) -> None:
        if not self._turn.locked():
            async with self._turn:
                await self._end()
