"""The benchmark against etcd: what its client sends and takes, how runs become figures, and etcd itself where it is."""

import json
from pathlib import Path

import pytest

from tests.bench.etcd import KINDS, NOT_RUN, OURS, THROUGH, Run, each, main, puts, ratio, signed, size_bytes, told
from tests.bench.grpc import PUT, Calls, counted, put, watched
from tests.support import program

PORT = 2379
HEADERS = bytes.fromhex("0000010104000000018800")[:10]
"""HEADERS of stream 1: END_HEADERS, the indexed field ``:status 200``."""

DATA = bytes.fromhex("000007000000000001") + b"\x00\x00\x00\x00\x02ok"
TRAILERS = bytes.fromhex("000001010500000001") + b"\x88"
PING = bytes.fromhex("000008060000000000") + b"12345678"
RESET = bytes.fromhex("000004030000000001") + b"\x00\x00\x00\x02"


class TestCalls:
    """Calls over HTTP/2, however their bytes are cut."""

    @pytest.fixture
    def calls(self) -> Calls:
        calls = Calls(PORT, PUT)
        calls.begin(b"x")
        return calls

    def test_a_call_is_headers_and_one_message_on_the_next_odd_stream(self) -> None:
        calls = Calls(PORT, PUT)
        for stream in (1, 3):
            sent = calls.begin(b"abc")
            length = int.from_bytes(sent[:3], "big")
            assert (sent[3], int.from_bytes(sent[5:9], "big")) == (1, stream)
            assert PUT.encode() in sent[: 9 + length]
            data = sent[9 + length :]
            assert data == bytes.fromhex("000008" + "00" + "01") + stream.to_bytes(4, "big") + b"\0\0\0\0\x03abc"

    @pytest.mark.parametrize("size", [1, 3, 9, 1_000])
    def test_an_answer_is_whole_with_its_trailers(self, calls: Calls, size: int) -> None:
        data = HEADERS + DATA + TRAILERS
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        assert [calls.receive(part) for part in parts] == [False] * (len(parts) - 1) + [True]
        assert calls.messages == [b"ok"]

    def test_a_call_that_fails_has_no_message(self, calls: Calls) -> None:
        assert calls.receive(TRAILERS)
        assert calls.messages == []

    def test_a_ping_is_due_its_echo(self, calls: Calls) -> None:
        assert not calls.receive(PING)
        assert calls.due == bytes.fromhex("000008060100000000") + b"12345678"

    @pytest.mark.parametrize("data", [RESET, b""], ids=["reset", "closed"])
    def test_an_end_that_is_none_of_a_call_is_told(self, calls: Calls, data: bytes) -> None:
        with pytest.raises(ConnectionError, match="etcd"):
            calls.receive(data)


class TestMessages:
    """Protobuf, as etcd's own tools write it."""

    def test_a_put_has_its_key_and_its_value(self) -> None:
        assert put(b"k", b"v" * 200) == b"\x0a\x01k\x12\xc8\x01" + b"v" * 200

    def test_an_answer_without_a_count_counts_none(self) -> None:
        assert counted(b"\x0a\x02\x08\x01") == 0
        assert counted(b"\x0a\x02\x08\x01\x20\xac\x02") == 300

    def test_a_watch_tells_the_values_of_its_events(self) -> None:
        key_value = b"\x0a\x01k\x10\x05\x2a\x03one"
        event = b"\x12" + bytes([len(key_value)]) + key_value
        assert list(watched(b"\x0a\x02\x08\x01" + (b"\x5a" + bytes([len(event)]) + event) * 2)) == [b"one", b"one"]


FAST = Run(acknowledged=400.0, everywhere=300.0, cpu_ms=1.0, driver=0.1, others=0.0)
SLOW = Run(acknowledged=200.0, everywhere=100.0, cpu_ms=2.0, driver=0.1, others=0.0)


class TestFigures:
    """Rounds become ratios, above 1 where ours take more."""

    def test_what_counts_is_what_all_have(self) -> None:
        assert ratio([FAST], [SLOW]) == 3.0
        assert ratio([FAST, SLOW, FAST], [SLOW, FAST, SLOW]) == 3.0

    def test_a_write_of_eight_rows_is_eight_puts(self) -> None:
        assert each(FAST, 8) == Run(50.0, 37.5, 8.0, 0.1, 0.0)

    def test_the_table_says_how_many_times_as_many_ours_take(self) -> None:
        header, ours, theirs = told({KINDS[0]: {OURS: [FAST], THROUGH: [SLOW]}}).splitlines()
        assert header.startswith("POST of 1 GPU ")
        assert ours.split()[-5:] == ["400", "300", "1.00", "0.10", "0.00"]
        assert theirs.split()[-1] == "3.00x"

    def test_requests_are_of_as_many_gpus_as_their_kind_says(self) -> None:
        sizes = [size_bytes(signed(kind, 0, 1)[0]) for kind in KINDS]
        assert sizes[1] > 4 * sizes[0] > 4 * sizes[2]
        assert puts("p", 1, sizes[0])[0].startswith(b"\x0a\x03p/0")


class TestEtcd:
    """The rival comes from elsewhere; without it there is one line and no figure."""

    def test_without_it_nothing_is_run(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["--etcd", str(tmp_path / "etcd")]) == NOT_RUN
        output = capfd.readouterr()
        assert output.out == ""
        assert output.err.startswith("NOT RUN: ")
        assert output.err.count("\n") == 1

    @pytest.mark.timeout(240)
    def test_all_that_is_written_arrives_everywhere_on_each_side(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Speed is not looked at: a run in which a write is refused or missing has no figures."""
        main(["--etcd", program("etcd"), "--rounds", "1", "--writes", "40", "--clients", "8", "--json"])
        found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
        assert [each["kind"] for each in found] == [kind.name for kind in KINDS]
        for kind in found:
            assert {OURS, THROUGH} < kind["sides"].keys()
            assert len(kind["sides"]) == 4
            assert all(side["everywhere"] > 0 for side in kind["sides"].values())
