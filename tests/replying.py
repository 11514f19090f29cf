"""A process in place of one that the daemon starts and talks to over two pipes (``p2pnodes.children``)."""

import sys


def replying(answer: str, then: str = "") -> list[str]:
    """The command of one that writes the value of an expression to each request, and then does something else."""
    return [
        sys.executable,
        "-c",
        f"""
import sys, time
while length := sys.stdin.buffer.read(4):
    sys.stdin.buffer.read(int.from_bytes(length, "big"))
    sys.stdout.buffer.write({answer})
    sys.stdout.buffer.flush()
    {then}
""",
    ]
