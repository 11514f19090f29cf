"""The plan of moving over: which rows of another API become which registrations."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.miner.adopt import plan_adoption, read_row
from p2pnodes.model.claims import GPUS_PER_CLAIM_MAX, body_of, check_claim
from p2pnodes.model.errors import InvalidBodyError
from p2pnodes.model.gpus import supported_gpus
from tests.support import gpu, hotkey

ALICE = hotkey("//Alice").address
CENTRAL = {
    "miner_hotkey": ALICE,
    "seed": 2**62,
    "created_at": "2026-11-24T03:35:34.093480+00:00",
    "verified_at": "2026-11-24T03:36:00.000000+00:00",
    "verification_error": None,
    "instance": None,
}
"""Columns of the central API that are no part of a request."""


def row(uuid: str, index: int = 0, *, server_id: str | None = "s-1", **changes: Any) -> dict[str, Any]:
    """A row as the central API lists it."""
    return {**gpu(uuid, index), **CENTRAL, "server_id": server_id, **changes}


class TestGrouping:
    """One registration is one server: by its id, without one by its host, and never more than 10 GPUs."""

    def test_gpus_of_one_id_are_one_server_in_the_order_of_their_slots(self) -> None:
        rows = [row("b", 1), row("x", server_id="s-2"), row("a", 0), row("c", 2, verification_host="192.0.2.99")]
        first, second = plan_adoption(rows, set(), ALICE).servers
        assert (first.name, first.uuids) == ("s-1", ["a", "b", "c"])
        assert (second.name, second.uuids) == ("s-2", ["x"])

    def test_gpus_without_an_id_are_grouped_by_their_host(self) -> None:
        hosts = [("a", "192.0.2.1"), ("b", "192.0.2.2"), ("c", "192.0.2.1")]
        rows = [row(uuid, server_id=None, verification_host=host) for uuid, host in hosts]
        rows.append(row("d", server_id="192.0.2.1"))  # an id that looks like the host is another server
        plan = plan_adoption(rows, set(), ALICE)
        found = [(server.server_id, server.name, server.uuids) for server in plan.servers]
        assert found == [
            (None, "192.0.2.1", ["a", "c"]),
            (None, "192.0.2.2", ["b"]),
            ("192.0.2.1", "192.0.2.1", ["d"]),
        ]

    def test_a_server_of_more_gpus_than_a_request_may_have_is_registered_in_parts(self) -> None:
        rows = [row(f"u{number}", number % 10) for number in range(23)]
        plan = plan_adoption(rows, set(), ALICE)
        assert [len(server.nodes) for server in plan.servers] == [10, 10, 3]
        assert {server.server_id for server in plan.servers} == {"s-1"}

    @given(
        st.lists(
            st.tuples(st.sampled_from(["s1", "s2", None]), st.sampled_from(["192.0.2.1", "192.0.2.2"])), max_size=40
        ),
        st.sets(st.integers(0, 40)),
    )
    def test_every_gpu_is_registered_once_or_held(self, places: list[tuple[str | None, str]], held: set[int]) -> None:
        rows = [
            row(str(number), number % 10, server_id=server_id, verification_host=host)
            for number, (server_id, host) in enumerate(places)
        ]
        plan = plan_adoption(rows, {str(number) for number in held}, ALICE)
        registered = [uuid for server in plan.servers for uuid in server.uuids]
        assert sorted([*registered, *plan.held]) == sorted(str(number) for number in range(len(places)))
        assert set(plan.held) <= {str(number) for number in held}
        for server in plan.servers:
            assert 1 <= len(server.nodes) <= GPUS_PER_CLAIM_MAX
            check_claim(body_of(server.body()))
        assert plan_adoption(rows, {*registered, *plan.held}, ALICE).servers == ()  # done once, nothing is left to do


class TestBodies:
    """What is posted is what the miner once posted, and nothing that the other API added."""

    def test_only_the_fields_of_a_request_are_sent_and_no_nulls(self) -> None:
        (server,) = plan_adoption([row("a", major=None)], set(), ALICE).servers
        expected = gpu("a")
        del expected["major"]
        assert server.body() == {"server_id": "s-1", "nodes": [expected]}

    def test_a_server_without_an_id_stays_without(self) -> None:
        (server,) = plan_adoption([row("a", server_id=None)], set(), ALICE).servers
        assert "server_id" not in server.body()

    def test_it_passes_the_gpu_table(self) -> None:
        (server,) = plan_adoption([row("a")], set(), ALICE).servers
        supported_gpus().check(server.nodes)

    def test_a_row_without_an_owner_is_taken_for_the_callers(self) -> None:
        assert read_row(row("a", miner_hotkey=None), ALICE)[1].uuid == "a"


class TestMalformed:
    """A row that cannot be registered is named, and the others go on."""

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"memory": None}, "memory is missing: expected an integer"),
            ({"memory": "much"}, "memory is 'much': expected an integer"),
            ({"device_index": 10}, "device_index is 10: expected an integer in 0..9"),
            ({"verification_port": -1}, "verification_port is -1"),
            ({"clock_rate": math.inf}, "clock_rate is inf: expected a finite number"),
            ({"name": "\ud800"}, "name is '\\ud800'"),
            ({"sxm": "yes"}, "sxm is 'yes': expected a boolean"),
            ({"server_id": 7}, "server_id is 7"),
            ({"gpu_identifier": "x" * 1000}, "gpu_identifier is 'xxx"),
            ({"miner_hotkey": hotkey("//Bob").address}, "belongs to"),
        ],
    )
    def test_its_column_and_what_it_holds_are_told(self, change: dict[str, Any], reason: str) -> None:
        plan = plan_adoption([row("a", **change), row("b")], set(), ALICE)
        (malformed,) = plan.malformed
        assert (malformed.uuid, [server.uuids for server in plan.servers]) == ("a", [["b"]])
        assert reason in malformed.reason
        assert len(malformed.reason) < 300

    @pytest.mark.parametrize("uuid", [None, "", 7, "a b", "x" * 65])
    def test_a_uuid_that_is_none_is_told_as_far_as_it_goes(self, uuid: Any) -> None:
        (malformed,) = plan_adoption([{**row("a"), "uuid": uuid}], set(), ALICE).malformed
        assert malformed.uuid == (uuid[:64] if isinstance(uuid, str) and uuid else "?")
        assert "uuid" in malformed.reason

    def test_the_second_row_of_a_gpu_is_left_out(self) -> None:
        plan = plan_adoption([row("a", 1), row("a", 2, server_id="s-2")], set(), ALICE)
        assert [server.uuids for server in plan.servers] == [["a"]]
        assert plan.malformed == (("a", "is listed twice; the first row is taken"),)

    @given(
        st.dictionaries(st.sampled_from([*gpu("a"), "server_id", "miner_hotkey"]), st.none() | st.text() | st.floats())
    )
    def test_no_row_does_more_than_that(self, changes: dict[str, Any]) -> None:
        plan = plan_adoption([{**row("a"), **changes}], set(), ALICE)
        assert len(plan.servers) + len(plan.malformed) == 1


def test_a_row_of_another_miner_is_an_error() -> None:
    with pytest.raises(InvalidBodyError, match="belongs to '5FHne"):
        read_row(row("a", miner_hotkey=hotkey("//Bob").address), ALICE)
