"""The page of the codes of errors and refusals: ``python -m tests.pages`` writes it from their table."""

from itertools import groupby
from typing import Final

from p2pnodes.model.codes import AREAS, Code

_HEAD: Final = """# Codes of errors and refusals

Written by `python -m tests.pages` from the table in `p2pnodes/model/codes.py`.

A message says what was found this once, in words that may change. Its code says which kind of thing that is, and stays
the same: no code is renamed, removed or given another meaning. Programs compare codes; people look them up here, or
without the page:

```sh
p2pnodes logs explain writes-unheard
```

Of a whole log it explains each code, the most frequent one first:

```sh needs=root
journalctl -u p2pnodes -p warning --since today | p2pnodes logs explain
```

Where codes are found:

- in the log, each line of a refusal, warning or error has the field `code`;
- commands end an error's or warning's line with it, in brackets: `p2pnodes: error: ... [key-exposed]`. What is wrong
  with the command line itself (exit code 2) has none;
- answers of the public HTTP interface, and of a miner's agent, to what is refused or fails have the header
  `P2PNodes-Code`; the bodies of the first are the central API's to the letter;
- such answers of the operator's interface have it in the header and as `code` in the body;
- `p2pnodes doctor`, `p2pnodes bans` and the peers of `p2pnodes peers --json` name it beside each reason.
"""


def page() -> str:
    """The page as it should be."""
    parts = [_HEAD]
    for area, codes in groupby(Code, key=lambda code: code.area):
        parts.append(f"\n## {AREAS[area]}\n\n| code | what it means | what to do |\n| --- | --- | --- |\n")
        parts += [f"| `{code}` | {code.meaning} | {code.advice} |\n" for code in codes]
    return "".join(parts)
