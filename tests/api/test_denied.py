"""The operator's deny-list: 403 with its reason, read again when it changes, kept when it turns bad."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from p2pnodes.api import denied
from p2pnodes.api.app import create_app
from p2pnodes.api.denied import ENTRIES_MAX, FILE_BYTES_MAX, DenyList, read_denied
from p2pnodes.api.settings import ApiSettings
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.keys import ss58_encode
from p2pnodes.store.database import Database
from tests.api.conftest import MakeClient
from tests.api.support import ALICE, BOB, NETWORK, Clock, FakeResolver, Miner, encode, fingerprint, server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "denied.toml"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What the deny-list logs."""
    lines: list[tuple[str, dict[str, Any]]] = []

    def note(event: str, **fields: Any) -> None:
        lines.append((event, fields))

    monkeypatch.setattr(denied, "log", type("Log", (), {"info": staticmethod(note), "warning": staticmethod(note)}))
    return lines


def write(path: Path, text: str) -> None:
    """Replace the file as editors do, so that it is another one in any case."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def entry(reason: str = "sold fake GPUs") -> str:
    return tomli_w.dumps({ALICE.address: reason})


class TestFile:
    """One line for each hotkey; a bad file is one line for the operator."""

    def test_it_names_hotkeys_and_reasons(self, path: Path) -> None:
        path.write_text(f'# since May\n"{ALICE.address}" = "spam"\n{BOB.address} = "abuse"\n')
        assert read_denied(path) == {ALICE.public_key: "spam", BOB.public_key: "abuse"}

    def test_an_empty_one_denies_nobody(self, path: Path) -> None:
        path.write_text("")
        assert read_denied(path) == {}

    @pytest.mark.parametrize(
        ("content", "line"),
        [
            ('"5Alice" = "spam"', 'found "5Alice", expected an SS58 address'),
            (f'"{ALICE.address}" = 7', "found 7, expected a text"),
            (f'"{ALICE.address}" = ""', "at least 1 character"),
            (f'"{ALICE.address}" = "{"x" * 257}"', "at most 256 characters"),
            (f'[denied]\n"{ALICE.address}" = "spam"', 'found "denied", expected an SS58 address'),
            ("denied = ", 'not TOML: Invalid value (at end of document); expected lines "<SS58 address>" = "reason"'),
            ("\udcff", "not TOML: 'utf-8' codec can't decode byte"),
            ("a = " + "[" * 100_000, "not TOML"),
            ("#" * (FILE_BYTES_MAX + 1), f"over {FILE_BYTES_MAX} bytes"),
            ('"' + "y" * 10_000 + '" = "spam"', "expected an SS58 address"),
        ],
    )
    def test_a_bad_one_is_one_line(self, path: Path, content: str, line: str) -> None:
        path.write_text(content, errors="surrogateescape")
        with pytest.raises(ConfigError) as found:
            DenyList(path)
        message = str(found.value)
        assert message.startswith(f"{path}: ")
        assert line in message
        assert "\n" not in message
        assert len(message) < 900

    def test_too_many_entries_are_refused(self, path: Path) -> None:
        lines = [f'"{ss58_encode(number.to_bytes(32))}" = "x"' for number in range(ENTRIES_MAX + 1)]
        path.write_text("\n".join(lines[1:]))
        assert len(read_denied(path)) == ENTRIES_MAX
        path.write_text("\n".join(lines))
        with pytest.raises(ConfigError, match=f"at most {ENTRIES_MAX} items"):
            read_denied(path)

    def test_an_absent_one_and_a_directory_are_refused(self, path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\)"):
            DenyList(path)
        os.mkfifo(path.with_name("pipe"))
        with pytest.raises(ConfigError, match=r"cannot be read \(not a regular file\)"):
            read_denied(path.with_name("pipe"))
        with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
            DenyList(path.parent)

    def test_a_daemon_does_not_start_with_a_bad_one(self, path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            create_app(
                None,  # type: ignore[arg-type]
                NETWORK,
                ApiSettings(deny_file=path),
                now=Clock(),
                readiness=list,
                resolver=FakeResolver(),
            )


class TestReload:
    """A good change is in effect at the next look; a bad one is told once and changes nothing."""

    def test_a_change_is_in_effect_at_the_next_look(self, path: Path, lines: list[Any]) -> None:
        path.write_text(entry())
        held = DenyList(path)
        assert held.reason(ALICE.public_key) == "sold fake GPUs"
        write(path, tomli_w.dumps({BOB.address: "spam"}))
        held.poll()
        assert (held.reason(ALICE.public_key), held.reason(BOB.public_key)) == (None, "spam")
        assert lines == [("deny_file", {"hotkeys": 1})]

    def test_an_unchanged_file_is_not_read_again(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path.write_text(entry())
        held = DenyList(path)
        monkeypatch.setattr(denied, "read_denied", None)  # to call it would be an error
        held.poll()

    @pytest.mark.parametrize("spoil", [lambda path: write(path, "denied ="), os.unlink])
    def test_a_file_that_turns_bad_keeps_the_last_good_list_and_is_told_once(
        self, path: Path, lines: list[Any], spoil: Callable[[Path], None]
    ) -> None:
        path.write_text(entry())
        held = DenyList(path)
        spoil(path)
        for _ in range(3):
            held.poll()
        assert held.reason(ALICE.public_key) == "sold fake GPUs"
        assert [event for event, _ in lines] == ["deny_file_not_read"]
        write(path, entry("again"))
        held.poll()
        assert held.reason(ALICE.public_key) == "again"
        spoil(path)
        held.poll()
        assert [event for event, _ in lines] == ["deny_file_not_read", "deny_file", "deny_file_not_read"]

    async def test_a_running_daemon_looks_by_itself(
        self, make_client: MakeClient, clock: Clock, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(denied, "POLL_S", 0.01)
        path.write_text("")
        alice = Miner(await make_client(ApiSettings(deny_file=path)), clock)
        write(path, entry())
        async with asyncio.timeout(20):
            while (await alice.post({"nodes": server(11)["nodes"]})).status != 403:
                clock.s += 1  # the limit of requests is not what is tested


class TestRoute:
    """403 ranks behind the retry of a recorded request and before everything that comes after."""

    DETAIL = "Your hotkey has been blacklisted: sold fake GPUs"

    async def test_a_denied_hotkey_is_403_and_others_are_not(
        self, make_client: MakeClient, clock: Clock, path: Path, db: Database
    ) -> None:
        path.write_text(entry())
        client = await make_client(ApiSettings(deny_file=path))
        before = await fingerprint(db)
        answer = await Miner(client, clock).post(server(1))
        assert (answer.status, answer.detail) == (403, self.DETAIL)
        assert await fingerprint(db) == before
        assert (await Miner(client, clock, BOB).post(server(1))).status == 202

    async def test_it_ranks_before_the_limit_of_gpus_conflicts_hosts_and_specs(
        self, make_client: MakeClient, clock: Clock, path: Path, resolver: FakeResolver
    ) -> None:
        path.write_text(entry())
        client = await make_client(ApiSettings(deny_file=path))
        alice = Miner(client, clock)
        await Miner(client, clock, BOB).post(server(2))
        resolver.asked.clear()
        for body in (
            server(11),
            server(2),
            server(1, 20, verification_host="10.0.0.1"),
            server(1, 20, verification_host="public.example"),
            server(1, 20, memory=1),
        ):
            assert (await alice.post(body)).status == 403
        assert resolver.asked == []  # nothing is looked up for whom is denied anyway

    async def test_it_ranks_behind_the_signature_and_the_fields(
        self, make_client: MakeClient, clock: Clock, path: Path
    ) -> None:
        path.write_text(entry())
        alice = Miner(await make_client(ApiSettings(deny_file=path)), clock)
        assert (await alice.post(server(1), {"X-Chutes-Signature": "00" * 64})).status == 401
        assert (await alice.post({"nodes": [{}]})).status == 422
        assert (await alice.post(b"{")).status == 422

    async def test_what_was_registered_before_is_still_found_and_can_be_deleted(
        self, make_client: MakeClient, clock: Clock, path: Path
    ) -> None:
        path.write_text("")
        body = server(1)
        free = Miner(await make_client(ApiSettings(deny_file=path)), clock)
        headers = free.signed(encode(body))
        first = await free.post(body, headers)
        path.write_text(entry())
        alice = Miner(await make_client(ApiSettings(deny_file=path)), clock)
        again = await alice.post(body, headers)
        assert (again.status, again.body) == (202, first.body)
        clock.s += 5
        assert (await alice.post(body)).body == first.body
        assert (await alice.status(first.body["task_id"])).status == 200
        assert (await alice.delete(body["nodes"][0]["uuid"])).status == 200
        assert (await alice.post(server(1, 5))).status == 403
