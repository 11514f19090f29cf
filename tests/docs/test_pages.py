"""The pages are whole: listed, titled, current where they are made from the code, and every link leads somewhere."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import p2pnodes
from p2pnodes.api.admin import _LISTS
from p2pnodes.api.admin_schemas import BanBody, LiftBody, LogBody, PlaceBody, ReleaseBody, RevokeBody, VerifyBody
from p2pnodes.api.browser import PARAMETERS
from p2pnodes.config import RELOADABLE, setting_keys
from p2pnodes.documentation import PAGES, UnknownNameError, example, examples, text, topic, topics
from p2pnodes.metrics import TABLE
from tests.docs import configuration, interface
from tests.docs.markdown import README, ROOT, anchors, blocks, code_spans, links, pages, title
from tests.metrics_page import rules
from tests.pages import GENERATED

PACKAGE = Path(p2pnodes.__file__).parent


class TestTopics:
    """The table of topics and the files are the same pages."""

    def test_every_page_is_listed_once(self) -> None:
        names = [found.name for found in topics()]
        assert sorted(names) == sorted(path.stem for path in PAGES.glob("*.md"))

    @pytest.mark.parametrize("name", [found.name for found in topics()])
    def test_a_page_begins_with_its_title(self, name: str) -> None:
        found = topic(name)
        assert title(found.file) == found.title
        assert not found.sentence.endswith(".")
        assert text(found).startswith(f"# {found.title}\n\n")

    def test_the_readme_lists_them_in_order(self) -> None:
        rows = re.findall(r"^\| \[(.*)\]\(p2pnodes/docs/(\w+)\.md\) \| (.*) \|$", README.read_text(), re.MULTILINE)
        assert rows == [(found.title, found.name, found.sentence) for found in topics()]

    @pytest.mark.parametrize(
        ("name", "hint"), [("recov", "did you mean recover?"), ("xyz", "expected one of validators, miners, ")]
    )
    def test_a_name_that_there_is_not_is_told_with_one_that_there_is(self, name: str, hint: str) -> None:
        with pytest.raises(UnknownNameError, match=re.escape(hint)):
            topic(name)


class TestText:
    """What a reader has to know of a block is in the block, and nothing of it behind its fence."""

    @pytest.mark.parametrize(
        ("fence", "shown"),
        [
            ("sh", ["```sh"]),
            ("sh needs=root", ["```sh", "# needs root"]),
            ("sh needs=example", ["```sh"]),
            ("sh stopped", ["```sh", "# with the daemon stopped"]),
            ("sh exit=1", ["```sh", "# ends with exit code 1"]),
            (
                'sh until="devnet ready"',
                ["```sh", '# in a terminal of its own; go on in another one once it says "devnet ready"'],
            ),
            ("text output", ["```text"]),
        ],
    )
    def test_conditions_are_comments(self, fence: str, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"# Title\n\n```{fence}\na `b c`\n```\n")
        assert text(topic("recover")).splitlines() == ["# Title", "", *shown, "a `b c`", "```"]

    @pytest.mark.parametrize("name", [found.name for found in topics()])
    def test_no_page_shows_any(self, name: str) -> None:
        assert re.findall(r"^```\w+ .*$", text(topic(name)), re.MULTILINE) == []


class TestExamples:
    """Files to copy are found in a checkout and in an installed package."""

    @pytest.mark.parametrize("name", [each.name for each in examples()])
    def test_a_checkout_has_it_among_its_configs(self, name: str) -> None:
        folder = PACKAGE / "store" if name == "views.sql" else ROOT / "configs"
        assert example(name) == folder / name

    def test_the_wheel_has_a_copy_of_each(self) -> None:
        wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
        copies = {target: source for source, target in wheel["force-include"].items()}
        for each in examples():
            if each.name == "views.sql":  # which the package has in a place of its own
                continue
            places = [f"p2pnodes/{folder}/{each.name}" for folder in ("examples", "networks")]
            assert [copies[place] for place in places if place in copies] == [f"configs/{each.name}"]

    def test_one_that_there_is_not_is_told_with_one_that_there_is(self) -> None:
        with pytest.raises(UnknownNameError, match=r"did you mean nginx\.conf\?"):
            example("nginx.cnf")

    def test_pages_name_no_other(self) -> None:
        known = {each.name for each in examples()}
        for page in pages():
            for name in re.findall(r"p2pnodes docs --file (\S+?)[`\s,]", page.read_text()):
                assert name in known, page.name


class TestGenerated:
    """A page that is made from the code says what the code says."""

    @pytest.mark.parametrize("name", sorted(GENERATED))
    def test_it_is_current(self, name: str) -> None:
        assert topic(name).file.read_text(encoding="utf-8") == GENERATED[name](), "run: python -m tests.pages"

    def test_every_setting_has_a_sentence_a_kind_and_a_variable(self) -> None:
        settings = configuration.settings()
        assert [setting.key for setting in settings] == setting_keys()
        for setting in settings:
            assert re.search(r"[\w)]\.$", setting.text), setting.key
            assert setting.kind, setting.key
            assert setting.variable == "P2PNODES_" + setting.key.upper().replace(".", "__")
        assert {setting.key for setting in settings if setting.reload} == RELOADABLE

    def test_ranges_and_defaults_are_those_that_are_enforced(self) -> None:
        shown = {setting.key: setting for setting in configuration.settings()}
        assert (shown["gossip.view_size"].kind, shown["gossip.view_size"].range) == ("integer", "3 to 64")
        assert shown["network.quorum"].range == "0.000001 to 0.999999"
        assert shown["api.dns_timeout_s"].range == "above 0, to 10"
        assert (shown["gossip.bootstrap"].kind, shown["gossip.bootstrap"].range) == (
            "list of URLs",
            "at most 64 entries",
        )
        assert shown["log.level"].kind == "one of `debug`, `info`, `warning`, `error`"
        assert shown["wallet_path"].default == 'default `"~/.bittensor/wallets"`'
        assert shown["data_dir"].default == "required"

    def test_every_route_of_the_operators_interface_has_a_sentence_and_no_other(self) -> None:
        """Those of the public one are held to its document by tests/api/test_openapi.py."""
        served = interface.admin_routes()
        assert {route for route in served if not interface.is_console(route)} == set(interface.ADMIN)

    def test_its_sentence_names_every_filter_and_every_member_of_its_body(self) -> None:
        bodies: dict[str, type[BaseModel]] = {
            "/place": PlaceBody, "/release": ReleaseBody, "/verify": VerifyBody, "/log": LogBody, "/bans": BanBody,
            "/bans/lift": LiftBody, "/keys/revoke": RevokeBody,
        }  # fmt: skip
        posts = {path for method, path in interface.ADMIN if method == "POST"}
        assert posts - bodies.keys() == {"/keys/rotate", "/keys/close"}  # none, and a file's content
        for path, model in bodies.items():
            assert set(model.model_fields) <= named(interface.ADMIN["POST", path]), path
        for path, served in _LISTS.items():
            assert served.filters <= named(interface.ADMIN["GET", path]), path
        assert set(PARAMETERS) <= named(interface.ADMIN["GET", "/inventory"])


def named(sentence: str) -> set[str]:
    """What a sentence has between backticks."""
    return set(re.findall(r"`([^`]+)`", sentence))


class TestLinks:
    """Relative links lead somewhere, those of a page that ships to something that ships."""

    @pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
    def test_each_leads_to_a_file_and_to_a_heading_in_it(self, page: Path) -> None:
        for link in links(page):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, fragment = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name}: {link}"
            if page != README:
                assert target.is_relative_to(PACKAGE), f"{page.name}: {link} is in no installed package"
            if fragment:
                assert fragment in anchors(target), f"{page.name}: {link}"

    def test_headings_of_a_page_can_be_told_apart(self) -> None:
        for page in pages():
            headings = re.findall(
                r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE
            )
            assert len({heading.lower() for heading in headings}) == len(headings), page.name


class TestNames:
    """What the pages name by hand exists."""

    def test_settings(self) -> None:
        """Of every block in TOML that is no other program's: the tables and settings in it are a daemon's."""
        known = set(setting_keys())
        tables = {key.rpartition(".")[0] for key in known} - {""}

        def unknown(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
            for name, value in values.items():
                key = f"{prefix}{name}"
                if key in tables:
                    yield from unknown(value, f"{key}.")
                elif key not in known:
                    yield key

        found = [block for page in pages() for block in blocks(page) if block.language == "toml"]
        daemons = [block for block in found if "[project]" not in block.code]
        assert len(daemons) > 5
        for block in daemons:
            assert list(unknown(tomllib.loads(block.code))) == [], block.where

    def test_json(self) -> None:
        for page in pages():
            for block in blocks(page):
                if block.language == "json":
                    assert isinstance(json.loads(block.code), dict), block.where

    def test_alerts(self) -> None:
        known = {rule["alert"] for group in rules() for rule in group["rules"]}
        for page in pages():
            assert set(re.findall(r"\bP2pnodes[A-Z]\w+", page.read_text())) <= known, page.name

    def test_metrics(self) -> None:
        known = {metric.name for metrics in TABLE.values() for metric in metrics}
        for page in pages():
            for span in code_spans(page):
                if re.fullmatch(r"p2pnodes_[a-z_]+(_total|_seconds|_bytes)", span):
                    assert span in known, f"{page.name}: {span}"

    def test_records_of_the_log(self) -> None:
        sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
        table = topic("monitor").file.read_text().partition("| worth a look |")[2]
        named = [
            name for row in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", table, re.MULTILINE) for name in row.split(", ")
        ]
        assert len(named) > 4
        for name in named:
            assert f'"{name.strip("`")}"' in sources, name
