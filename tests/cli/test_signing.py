"""Which hotkey a command works with; no option takes a secret."""

from pathlib import Path

import pytest
import typer

from p2pnodes.chain.wallet import wallet_hotkey_path, write_hotkey_file
from p2pnodes.cli.signing import hotkey_of_uri, hotkey_settings, load_signer, signer_if_any
from p2pnodes.model.errors import ConfigError
from p2pnodes.model.keys import DEV_PHRASE
from tests.support import hotkey

ALICE = hotkey("//Alice")
PHRASE = "caution juice atom organ advance problem want pledge someone senior holiday very"
"""A phrase that is published, but not the one that everybody's development keys come from."""


@pytest.fixture
def wallets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("p2pnodes.chain.wallet.WALLETS", tmp_path)
    for name in ("default", "second"):
        path = wallet_hotkey_path(tmp_path, "w", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_hotkey_file(path, hotkey(f"//{name}"))
    return tmp_path


class TestSigner:
    """Exactly one option names the key."""

    def test_each_option_names_it(self, wallets: Path) -> None:
        assert load_signer(None, "//Alice") == ALICE
        assert load_signer(wallets / "w" / "hotkeys" / "default", None) == hotkey("//default")
        assert load_signer(None, None, "w") == hotkey("//default")
        assert load_signer(None, None, "w", "second") == hotkey("//second")

    @pytest.mark.parametrize(
        "options",
        [
            (None, None, None, None),
            (Path("x"), "//Alice", None, None),
            (Path("x"), None, "w", None),
            (Path("x"), None, None, "h"),
            (None, "//Alice", "w", None),
            (None, "//Alice", None, "h"),
            (None, None, None, "h"),
        ],
    )
    @pytest.mark.usefixtures("wallets")
    def test_any_other_number_is_usage(self, options: tuple[Path | None, str | None, str | None, str | None]) -> None:
        with pytest.raises(typer.BadParameter):
            load_signer(*options)

    def test_none_is_none_where_none_is_needed(self) -> None:
        assert signer_if_any(None, None, None, None) is None
        assert signer_if_any(None, "//Alice", None, None) == ALICE
        with pytest.raises(typer.BadParameter):
            signer_if_any(None, None, None, "h")

    def test_a_wrong_wallet_is_one_line_with_those_that_are_there(self, wallets: Path) -> None:
        with pytest.raises(ConfigError, match=f"{wallets} holds the wallets w$"):
            load_signer(None, None, "v")

    @pytest.mark.parametrize("name", ["a/b", "..", ""])
    def test_a_path_is_no_name(self, name: str) -> None:
        with pytest.raises(typer.BadParameter, match="--wallet: expected a name"):
            load_signer(None, None, name)

    def test_the_options_are_settings_of_a_daemon(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert hotkey_settings(None, None, None) == {}
        assert hotkey_settings(None, "w", "h") == {"wallet": "w", "hotkey": "h"}
        assert hotkey_settings(None, None, "h") == {"hotkey": "h"}
        assert hotkey_settings(Path("key"), None, None) == {"hotkey_file": str(tmp_path / "key")}


class TestSecrets:
    """A secret on a command line is refused without being repeated."""

    @pytest.mark.parametrize("secret", [PHRASE, DEV_PHRASE, "0x" + "ab" * 32, "ab" * 64])
    def test_one_in_the_place_of_a_name_is_refused(self, secret: str) -> None:
        for options in ((Path(secret), None, None), (None, secret, None), (None, "w", secret)):
            with pytest.raises(typer.BadParameter, match="other users may have seen it") as caught:
                hotkey_settings(*options)
            assert secret not in str(caught.value)

    @pytest.mark.parametrize("secret", [PHRASE, f"{PHRASE}//hard", "0x" + "ab" * 32, f"0x{'ab' * 32}//hard", "Alice"])
    def test_an_uri_is_a_development_key(self, secret: str) -> None:
        with pytest.raises(typer.BadParameter, match="expected //Name, a development key") as caught:
            hotkey_of_uri(secret)
        assert secret.partition("/")[0] not in str(caught.value)

    def test_the_phrase_that_everybody_knows_is_none(self) -> None:
        assert hotkey_of_uri(f"{DEV_PHRASE}//Alice") == hotkey_of_uri("//Alice") == ALICE
