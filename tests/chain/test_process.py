"""The reader's process: each fault of an endpoint is a reason, each death a restart, and the loop runs on meanwhile."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from p2pnodes.chain import process, reading
from p2pnodes.chain.process import ReaderProcess
from p2pnodes.chain.reader import MEMORY_BYTES_MAX
from p2pnodes.chain.reading import Heads, HeadsRequest, Method, Pins, PinsRequest, ReadError
from p2pnodes.model.codec import MalformedError
from p2pnodes.model.electorate import Pin
from tests.e2e.waiting import alive, until_dead
from tests.replay.chain import GENESIS_HASH, Chain, Clock
from tests.replay.server import ReplayServer
from tests.replay.subnets import made_up
from tests.replying import replying

GENESIS: Final = bytes.fromhex(GENESIS_HASH)
PINNED: Final = 7_000_000
BLOCKS: Final = (PINNED, PINNED - 100)
PINS: Final = PinsRequest("ws://h", GENESIS, 64, BLOCKS, None)


def heads(server: ReplayServer) -> HeadsRequest:
    return HeadsRequest(server.url, GENESIS)


def pins(server: ReplayServer, *blocks: int, method: Method | None = None) -> PinsRequest:
    return PinsRequest(server.url, GENESIS, 64, blocks or (PINNED,), method)


@asynccontextmanager
async def node(**options: Any) -> AsyncIterator[tuple[ReplayServer, ReaderProcess]]:
    async with ReplayServer(Chain(made_up(), clock=Clock(), **options)) as server, ReaderProcess() as reader:
        yield server, reader


class TestMessages:
    """A request and an answer come out as they went in, and anything else is refused."""

    PIN: Final = Pin(
        100, 1_000, {b"\x01" * 32: 7}, {b"\x01" * 32: 3, b"\x02" * 32: 4}, {b"\x01" * 32: "http://[::1]:1"}
    )

    @pytest.mark.parametrize(
        "request_",
        [
            HeadsRequest("ws://u:p@h:1/x?y", GENESIS),
            PinsRequest("ws://h", GENESIS, 64, (200, 100), None),
            PinsRequest("ws://h", GENESIS, 0, (200,), Method.MAPS),
        ],
    )
    def test_a_request_survives_its_frame(self, request_: reading.Request) -> None:
        frame = reading.pack_request(request_)
        assert int.from_bytes(frame[:4], "big") == len(frame) - 4
        assert reading.unpack_request(frame[4:]) == request_

    @pytest.mark.parametrize(
        "answer",
        [
            reading.Failure("why"),
            Heads(1, 2, 3, 4),
            Pins(461, Method.METAGRAPH, (PIN, PIN)),
            Pins(0, Method.MAPS, (PIN,)),
        ],
    )
    def test_an_answer_survives_its_frame(self, answer: reading.Answer) -> None:
        assert reading.unpack_answer(reading.pack_answer(answer)[4:]) == answer

    @pytest.mark.parametrize(
        "data", [b"", b"\x90", b"\x91\x01", b"\x93\x01\xa1x\x90", b"\x94\x01\x02\x03\xff", b"\xff" * 9]
    )
    def test_anything_else_is_refused(self, data: bytes) -> None:
        with pytest.raises(MalformedError):
            reading.unpack_answer(data)

    def test_the_bound_fits_the_largest_subnet(self) -> None:
        keys = [index.to_bytes(32, "big") for index in range(4_096)]
        url = "http://[2001:db8:1111:2222:3333:4444:5555:6666]:65535"
        stakes, blocks = dict.fromkeys(keys, 2**63 - 1), dict.fromkeys(keys, 2**40)
        pin = Pin(2**40, 2**42, stakes, blocks, dict.fromkeys(keys, url))
        assert len(reading.pack_answer(Pins(461, Method.MAPS, (pin, pin)))) < reading.ANSWER_BYTES_MAX


class TestReading:
    """What the node says comes back, and the process is kept for the next request."""

    async def test_heads_and_pins_come_back(self) -> None:
        async with node() as (server, reader):
            chain = server.chain
            found = await reader.heads(heads(server))
            assert (found.finalized, found.finalized_ms) == (chain.finalized, chain.time_ms(chain.finalized))
            pid = reader.pid
            assert pid is not None
            read = await reader.pins(pins(server, *BLOCKS))
            assert (read.method, [pin.block for pin in read.pins]) == (Method.METAGRAPH, list(BLOCKS))
            assert read.pins[0].registered == {n.hotkey: n.registered for n in chain.subnet.state.neurons}
            assert (await reader.pins(pins(server, method=Method.MAPS))).method is Method.MAPS
            assert reader.pid == pid
            assert server.calls["connect"] == 1
            assert server.calls["state_getMetadata"] == 1

    async def test_no_argument_and_no_variable_holds_the_url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("P2PNODES_ELECTORATE__URLS", "ws://user:word@127.0.0.1")
        async with node() as (server, reader):
            await reader.heads(HeadsRequest(server.url + "/?token=letmein", GENESIS))
            about = Path(f"/proc/{reader.pid}")
            shown = (about / "cmdline").read_bytes()
            with suppress(PermissionError):  # root's alone, of a process that is not dumpable
                shown += (about / "environ").read_bytes()
            assert b"ws://" not in shown
            assert b"letmein" not in shown
            assert b"P2PNODES" not in shown
            limits = (about / "limits").read_text()
        bounds = {line[:20].strip(): line[20:].split()[:2] for line in limits.splitlines()}
        assert bounds["Max data size"] == [str(MEMORY_BYTES_MAX)] * 2
        assert bounds["Max core file size"] == ["0", "0"]

    async def test_it_leaves_no_core_dump_and_raises_no_limit(self) -> None:
        look = """
