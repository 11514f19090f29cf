"""Scripts, styles and pictures of the console: read once, served under a name that holds the hash of their content.

So a browser may keep them for ever, and a new release is fetched at once.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from p2pnodes.model.codec import digest

STATIC: Final = Path(__file__).with_name("static")
HASH_BYTES: Final = 8
"""Of a file's hash in its URL."""

_SUFFIXES: Final = frozenset({".css", ".js", ".svg"})
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Asset(NamedTuple):
    """A file that pages load.

    Attributes:
        name: Its path under ``static/``.
        content: Its bytes.
        content_type: MIME type.
        mark: Hash of the content, hex.
    """

    name: str
    content: bytes
    content_type: str
    mark: str


@cache
def assets() -> Mapping[str, Asset]:
    """All files that pages load, by name."""
    found = {}
    for path in sorted(STATIC.rglob("*")):
        if path.suffix in _SUFFIXES:
            name, content = path.relative_to(STATIC).as_posix(), path.read_bytes()
            found[name] = Asset(name, content, _TYPES[path.suffix], digest(content)[:HASH_BYTES].hex())
    return found


@cache
def release() -> str:
    """Changes with any of the files: a page that was loaded with others must be loaded anew."""
    return digest("".join(asset.mark for asset in assets().values()).encode())[:HASH_BYTES].hex()
