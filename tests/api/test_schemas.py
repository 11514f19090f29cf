"""What the pinned parser reads, pydantic reads too and alike: so no body is accepted here that upstream refuses."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnodes.api.schemas import MultiNodeArgs, NodeArgs
from p2pnodes.model.claims import Node, parse_body, parse_json
from p2pnodes.model.errors import InvalidBodyError
from tests.api.support import gpu

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 11),
    st.sampled_from([2**31 - 1, 2**31, 2**53, 2**53 + 2, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 1.0, -0.0, 5.5, 1e15, 1e16, 1e300]),
    st.sampled_from(
        ["", "0", "1", "-1", "+5", "007", " 7", "1.0", "1e3", "1_0", "true", "False", "yes", "on", "0x1", "٣"]
    ),
    st.text(max_size=5),
    st.sampled_from(["x" * 64, "x" * 65, "x" * 255, "x" * 256, "x" * 257]),
    st.just([]),
    st.just({}),
)


@given(st.dictionaries(st.sampled_from(Node._fields), ODD, max_size=3))
def test_a_node_that_peers_read_is_one_that_upstream_reads(changes: dict[str, Any]) -> None:
    assert NodeArgs.model_fields.keys() == set(Node._fields)
    raw = json.dumps({"nodes": [{**gpu(), **changes}]}).encode()
    try:
        (node,) = parse_body(raw).nodes
    except InvalidBodyError:
        return  # the interface then answers 422, with pydantic's reasons or the parser's own
    (read,) = MultiNodeArgs.model_validate(json.loads(raw)).nodes
    assert read.model_dump() == node._asdict()


@pytest.mark.parametrize(
    ("number", "read"),
    [
        ("9" * 640, True), ("9" * 641, False), ("-" + "9" * 639, True), ("-" + "9" * 640, False),
        ("9" * 700 + ".5", True), ('"' + "9" * 5000 + '"', True), ("[1," + "8" * 641 + "]", False),
    ],
)  # fmt: skip
def test_an_integer_has_at_most_640_digits_wherever_it_stands(number: str, read: bool) -> None:
    raw = b'{"extra":%s}' % number.encode()
    if read:
        parse_json(raw)
    else:
        with pytest.raises(ValueError, match="at most 640 are allowed"):
            parse_json(raw)


@given(ODD, ODD)
def test_a_server_that_peers_read_is_one_that_upstream_reads(server_id: Any, server_name: Any) -> None:
    raw = json.dumps({"server_id": server_id, "server_name": server_name, "nodes": [gpu()]}).encode()
    try:
        body = parse_body(raw)
    except InvalidBodyError:
        return
    if server_name is None:
        return  # the one exception, which the interface looks at by itself: test_a_null_server_name_is_422
    read = MultiNodeArgs.model_validate(json.loads(raw))
    assert (read.server_id, read.server_name) == (body.server_id, body.server_name)
