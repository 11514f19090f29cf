"""The pages and example files that ship with the package: which there are, in the order in which one reads them.

A page is Markdown with tables, ``docs/NAME.md``, and begins with its title as a heading. A link to another page names
its file (``recover.md#a-full-disk``); the other relative links lead to files of this package (``../store/views.sql``).
The command ``p2pnodes docs`` and the console show the pages; neither knows one by name.
"""

import difflib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from p2pnodes.model.codes import Code
from p2pnodes.model.errors import P2PNodesError

_PACKAGE: Final = Path(__file__).parent

PAGES: Final = _PACKAGE / "docs"
"""Directory of the pages."""

_EXAMPLE_PLACES: Final = (
    _PACKAGE / "examples",
    _PACKAGE / "networks",
    _PACKAGE.parent / "configs",
    _PACKAGE / "store",
)
"""Where an installed package has copies of the example files, where a checkout has them, and where both have views."""

NEEDS: Final[Mapping[str, str]] = {
    "chain": "needs a chain on the Internet",
    "example": "",
    "gpu": "needs an NVIDIA GPU",
    "index": "needs a package index",
    "minutes": "takes minutes",
    "network": "needs hosts of a real network",
    "root": "needs root",
    "values": "needs names and values of your own",
    "wallet": "needs a wallet with a real hotkey",
}
"""What a block of commands may need, ``needs=REASON`` in its info string -> what its reader is told."""

_FENCE: Final = re.compile(r"^```(?P<language>\w+) (?P<conditions>[^`\n]+)$", re.MULTILINE)

_NAMES_LIKE_MIN: Final = 0.5
"""How alike a name must be to be suggested, 0 to 1: short names differ soon."""


class UnknownNameError(P2PNodesError):
    """There is no page, or no example file, of this name; the message suggests one."""

    code = Code.SYSTEM_UNKNOWN_NAME


class Topic(NamedTuple):
    """One page.

    Attributes:
        name: What ``p2pnodes docs NAME`` takes, and the stem of the file.
        title: The page's heading.
        sentence: What it is about, without a full stop.
    """

    name: str
    title: str
    sentence: str

    @property
    def file(self) -> Path:
        """The page, Markdown in UTF-8."""
        return PAGES / f"{self.name}.md"


class Example(NamedTuple):
    """A file to copy and to change.

    Attributes:
        name: What ``p2pnodes docs --file NAME`` takes.
        sentence: What it is, without a full stop.
    """

    name: str
    sentence: str


Kind = TypeVar("Kind", Topic, Example)

_TOPICS: Final = (
    Topic("validators", "Run a validator", "From nothing to a daemon that votes, and what it needs for years"),
    Topic("miners", "Be a miner", "Register GPUs, answer challenges, follow them, move over from the central API"),
    Topic("inspect", "Look inside", "Status, peers, claims, GPUs, events, the database; what a state root is"),
    Topic("monitor", "Monitor", "Health, readiness, logs, alerts, a dashboard"),
    Topic("recover", "Recover", "What not to do first; then a lost disk, a stolen key, a fork, and what else happens"),
    Topic("security", "Security model", "What is signed by whom, what each file is worth, what is locked in"),
    Topic("privacy", "Privacy", "What reaches all peers, what stays with the operator"),
    Topic("threats", "Threats", "Who may attack, with what, what stops it, and the test that shows it"),
    Topic("verifiers", "Verifiers", "How a validator checks GPUs, when, and what each way proves"),
    Topic("plugins", "A verifier of your own", "The interface of verifiers, with a worked example"),
    Topic("configuration", "Configuration", "Every setting with type, range, default and variable"),
    Topic("commands", "Commands", "Every command with its options and examples; shell completion"),
    Topic("metrics", "Metrics and alerts", "Each metric, and each alert with what to do"),
    Topic("codes", "Codes of errors and refusals", "Each code of an error or refusal, its meaning, and what to do"),
    Topic("http", "The HTTP interfaces", "The public routes for miners, and the operator's own"),
    Topic("proof", "Proofs", "The file that shows offline that a GPU was verified, and how to check it"),
    Topic("protocol", "The gossip protocol", "The wire format and the rules, enough for another implementation"),
)

_EXAMPLES: Final = (
    Example("p2pnodes.toml", "A daemon's configuration with every setting, its default and what it does"),
    Example("nginx.conf", "A site for nginx before a daemon: HTTPS, wss, streams"),
    Example("prometheus-rules.yml", "Alert rules for Prometheus, with runbooks"),
    Example("grafana-dashboard.json", "A dashboard for Grafana"),
    Example("finney.toml", "The network file of subnet 64 on finney"),
    Example("testnet.toml", "A network file for tries on Bittensor's testnet"),
    Example("devnet.toml", "A network file without a chain"),
    Example("electorate.example.toml", "An electorate file, which stands in for the chain"),
    Example("views.sql", "The database's views, made for reading, each column with its meaning"),
)


def topics() -> tuple[Topic, ...]:
    """All pages, in the order in which one reads them."""
    return _TOPICS


def topic(name: str) -> Topic:
    """The page of this name.

    Raises:
        UnknownNameError: There is none.
    """
    return _named("page", name, _TOPICS)


def text(found: Topic) -> str:
    """Markdown of a page; what is to be known of a block of commands stands in it as a comment.

    In the file it stands in the block's info string, which no reader shows; the tests that run the pages go by it.
    """
    return _FENCE.sub(_commented, found.file.read_text(encoding="utf-8"))


def _commented(fence: re.Match[str]) -> str:
    comments = "".join(f"\n# {comment}" for comment in _comments(fence["conditions"]) if comment)
    return f"```{fence['language']}{comments}"


def _comments(conditions: str) -> Iterator[str]:
    for condition in shlex.split(conditions):
        name, _, value = condition.partition("=")
        match name:
            case "needs":
                yield NEEDS.get(value, f"needs {value}")
            case "until":
                yield f'in a terminal of its own; go on in another one once it says "{value}"'
            case "stopped":
                yield "with the daemon stopped"
            case "exit":
                yield f"ends with exit code {value}"


def examples() -> tuple[Example, ...]:
    """All example files."""
    return _EXAMPLES


def example(name: str) -> Path:
    """The example file of this name.

    Raises:
        UnknownNameError: There is none.
        P2PNodesError: The installation lacks it.
    """
    known = _named("example file", name, _EXAMPLES).name
    for place in _EXAMPLE_PLACES:
        if (file := place / known).is_file():
            return file
    raise P2PNodesError(
        f"{known} is not beside the package in {_PACKAGE}; expected one: install p2pnodes again",
        code=Code.SYSTEM_INSTALLATION,
    )


def _named(what: str, name: str, known: Iterable[Kind]) -> Kind:
    """The one of this name."""
    by_name = {each.name: each for each in known}
    if name in by_name:
        return by_name[name]
    near = difflib.get_close_matches(name, by_name, n=1, cutoff=_NAMES_LIKE_MIN)
    hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(by_name)}"
    raise UnknownNameError(f"there is no {what} {name!r:.80}; {hint}", code=Code.SYSTEM_UNKNOWN_NAME)
