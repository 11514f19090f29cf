"""The pages that are made from the code: ``python -m tests.pages`` writes all of them."""

import sys
from collections.abc import Callable, Mapping
from typing import Final

from p2pnodes.documentation import PAGES
from tests import codes_page, metrics_page
from tests.docs import command_reference, configuration, interface

GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "codes": codes_page.page,
    "commands": command_reference.page,
    "configuration": configuration.page,
    "http": interface.page,
    "metrics": metrics_page.page,
}
"""Name of a page -> the page as it should be."""


def main() -> int:
    """Write the pages."""
    for name, page in GENERATED.items():
        path = PAGES / f"{name}.md"
        path.write_text(page(), encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
