"""Hooks of schemathesis: requests are signed by a registered miner, so that what is generated reaches the handlers.

``tests.fuzz.openapi`` lets schemathesis import this module, in the tools' environment.
"""

import os
import time
from itertools import count
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import schemathesis
from hypothesis import strategies as st
from requests import PreparedRequest
from requests.auth import AuthBase
from schemathesis import GenerationMode

from p2pnodes.api.auth import HOTKEY, NONCE, SIGNATURE
from p2pnodes.api.openapi import SS58
from p2pnodes.miner.example import example_gpu
from p2pnodes.model.claims import GPUS_PER_CLAIM_MAX
from p2pnodes.model.keys import Hotkey
from p2pnodes.model.requests import PURPOSE_DELETE, PURPOSE_MINER, PURPOSE_STATUS, body_tail, signing_message
from tests.support import MINERS

URI: Final = "FUZZ_URI"
"""Variable with the development key that signs; unset, nothing is signed, and the headers are generated."""

WHOLE: Final = 2
"""Of so many bodies that the document allows, one gets GPUs that exist: no generator finds a name of the GPU table."""

_HEADERS: Final = frozenset({HOTKEY, NONCE, SIGNATURE})
_numbers = count()


class Signed(AuthBase):
    """Signs a request as it goes out."""

    def __init__(self, hotkey: Hotkey) -> None:
        self._hotkey = hotkey

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        """Add the three headers, over the bytes that are sent."""
        nonce = str(int(time.time()))
        signature = self._hotkey.sign(signing_message(self._hotkey.address, nonce, _tail(request))).hex()
        request.headers.update({HOTKEY: self._hotkey.address, NONCE: nonce, SIGNATURE: signature})
        return request


def _tail(request: PreparedRequest) -> str:
    path = unquote(urlsplit(request.url or "").path)
    if path.startswith("/miner/"):
        return PURPOSE_MINER
    if path == "/nodes/verification_status":
        return PURPOSE_STATUS
    if request.method == "DELETE":
        return PURPOSE_DELETE
    body = request.body or b""
    return body_tail(body.encode() if isinstance(body, str) else bytes(body))  # type: ignore[arg-type]


def drop_signatures(context: Any, raw_schema: dict[str, Any]) -> None:
    """Leave the three headers out of the document: they are signed, not generated."""
    for methods in raw_schema["paths"].values():
        for operation in methods.values():
            operation["parameters"] = [each for each in operation["parameters"] if each["name"] not in _HEADERS]


def put_gpus(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Let some of the bodies that are allowed be of GPUs that exist; the rest of them stays as it was generated."""
    if case.method.upper() != "POST" or case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if isinstance(case.body, dict) and next(_numbers) % WHOLE == 0:
        nodes = case.body["nodes"][:GPUS_PER_CLAIM_MAX]
        gpus = [example_gpu(f"{node['uuid']}-{index}"[-64:], index) for index, node in enumerate(nodes)]
        case.body = case.body | {"nodes": [{**node, **gpu} for node, gpu in zip(nodes, gpus, strict=True)]}


schemathesis.openapi.format(SS58, st.sampled_from([Hotkey.from_uri(uri).address for uri in MINERS]))
if (uri := os.environ.get(URI)) is not None:
    schemathesis.auth.set_from_requests(Signed(Hotkey.from_uri(uri)))
    schemathesis.hook("before_load_schema")(drop_signatures)
    schemathesis.hook("before_call")(put_gpus)
