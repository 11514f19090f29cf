"""The page of all commands, from the commands themselves."""

from typing import Final

from p2pnodes.cli import manual
from p2pnodes.cli.output import ERROR_CODES, EXIT_STATUS

_HEAD: Final = """# Commands

Written by `python -m tests.pages` from the commands themselves; `p2pnodes COMMAND --help` says the same, and
`p2pnodes docs --man` prints it as a manual page.

"""

_COMPLETION: Final = """
## Shell completion

bash, zsh and fish complete commands, options and their values with the Tab key. The Debian package brings that along;
otherwise this adds a few lines to the start-up file of the shell that you use, for the next ones that you open:

```sh needs=values
p2pnodes --install-completion
```

`p2pnodes --show-completion` prints these lines. A package writes them to files instead:

```sh
_P2PNODES_COMPLETE=source_bash p2pnodes > p2pnodes.bash    # /usr/share/bash-completion/completions/p2pnodes
_P2PNODES_COMPLETE=source_zsh p2pnodes > _p2pnodes         # /usr/share/zsh/vendor-completions/_p2pnodes
_P2PNODES_COMPLETE=source_fish p2pnodes > p2pnodes.fish    # /usr/share/fish/vendor_completions.d/p2pnodes.fish
```

## Manual page

```sh
p2pnodes docs --man > p2pnodes.1                           # /usr/share/man/man1/p2pnodes.1
```

It bears today's date, or that of `SOURCE_DATE_EPOCH` (Unix seconds), so that a package can be built twice alike.
"""


def page() -> str:
    """The page as it should be."""
    program, *others = manual.commands()
    parts = [_HEAD, manual.markdown([program]), "\n", manual.markdown(others), _COMPLETION]
    for heading, entries in (
        ("Exit codes", EXIT_STATUS),
        ("Environment", manual.ENVIRONMENT),
        ("Files", manual.FILES),
    ):
        rows = "".join(f"| `{name}` | {text} |\n" for name, text in entries.items())
        parts.append(f"\n## {heading}\n\n| | |\n| --- | --- |\n{rows}")
        if entries is EXIT_STATUS:
            parts.append(f"\n{ERROR_CODES}\n")
    return "".join(parts)