import ctypes, os, resource, sys
from p2pnodes.chain import reader
resource.setrlimit(resource.RLIMIT_DATA, (reader.MEMORY_BYTES_MAX // 2, resource.getrlimit(resource.RLIMIT_DATA)[1]))
def look(*_):
    dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
    print(dumpable, *resource.getrlimit(resource.RLIMIT_CORE), *resource.getrlimit(resource.RLIMIT_DATA), flush=True)
    os._exit(0)
reader._listen = look
reader.main()
"""
        looking = await asyncio.create_subprocess_exec(sys.executable, "-c", look, stderr=asyncio.subprocess.PIPE)
        shown = [int(number) for number in (await looking.communicate())[1].split()]
        assert shown == [0, 0, 0, MEMORY_BYTES_MAX // 2, MEMORY_BYTES_MAX]

    async def test_requests_at_once_are_answered_one_by_one(self) -> None:
        async with node() as (server, reader):
            found = await asyncio.gather(*(reader.heads(heads(server)) for _ in range(5)))
            assert len({answer.finalized for answer in found}) == 1
            assert server.calls["connect"] == 1

    async def test_taking_in_1024_neurons_costs_the_loop_little(self, tmp_path: Path) -> None:
        keys = [index.to_bytes(32, "big") for index in range(1024)]
        stakes, blocks = dict.fromkeys(keys[:64], 10**15), dict.fromkeys(keys, 6_900_000)
        newest = Pin(PINNED, 2, stakes, blocks, dict.fromkeys(stakes, "http://192.0.2.1:8000"))
        answer = Pins(461, Method.METAGRAPH, (newest, newest._replace(block=PINNED - 100, time_ms=1)))
        (tmp_path / "answer").write_bytes(reading.pack_answer(answer))
        async with ReaderProcess(command=replying(f"open({str(tmp_path / 'answer')!r}, 'rb').read()")) as reader:
            await reader.pins(PINS)
            ticking = asyncio.create_task(_longest_turn_s())
            for _ in range(20):
                assert await reader.pins(PINS) == answer
            ticking.cancel()
            assert await ticking < 0.02


async def _longest_turn_s() -> float:
    """CPU time of the loop's longest turn, whatever else the machine does."""
    longest, last = 0.0, time.thread_time()
    try:
        while True:
            await asyncio.sleep(0)
            longest, last = max(longest, (now := time.thread_time()) - last), now
    except asyncio.CancelledError:
        return longest


class TestFaults:
    """Whatever an endpoint does is a reason, and the next request is answered again."""

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            ({"kind": "reset", "method": "chain_getFinalizedHead"}, "closed the connection"),
            ({"kind": "reset", "method": "connect"}, "closed the connection"),
            (
                {"kind": "error", "method": "connect"},
                "answered the WebSocket handshake with HTTP status 503, expected 101",
            ),
            ({"kind": "garbage", "method": "chain_getHeader"}, "answered with garbage: JSONDecodeError"),
            ({"kind": "error", "method": "chain_getHead", "message": "busy"}, "refused a call: busy"),
            ({"kind": "pruned", "method": "state_getStorage"}, "name an archive endpoint"),
            (
                {"kind": "result", "method": "chain_getHeader", "value": {"number": "-0x1"}},
                "number of the finalized head",
            ),
            (
                {"kind": "result", "method": "chain_getHeader", "value": None},
                "number of the finalized head: found None",
            ),
            ({"kind": "result", "method": "chain_getFinalizedHead", "value": [7]}, "found no hash of 32 bytes"),
            (
                {"kind": "result", "method": "state_getStorage", "value": "0x" + 16 * "z"},
                "answered with garbage: ValueError",
            ),
            (
                {"kind": "result", "method": "state_getStorage", "value": "0x"},
                "time of a block: found 0x, expected 8 bytes",
            ),
            (
                {"kind": "result", "method": "state_getStorage", "value": None},
                "time of a block: found None, expected 8",
            ),
            ({"kind": "huge", "method": "chain_getHead"}, "sent over 33554432 bytes"),
        ],
    )
    async def test_a_fault_is_a_reason(self, fault: dict[str, Any], expected: str) -> None:
        async with node() as (server, reader):
            server.faults.add(**fault, times=1)
            with pytest.raises(ReadError, match=expected):
                await reader.heads(heads(server))
            pid = reader.pid
            await reader.heads(heads(server))
            assert reader.pid == pid

    @pytest.mark.parametrize(
        ("kind", "method"),
        [("timeout", "chain_getHead"), ("wrong_id", "chain_getHead"), ("half_open", "*"), ("timeout", "connect")],
    )
    async def test_an_endpoint_that_hangs_costs_the_process(
        self, kind: Any, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with node() as (server, reader):
            await reader.heads(heads(server))
            pid = reader.pid
            assert pid is not None
            server.faults.add(kind, method, times=1)
            url = server.url + "/?anew"  # another connection
            with monkeypatch.context() as hurry:
                hurry.setattr(process, "HEADS_S_MAX", 1.0)
                with pytest.raises(ReadError, match="not read within 1 s; the chain reader was stopped"):
                    await reader.heads(HeadsRequest(url, GENESIS))
            assert not alive(pid)
            await reader.heads(HeadsRequest(url, GENESIS))
            assert reader.pid != pid

    async def test_nobody_there_is_a_reason(self) -> None:
        async with ReaderProcess() as reader:
            with pytest.raises(ReadError, match="cannot be reached: Connection refused"):
                await reader.heads(HeadsRequest("ws://127.0.0.1:1", GENESIS))

    async def test_a_pruned_block_is_a_reason_and_the_newer_one_can_be_read(self) -> None:
        async with node(keep_blocks=150) as (server, reader):
            with pytest.raises(ReadError, match="it no longer has the state of that block"):
                await reader.pins(pins(server, *BLOCKS))
            assert [pin.block for pin in (await reader.pins(pins(server))).pins] == [PINNED]

    async def test_an_answer_that_takes_more_memory_than_the_process_may_have_is_a_reason(self) -> None:
        async with node() as (server, reader):
            nested: list[Any] = []
            for _ in range(100):
                nested = [nested]
            server.faults.add("result", "chain_getHead", value=[nested] * 80_000, times=1)  # 16 MB, 700 MB in Python
            with pytest.raises(ReadError, match="sent more than the chain reader may hold"):
                await reader.heads(heads(server))
            await reader.heads(heads(server))


class TestDeaths:
    """A process that dies, hangs or babbles is a reason too, and no answer is taken for another's."""

    @pytest.mark.parametrize(
        ("command", "expected"),
        [
            (replying("b''", "sys.exit(3)"), r"the chain reader died of it \(exit status 3\)"),
            (replying("b'\\x00\\x00'", "sys.exit(0)"), r"the chain reader died of it \(exit status 0\)"),
            (replying("b'\\x7f\\xff\\xff\\xff'"), "answered with garbage: 2147483647 bytes, expected at most 4194304"),
            (replying("b'\\x00\\x00\\x00\\x01\\xff'"), "answered with garbage: "),
            (replying(repr(reading.pack_answer(Heads(1, 2, 3, 4)))), "answered Heads to a question for pins"),
            (["/nowhere/python"], "the chain reader cannot be started: No such file or directory"),
        ],
    )
    async def test_a_process_that_does_not_answer_is_a_reason(self, command: list[str], expected: str) -> None:
        async with ReaderProcess(command=command) as reader:
            for _ in range(2):
                with pytest.raises(ReadError, match=expected):
                    await reader.pins(PINS)

    async def test_a_killed_process_is_started_again(self) -> None:
        async with node() as (server, reader):
            await reader.heads(heads(server))
            pid = reader.pid
            assert pid is not None
            server.faults.add("run", "chain_getHead", times=1, action=lambda: os.kill(pid, signal.SIGKILL))
            with pytest.raises(ReadError, match=r"the chain reader died of it \(signal 9\)"):
                await reader.heads(heads(server))
            await reader.heads(heads(server))
            assert reader.pid not in {None, pid}

    async def test_a_process_that_died_between_two_requests_is_started_again(self) -> None:
        async with node() as (server, reader):
            await reader.heads(heads(server))
            pid = reader.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until_dead(pid)
            with suppress(ReadError):  # the loop may not know yet
                await reader.heads(heads(server))
            await reader.heads(heads(server))

    async def test_the_answer_to_a_cancelled_request_is_not_taken_for_the_next(self) -> None:
        async with node() as (server, reader):
            await reader.heads(heads(server))
            waiting = asyncio.Event()
            server.faults.add("run", "chain_getBlockHash", times=1, action=waiting.set)
            request = asyncio.create_task(reader.pins(pins(server)))
            await waiting.wait()
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            assert reader.pid is None
            assert isinstance(await reader.heads(heads(server)), Heads)

    async def test_closing_ends_a_request_that_is_under_way(self) -> None:
        async with ReplayServer(Chain(made_up(), clock=Clock())) as server:
            reader = ReaderProcess()
            waiting = asyncio.Event()
            server.faults.add("run", "chain_getHead", action=waiting.set)
            server.faults.add("half_open", "state_getStorage")
            request = asyncio.create_task(reader.heads(heads(server)))
            await waiting.wait()
            await reader.close()
            with pytest.raises(ReadError, match="died of it"):
                await request
            assert reader.pid is None


class TestLife:
    """The process is there while it is needed, and never longer than its daemon."""

    async def test_the_daemon_s_own_process_never_loads_the_library(self) -> None:
        look = "import sys, p2pnodes.daemon; print(*(name for name in sys.argv[1:] if name in sys.modules))"
        names = ("p2pnodes.chain.process", "substrateinterface", "scalecodec", "websocket")
        looking = await asyncio.create_subprocess_exec(
            sys.executable, "-c", look, *names, stdout=asyncio.subprocess.PIPE
        )
        assert (await looking.communicate())[0] == b"p2pnodes.chain.process\n"

    async def test_nothing_runs_before_the_first_request(self) -> None:
        async with ReaderProcess() as reader:
            assert reader.pid is None

    async def test_an_idle_process_ends_and_the_next_request_starts_another(self) -> None:
        async with (
            ReplayServer(Chain(made_up(), clock=Clock())) as server,
            ReaderProcess(idle_s=0.05) as reader,
        ):
            await reader.heads(heads(server))
            async with asyncio.timeout(20):
                while (pid := reader.pid) is not None:
                    await asyncio.sleep(0.01)
            assert pid is None
            assert (await reader.heads(heads(server))).finalized == server.chain.finalized

    async def test_a_process_that_does_not_end_by_itself_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(process, "END_S_MAX", 0.1)
        answer = reading.pack_answer(Heads(1, 2, 3, 4))
        reader = ReaderProcess(command=replying(repr(answer), "time.sleep(600)"))
        await reader.heads(HeadsRequest("ws://h", GENESIS))
        pid = reader.pid
        assert pid is not None
        await reader.close()
        assert not alive(pid)

    async def test_it_ends_when_its_daemon_is_killed_even_while_it_waits_for_an_endpoint(self) -> None:
        daemon = """
import asyncio, sys
from p2pnodes.chain.process import ReaderProcess
from p2pnodes.chain.reading import HeadsRequest
async def main():
    reader = ReaderProcess()
    asyncio.get_running_loop().create_task(reader.heads(HeadsRequest(sys.argv[1], bytes(32))))
    while reader.pid is None:
        await asyncio.sleep(0.01)
    print(reader.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
        async with ReplayServer(Chain(made_up(), clock=Clock())) as server:
            waiting = asyncio.Event()
            server.faults.add("run", "chain_getHead", action=waiting.set)
            server.faults.add("half_open", "state_getStorage")
            parent = await asyncio.create_subprocess_exec(
                sys.executable, "-c", daemon, server.url, stdout=asyncio.subprocess.PIPE
            )
            assert parent.stdout is not None
            async with asyncio.timeout(30):
                pid = int(await parent.stdout.readline())
                await waiting.wait()
            assert alive(pid)
            parent.kill()
            await parent.wait()
            await until_dead(pid)
