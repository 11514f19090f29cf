"""What is wrong at a first start is one clear line: what was found, what was expected, what to do."""

import os
import socket
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tomli_w

from p2pnodes.chain.wallet import write_hotkey_file
from p2pnodes.model.keys import Hotkey
from tests.e2e.single import Single, settings_of, write_electorate
from tests.e2e.waiting import eventually
from tests.replay.chain import Chain, wall_clock
from tests.replay.server import ReplayServer
from tests.replay.subnets import made_up, made_up_hotkey
from tests.support import hotkey


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Single]:
    """A daemon that starts as it is."""
    daemon = Single(tmp_path, settings_of(tmp_path))
    yield daemon
    await daemon.stop()


async def test_good_settings_start_a_daemon_that_sigterm_ends_with_0(daemon: Single) -> None:
    await daemon.listening()
    assert await daemon.stop() == 0


class TestPort:
    """A daemon listens where it was told to, or does not start."""

    async def test_a_taken_port(self, daemon: Single) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            daemon.settings["http"]["port"] = port = taken.getsockname()[1]
            line = await daemon.refused()
        assert line == (
            f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another [http] host or port, or stop "
            "what listens there [config-address-taken]"
        )

    async def test_a_taken_port_of_another_version_of_ip(self, daemon: Single) -> None:
        with socket.create_server(("0.0.0.0", 0)) as taken:  # noqa: S104 - what is asked for includes it
            daemon.settings["http"] = {"host": "::", "port": taken.getsockname()[1]}
            line = await daemon.refused()
        assert line.startswith(f"cannot listen on [::]:{daemon.settings['http']['port']}: ")

    async def test_an_address_of_another_machine(self, daemon: Single) -> None:
        daemon.settings["http"]["host"] = "192.0.2.1"
        assert "cannot listen on 192.0.2.1:0: Cannot assign requested address" in await daemon.refused()

    async def test_a_port_that_the_admin_interface_cannot_have(self, daemon: Single) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            daemon.settings["admin"] = {"port": taken.getsockname()[1]}
            assert "admin.port" in await daemon.refused()


class TestSettings:
    """A setting that cannot be used is named."""

    async def test_an_unknown_setting_with_a_suggestion(self, daemon: Single) -> None:
        daemon.settings["http"]["prot"] = 8000
        assert "http.prot: unknown setting; did you mean http.port?" in await daemon.refused()

    async def test_a_data_directory_that_cannot_be_made(self, daemon: Single) -> None:
        (daemon.directory / "file").touch()
        daemon.settings["data_dir"] = "file/data"
        line = await daemon.refused()
        assert "data_dir" in line
        assert str(daemon.directory / "file" / "data") in line

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    async def test_a_data_directory_that_is_not_writable(self, daemon: Single) -> None:
        (daemon.directory / "data").mkdir(mode=0o500)
        assert "cannot be written" in await daemon.refused()

    async def test_an_electorate_that_is_none(self, daemon: Single) -> None:
        (daemon.directory / "electorate.toml").write_text("block = 'high'")
        assert "electorate.toml: block" in await daemon.refused()

    async def test_a_second_daemon_on_one_directory(self, daemon: Single, tmp_path: Path) -> None:
        await daemon.listening()
        (tmp_path / "second").mkdir()
        second = Single(tmp_path / "second", {**settings_of(tmp_path / "second"), "data_dir": str(tmp_path / "data")})
        assert "another daemon runs on" in await second.refused()
        assert await daemon.stop() == 0


