"""Key files: every form that Bittensor writes is read, and no secret is shown, shared or overwritten."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pnodes.chain.wallet import (
    KEY_FILE_BYTES_MAX,
    NAMES_SHOWN_MAX,
    HotkeyFile,
    create_node_key,
    load_hotkey,
    load_node_key,
    read_hotkey_file,
    read_key,
    wallet_hotkey_path,
    write_hotkey_file,
)
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.keys import DEV_PHRASE, Hotkey
from tests.support import hotkey

# Substrate's development phrase: its mini secret and public key, as `subkey inspect` prints them.
SEED_HEX = "fac7959dbfe72f052e5a0c3c8d6530f202b02fd8f9f5ca3580ec8deb7797479e"
PUBLIC_HEX = "46ebddef8cd9bb167dc30878d7113b7e168e6f0646beffd77d69d39bad76b47a"
ROOT = Hotkey.from_seed(bytes.fromhex(SEED_HEX))
ALICE = hotkey("//Alice")


def write(path: Path, content: bytes | dict[str, Any], mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    path.chmod(mode)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "key"


class TestHotkeyFiles:
    """A hotkey is read from the first secret that the file holds, and must fit what else it says."""

    @pytest.mark.parametrize(
        "secret",
        [
            {"secretPhrase": DEV_PHRASE},
            {"secretSeed": f"0x{SEED_HEX}"},
            {"secretSeed": SEED_HEX.upper()},
            {"privateKey": f"0x{ROOT.secret_key.hex()}"},
            {"secretPhrase": DEV_PHRASE, "secretSeed": "0x00", "privateKey": "0x00"},
            {"secretPhrase": None, "secretSeed": f"0x{SEED_HEX}", "privateKey": None},
        ],
    )
    @pytest.mark.parametrize(
        "public",
        [
            {},
            {"ss58Address": ROOT.address, "publicKey": f"0x{PUBLIC_HEX}", "accountId": PUBLIC_HEX, "cryptoType": 1},
            {"unknown": [1]},
        ],
    )
    def test_every_form_is_the_same_key(self, file: Path, secret: dict[str, Any], public: dict[str, Any]) -> None:
        assert load_hotkey(write(file, secret | public)).public_key.hex() == PUBLIC_HEX

    def test_what_is_written_is_read_and_signs(self, file: Path) -> None:
        write_hotkey_file(file, ALICE)
        assert load_hotkey(file) == ALICE
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert list(file.parent.iterdir()) == [file]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"$NACL\x00\x01", "encrypted with a password"),
            (b"$ANSIBLE_VAULT;1.1", "encrypted with a password"),
            (b"gAAAAABk", "encrypted with a password"),
            (b"{", "not JSON"),
            (b"[" * 60_000, "not JSON"),
            (b"\xff", "not JSON"),
            (b"[]", "no JSON object"),
            ({"ss58Address": ROOT.address}, f"public only, no secret of {ROOT.address} here"),
            ({"address": ROOT.address, "encoded": "AA", "encoding": {}}, "an export of polkadot.js"),
            ({}, "names no key"),
            ({"unknown": 1, "secretSeed": None}, "names no key"),
            ({"ss58Address": 7}, "names no key"),
            ({"ss58Address": "5abc"}, "ss58Address: "),
            ({"publicKey": "0x12"}, "publicKey is malformed"),
            ({"accountId": 12}, "accountId is malformed"),
            ({"publicKey": PUBLIC_HEX, "ss58Address": ALICE.address}, f"the public key belongs to {ROOT.address}"),
            ({"publicKey": PUBLIC_HEX, "accountId": "00" * 32}, "accountId does not belong to the public key"),
            (
                {"secretSeed": SEED_HEX, "ss58Address": SEED_HEX},
                "ss58Address is no SS58 address; the secret belongs to",
            ),
            ({"secretSeed": SEED_HEX, "ss58Address": [SEED_HEX]}, "ss58Address is no SS58 address"),
            ({"secretPhrase": "bottom drive obey"}, "not a BIP-39 phrase"),
            ({"secretPhrase": 7}, "secretPhrase is no text"),
            ({"secretSeed": "0x" + "00" * 31}, "secretSeed is malformed"),
            ({"secretSeed": "zz" * 32}, "secretSeed is malformed"),
            ({"privateKey": "0x" + "ff" * 64}, "privateKey is malformed"),
            ({"privateKey": 1}, "privateKey is malformed"),
            ({"secretSeed": SEED_HEX, "cryptoType": 0}, "cryptoType is 0; expected 1"),
            ({"secretSeed": SEED_HEX, "cryptoType": True}, "cryptoType is True"),
            ({"secretSeed": SEED_HEX, "ss58Address": ALICE.address}, f"the secret belongs to {ROOT.address}"),
            ({"secretSeed": SEED_HEX, "publicKey": "0x" + "00" * 32}, "publicKey does not belong to the secret"),
            ({"secretSeed": SEED_HEX, "accountId": "0x12"}, "accountId does not belong to the secret"),
            (b" " * (KEY_FILE_BYTES_MAX + 1), "over 65536 bytes"),
        ],
    )
    def test_a_bad_file_is_one_line_that_names_it_and_shows_no_secret(
        self, file: Path, content: bytes | dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            load_hotkey(write(file, content))
        message = str(caught.value)
        assert reason in message
        assert message.startswith(f"{file}: ")
        assert "\n" not in message
        assert SEED_HEX not in message
        assert "bottom drive" not in message

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o777])
    def test_a_file_that_others_can_open_is_refused(self, file: Path, mode: int) -> None:
        with pytest.raises(ConfigError, match=f"mode {mode:04o}.*run `chmod 600"):
            load_hotkey(write(file, {"secretSeed": SEED_HEX}, mode))

    def test_a_file_that_only_its_owner_may_read_is_good(self, file: Path) -> None:
        assert load_hotkey(write(file, {"secretSeed": SEED_HEX}, 0o400)) == ROOT

    @pytest.mark.parametrize("start", [b"$NACL", b"$ANSIBLE_VAULT;1.1", b"gAAAAABk"])
    def test_an_encrypted_file_is_refused_with_the_ways_out(self, file: Path, start: bytes) -> None:
        with pytest.raises(ConfigError) as caught:
            load_hotkey(write(file, start + b"\x00"))
        assert "btcli wallet regen-hotkey --no-use-password" in str(caught.value)
        assert "p2pnodes keys request" in str(caught.value)

    def test_a_pipe_is_refused_and_not_waited_for(self, file: Path) -> None:
        os.mkfifo(file)
        with pytest.raises(ConfigError, match="not a regular file"):
            load_hotkey(file)

    def test_an_absent_file_and_a_directory_are_refused(self, file: Path) -> None:
        with pytest.raises(ConfigError, match="no such file"):
            load_hotkey(file)
        with pytest.raises(ConfigError, match="cannot be read"):
            load_hotkey(file.parent)

    def test_no_key_file_is_ever_overwritten(self, file: Path) -> None:
        write_hotkey_file(file, ALICE)
        before = file.read_bytes()
        with pytest.raises(ConfigError, match="exists already"):
            write_hotkey_file(file, ROOT)
        with pytest.raises(ConfigError, match="exists already"):
            create_node_key(file)
        assert file.read_bytes() == before
        assert list(file.parent.iterdir()) == [file]

    def test_a_directory_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be written here"):
            write_hotkey_file(tmp_path / "absent" / "key", ALICE)


class TestPublicFiles:
    """A file without a secret says whose hotkey it is; whoever may read it."""

    @pytest.mark.parametrize(
        "fields",
        [
            {"accountId": f"0x{PUBLIC_HEX}"},
            {"publicKey": PUBLIC_HEX},
            {"ss58Address": ROOT.address},
            {"accountId": PUBLIC_HEX, "publicKey": f"0x{PUBLIC_HEX}", "ss58Address": ROOT.address, "cryptoType": 1},
            {"publicKey": PUBLIC_HEX, "secretPhrase": None, "secretSeed": None, "privateKey": ""},
        ],
    )
    def test_any_public_field_is_enough(self, file: Path, fields: dict[str, Any]) -> None:
        found = read_hotkey_file(write(file, fields, mode=0o644))
        assert found == HotkeyFile(ROOT.public_key, None)
        assert found.address == ROOT.address

    def test_it_signs_nothing(self, file: Path) -> None:
        with pytest.raises(ConfigError, match=r"public only.*set delegation_file"):
            load_hotkey(write(file, {"publicKey": PUBLIC_HEX}))


class TestWallets:
    """A wrong name is one line with the names that are there."""

    @pytest.fixture
    def wallets(self, tmp_path: Path) -> Path:
        for wallet, hotkeys in {"validator": ["default", "second"], "empty": []}.items():
            (tmp_path / wallet / "hotkeys").mkdir(parents=True)
            for name in hotkeys:
                write_hotkey_file(wallet_hotkey_path(tmp_path, wallet, name), ALICE)
                (tmp_path / wallet / "hotkeys" / f"{name}pub.txt").write_text("{}")
        (tmp_path / ".hidden").mkdir()
        (tmp_path / "file").touch()
        return tmp_path

    def test_a_hotkey_is_found_by_its_names(self, wallets: Path) -> None:
        assert load_hotkey(wallet_hotkey_path(wallets, "validator", "second")) == ALICE

    @pytest.mark.parametrize(
        ("wallet", "hotkey_name", "hint"),
        [
            ("validator", "defualt", "; the wallet validator holds the hotkeys default, second"),
            ("empty", "default", "; the wallet empty holds no hotkey"),
            ("vaildator", "default", "holds the wallets empty, validator"),
            ("../absent/validator", "default", ", or the file itself (hotkey_file, --hotkey-file)"),
        ],
    )
    def test_the_names_that_are_there_are_told(self, wallets: Path, wallet: str, hotkey_name: str, hint: str) -> None:
        with pytest.raises(ConfigError, match="no such file") as caught:
            load_hotkey(wallet_hotkey_path(wallets, wallet, hotkey_name))
        assert str(caught.value).endswith(hint)

    def test_a_wallet_of_which_only_the_public_part_is_here(self, wallets: Path) -> None:
        path = wallet_hotkey_path(wallets, "validator", "default")
        path.unlink()
        with pytest.raises(ConfigError, match=r"only the public part of default is here: defaultpub\.txt"):
            load_hotkey(path)

    def test_of_many_names_some_are_told(self, wallets: Path) -> None:
        for number in range(NAMES_SHOWN_MAX + 3):
            (wallets / f"w{number:02}").mkdir()
        with pytest.raises(ConfigError, match=r"empty, validator, w00.* and 5 more$"):
            load_hotkey(wallet_hotkey_path(wallets, "nobody", "default"))


class TestCredentials:
    """What systemd puts into the credentials directory is taken as it is there; nothing else may be read by others."""

    @pytest.fixture(autouse=True)
    def owner(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        """Let every opened file be root's, or another user's."""
        fstat = os.fstat

        def owner(uid: int) -> None:
            def of(descriptor: int) -> os.stat_result:
                fields = list(fstat(descriptor))
                fields[stat.ST_UID] = uid
                return os.stat_result(fields)

            monkeypatch.setattr("p2pnodes.chain.wallet.os.fstat", of)

        owner(0)
        return owner

    @pytest.fixture
    def credential(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        return tmp_path / "hotkey"

    @pytest.mark.parametrize("mode", [0o400, 0o440])
    def test_a_credential_is_read(self, credential: Path, mode: int) -> None:
        assert load_hotkey(write(credential, {"secretSeed": SEED_HEX}, mode)) == ROOT

    @pytest.mark.parametrize("mode", [0o444, 0o460, 0o640])
    def test_one_that_is_open_wider_is_refused(self, credential: Path, mode: int) -> None:
        with pytest.raises(ConfigError, match="others could read the secret"):
            load_hotkey(write(credential, {"secretSeed": SEED_HEX}, mode))

    def test_one_that_is_not_roots_is_refused(self, credential: Path, owner: Callable[[int], None]) -> None:
        owner(1000)
        with pytest.raises(ConfigError, match="mode 0440"):
            load_hotkey(write(credential, {"secretSeed": SEED_HEX}, 0o440))

    def test_the_same_file_elsewhere_is_refused(self, credential: Path) -> None:
        (credential.parent / "below").mkdir()
        with pytest.raises(ConfigError, match="mode 0440"):
            load_hotkey(write(credential.parent / "below" / "hotkey", {"secretSeed": SEED_HEX}, 0o440))


class TestNodeKeyFiles:
    """The daemon's own key."""

    def test_what_is_created_is_read(self, file: Path) -> None:
        created = create_node_key(file)
        assert load_node_key(file) == created
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_every_key_is_another_one(self, tmp_path: Path) -> None:
        assert create_node_key(tmp_path / "a") != create_node_key(tmp_path / "b")

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"p2pnodes-node-key-1",
            b"p2pnodes-node-key-2 " + b"00" * 32,
            b"p2pnodes-node-key-1 " + b"00" * 31,
            b"p2pnodes-node-key-1 " + b"zz" * 32,
            b"\xff" * 80,
        ],
    )
    def test_another_content_is_refused_without_showing_it(self, file: Path, content: bytes) -> None:
        with pytest.raises(ConfigError, match="not a node key file") as caught:
            load_node_key(write(file, content))
        assert "00" * 31 not in str(caught.value)

    def test_a_file_that_others_can_open_is_refused(self, file: Path) -> None:
        create_node_key(file)
        file.chmod(0o660)
        with pytest.raises(ConfigError, match="others could read the secret"):
            load_node_key(file)

    def test_a_key_file_of_either_kind_is_told_by_its_content(self, tmp_path: Path) -> None:
        node_key = create_node_key(tmp_path / "node")
        write_hotkey_file(tmp_path / "hot", ALICE)
        assert read_key(tmp_path / "node") == node_key
        assert read_key(tmp_path / "hot") == HotkeyFile(ALICE.public_key, ALICE)
