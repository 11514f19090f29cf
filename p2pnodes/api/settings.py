"""Settings of the public HTTP interface."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork

from p2pnodes.model.addresses import BaseUrl
from p2pnodes.model.problems import SettingPath

Rate = Annotated[float, Field(gt=0, le=1_000_000)]
Burst = Annotated[int, Field(ge=1, le=10_000_000)]
Network = IPvAnyNetwork


class ApiSettings(BaseModel):
    """What an operator may change about the public interface.

    Limits apply to signed routes, and to reads that the cache cannot answer; cached reads are not counted. The
    defaults leave room for a miner with a hundred servers behind one address that polls every task each second and
    deletes all its GPUs in one loop.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow_private_hosts: Annotated[
        bool,
        Field(
            description="Accept verification hosts with private, loopback and link-local addresses. For devnets: on a "
            "public network it lets miners point this daemon's verifier at the operator's own services."
        ),
    ] = False
    trusted_proxies: Annotated[
        tuple[Network, ...],
        Field(
            max_length=64,
            description="Networks of reverse proxies whose X-Forwarded-For is believed. Then the right-most address "
            "that is not one of them is the client. Empty: the connection's own address is the client.",
        ),
    ] = ()
    hotkey_rate: Annotated[Rate, Field(description="Signed requests per second that one hotkey may keep up.")] = 50.0
    hotkey_burst: Annotated[Burst, Field(description="Signed requests that one hotkey may send at once.")] = 500
    address_rate: Annotated[
        Rate,
        Field(description="Limited requests per second that one client address (IPv6: one /64) may keep up."),
    ] = 100.0
    address_burst: Annotated[
        Burst, Field(description="Limited requests that one client address (IPv6: one /64) may send at once.")
    ] = 1000
    cors_origins: Annotated[
        tuple[Annotated[str, Field(pattern=r"^(\*|https?://[A-Za-z0-9.\-\[\]:]{1,255})$")], ...],
        Field(
            max_length=64,
            description='Origins whose pages may call this interface from a browser, such as "https://example.org", '
            'or "*" for all. Empty: none (no CORS headers are sent).',
        ),
    ] = ()
    deny_file: Annotated[
        SettingPath | None,
        Field(
            description='TOML file with a line "<SS58>" = "reason" for each hotkey whose registrations are refused; '
            "read again when it changes. Unset: nobody is refused."
        ),
    ] = None
    upstream: Annotated[
        BaseUrl | None,
        Field(
            description="Base URL of an API to which requests for all paths that are not this daemon's are passed on, "
            "so that a miner needs no other API. Unset: they are answered 404."
        ),
    ] = None
    dns_timeout_s: Annotated[
        float,
        Field(
            gt=0,
            le=10,
            description="Seconds within which all verification hosts of a request must be resolved; what takes longer "
            "counts as unresolvable.",
        ),
    ] = 2.0
    body_timeout_s: Annotated[
        float, Field(gt=0, le=60, description="Seconds within which a request's body must have arrived, else 408.")
    ] = 10.0