class TestKeys:
    """A key that is absent, unsafe or not the validator's is named."""

    async def test_an_absent_hotkey_file(self, daemon: Single) -> None:
        daemon.settings["hotkey_file"] = "nowhere"
        assert str(daemon.directory / "nowhere") in await daemon.refused()

    async def test_a_hotkey_file_that_others_can_read(self, daemon: Single) -> None:
        (daemon.directory / "hotkey").chmod(0o644)
        assert "hotkey" in await daemon.refused()

    async def test_a_node_key_file_that_is_none(self, daemon: Single) -> None:
        (daemon.directory / "data").mkdir()
        key = daemon.directory / "data" / "node.key"
        key.touch(mode=0o600)
        key.write_text("not a key")
        assert "not a node key file" in await daemon.refused()

    async def test_a_wallet_that_does_not_exist(self, daemon: Single) -> None:
        wallets = daemon.directory / "wallets"
        (wallets / "mine" / "hotkeys").mkdir(parents=True)
        write_hotkey_file(wallets / "mine" / "hotkeys" / "default", hotkey("//validator0"))
        del daemon.settings["hotkey_file"]
        daemon.settings |= {"wallet_path": "wallets", "wallet": "mien"}
        line = await daemon.refused()
        assert "mien" in line
        assert "mine" in line
        daemon.settings |= {"wallet": "mine", "hotkey": "validator"}
        line = await daemon.refused()
        assert "validator" in line
        assert "default" in line
        del daemon.settings["hotkey"]
        await daemon.listening()

    async def test_a_hotkey_without_a_permit(self, daemon: Single) -> None:
        write_electorate(daemon.directory / "electorate.toml", "//validator1", registered=("//validator0",))
        line = await daemon.refused()
        assert f"the hotkey {hotkey('//validator0').address} holds no validator permit on netuid 64" in line
        assert "it is registered there" in line
        assert 'role = "observer"' in line

    async def test_a_hotkey_of_another_chain(self, daemon: Single) -> None:
        write_electorate(daemon.directory / "electorate.toml", "//validator1")
        assert "it is not registered there either" in await daemon.refused()


class TestNetwork:
    """A daemon does not carry one network's data into another."""

    async def test_a_database_of_another_network(self, daemon: Single) -> None:
        await daemon.listening()
        await daemon.stop()
        daemon.settings["network"]["netuid"] = 65
        assert "belongs to network" in await daemon.refused()
        daemon.settings["network"]["netuid"] = 64
        await daemon.listening()  # nothing of it is changed


async def test_a_clock_that_is_far_behind_the_electorate_is_told_and_nothing_is_written(daemon: Single) -> None:
    electorate = daemon.directory / "electorate.toml"
    held = tomllib.loads(electorate.read_text())
    electorate.write_text(tomli_w.dumps({**held, "time": held["time"] + 3600}))
    await daemon.start()
    assert "set it right (NTP)" in (await daemon.until("writes_refused"))["reason"]
    assert await daemon.stop() == 0


