"""The process that reads the chain: ``python -m p2pnodes.chain.reader``, started by ``chain/process.py``.

Requests come in on standard input and answers go out on standard output, one after the other (``chain/reading.py``).
It knows no secret but the URLs that it is told. When its standard input ends, it ends at once, whatever it is doing:
so it never outlives its daemon, however that died. Who asked is who watches the time.
"""

import os
import queue
import resource
import sys
import threading
from contextlib import suppress
from typing import IO, Final

from p2pnodes.chain.reading import (
    LENGTH_BYTES,
    REQUEST_BYTES_MAX,
    Answer,
    Failure,
    HeadsRequest,
    Request,
    pack_answer,
    unpack_request,
)
from p2pnodes.chain.substrate import Endpoint, reason
from p2pnodes.hardening import no_core_dumps

MEMORY_BYTES_MAX: Final = 512 * 1024 * 1024
"""Bound of the process's data (RLIMIT_DATA). The library and two runtimes' metadata are about 210 MB; what an endpoint
may send is bounded on its own, and decodes to a multiple of its size."""

NICENESS: Final = 5
"""Decoding metadata takes a second of CPU, which the daemon's event loop may want more urgently."""


class Reader:
    """Answers requests; keeps the connection to the endpoint that was asked last."""

    def __init__(self) -> None:
        """Begin without a connection."""
        self._endpoint: Endpoint | None = None
        self._key: tuple[str, bytes] | None = None

    def answer(self, request: Request) -> Answer:
        """Ask the endpoint that a request names; any error costs the connection, and is what is answered."""
        try:
            endpoint = self._connected(request.url, request.genesis)
            if isinstance(request, HeadsRequest):
                return endpoint.heads()
            return endpoint.pins(request.netuid, request.blocks, request.method)
        except Exception as error:  # noqa: BLE001 - the library raises whatever a stranger's answer leads it to
            self._drop()
            return Failure(reason(error, request.url))

    def _connected(self, url: str, genesis: bytes) -> Endpoint:
        if self._endpoint is None or self._key != (url, genesis):
            self._drop()
            self._endpoint = Endpoint(url, genesis)
            self._key = url, genesis
        return self._endpoint

    def _drop(self) -> None:
        if self._endpoint is not None:
            self._endpoint.close()
        self._endpoint = self._key = None


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    _limit(resource.RLIMIT_DATA, MEMORY_BYTES_MAX)
    no_core_dumps()  # URLs may hold credentials
    os.nice(NICENESS)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    reader = Reader()
    while True:
        answer = pack_answer(reader.answer(unpack_request(requests.get())))
        with memoryview(answer) as rest:
            sent = 0
            while sent < len(rest):
                sent += answers.write(rest[sent:]) or 0


def _limit(kind: int, most: int) -> None:
    """Bound a resource of this process; a lower bound that it was given, soft or hard, stays."""
    soft, hard = (most if given == resource.RLIM_INFINITY else min(given, most) for given in resource.getrlimit(kind))
    resource.setrlimit(kind, (soft, hard))


def _listen(source: IO[bytes], requests: queue.SimpleQueue[bytes]) -> None:
    """Take in requests, and end the process when there can be no more."""
    with suppress(BaseException):
        while len(length := source.read(LENGTH_BYTES)) == LENGTH_BYTES:
            size = int.from_bytes(length, "big")
            if size > REQUEST_BYTES_MAX:
                break
            requests.put(source.read(size))
    os._exit(0)


if __name__ == "__main__":
    main()