class TestChain:
    """The same with a chain: what is wrong with the endpoint, the network, the key or the clock is one line."""

    @pytest.fixture
    async def daemon(self, tmp_path: Path) -> AsyncIterator[Single]:
        """A daemon of the made-up subnet's first validator; a test says at which endpoint."""
        settings = settings_of(tmp_path)
        self.write_key(tmp_path, made_up_hotkey(0))
        settings["electorate"] = {"urls": []}
        daemon = Single(tmp_path, settings)
        yield daemon
        await daemon.stop()

    def write_key(self, directory: Path, key: Hotkey) -> None:
        (directory / "hotkey").unlink()
        write_hotkey_file(directory / "hotkey", key)

    def chain(self, *, off_s: int = 0, genesis_hash: str = "0" * 64) -> Chain:
        """A chain whose clock is off ours."""
        return Chain(made_up(), genesis_hash=genesis_hash, clock=lambda: wall_clock() + off_s * 1000)

    async def test_a_chain_that_answers_starts_a_daemon(self, daemon: Single) -> None:
        async with ReplayServer(self.chain()) as server:
            daemon.settings["electorate"]["urls"] = [server.url]
            await daemon.listening()
            status = await daemon.ask("/status")
            assert (status["electorate"]["validators"], status["hotkey"]) == (64, made_up_hotkey(0).address)
            assert await daemon.stop() == 0

    async def test_an_endpoint_that_nobody_serves(self, daemon: Single) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        daemon.settings["electorate"]["urls"] = [f"ws://127.0.0.1:{port}"]
        assert f"ws://127.0.0.1:{port}" in await daemon.refused()

    async def test_while_an_endpoint_is_silent_the_log_says_what_is_waited_for(self, daemon: Single) -> None:
        async with ReplayServer(self.chain()) as server:
            server.faults.add("timeout", "connect")
            daemon.settings["electorate"]["urls"] = [server.url]
            await daemon.start()

            async def reading() -> bool:
                return '"step": "reading the electorate"' in daemon.log

            await eventually(reading)
            assert await daemon.stop() == 0

    async def test_an_endpoint_whose_name_does_not_exist(self, daemon: Single) -> None:
        daemon.settings["electorate"]["urls"] = ["wss://chain.invalid:443"]
        assert "wss://chain.invalid" in await daemon.refused()

    async def test_an_endpoint_that_is_no_chain(self, daemon: Single) -> None:
        other = Single(daemon.directory / "other", {})
        other.directory.mkdir()
        other.settings = settings_of(other.directory)
        try:
            url = (await other.listening()).replace("http://", "ws://")
            daemon.settings["electorate"]["urls"] = [f"{url}/nodes/"]
            assert url in await daemon.refused()
        finally:
            await other.stop()

    async def test_a_url_that_is_none_of_a_chain(self, daemon: Single) -> None:
        daemon.settings["electorate"]["urls"] = ["https://chain.example"]
        line = await daemon.refused()
        assert "electorate.urls" in line
        assert "ws://" in line

    async def test_a_chain_of_another_network(self, daemon: Single) -> None:
        async with ReplayServer(self.chain(genesis_hash="ab" * 32)) as server:
            daemon.settings["electorate"]["urls"] = [server.url]
            line = await daemon.refused()
        assert "ab" * 32 in line
        assert "0" * 64 in line

    async def test_a_subnet_that_does_not_exist_there(self, daemon: Single) -> None:
        daemon.settings["network"]["netuid"] = 77
        async with ReplayServer(self.chain()) as server:
            daemon.settings["electorate"]["urls"] = [server.url]
            assert "77" in await daemon.refused()

    @pytest.mark.parametrize("off_s", [600, -600], ids=["behind", "ahead"])
    async def test_a_clock_that_is_minutes_off_the_chain(self, daemon: Single, off_s: int) -> None:
        async with ReplayServer(self.chain(off_s=off_s)) as server:
            daemon.settings["electorate"]["urls"] = [server.url]
            line = await daemon.refused()
        assert "the system clock is " in line
        assert "set it right (NTP)" in line

    async def test_a_hotkey_that_is_registered_without_a_permit(self, daemon: Single) -> None:
        subnet = made_up()
        uid = next(uid for uid, neuron in enumerate(subnet.state.neurons) if not neuron.permit)
        self.write_key(daemon.directory, made_up_hotkey(uid))
        async with ReplayServer(self.chain()) as server:
            daemon.settings["electorate"]["urls"] = [server.url]
            line = await daemon.refused()
        assert f"the hotkey {made_up_hotkey(uid).address} holds no validator permit on netuid 64" in line
        assert "it is registered there" in line

    async def test_a_hotkey_that_the_chain_does_not_know(self, daemon: Single) -> None:
        self.write_key(daemon.directory, hotkey("//Eve"))
        async with ReplayServer(self.chain()) as server:
            daemon.settings["electorate"]["urls"] = [server.url]
            assert "it is not registered there either" in await daemon.refused()

    async def test_a_chain_that_is_gone_is_no_reason_not_to_start_again(self, daemon: Single) -> None:
        async with ReplayServer(self.chain()) as server:
            daemon.settings["electorate"]["urls"] = [server.url]
            await daemon.listening()
            assert await daemon.stop() == 0
        await daemon.listening()
        status = await daemon.ask("/status")
        assert status["electorate"]["validators"] == 64
        assert server.url in status["electorate"]["error"]
