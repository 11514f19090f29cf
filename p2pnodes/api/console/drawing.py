"""Geometry of the console's pictures: plain numbers, which the templates write down as SVG.

Nothing is told by colour alone: segments differ by pattern, peers by shape and line, and each picture stands beside a
table that says the same.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

WIDTH: Final = 1000.0
"""Units across a bar."""

VISIBLE: Final = 6.0
"""Least width of a segment that is not empty: a single failed GPU among 100,000 must be seen."""

PEERS_DRAWN_MAX: Final = 48
"""Peers of a mesh that are drawn; the table has all."""

MESH_WIDTH: Final = 720
MESH_HEIGHTS: Final = ((2, 150), (6, 290), (PEERS_DRAWN_MAX, 400))
"""Most peers -> height of the picture that they are drawn in."""


class Segment(NamedTuple):
    """A part of a bar: what it stands for, its count, where it begins and how wide it is."""

    kind: str
    value: float
    x: float
    width: float


class Spot(NamedTuple):
    """A peer in the mesh.

    Attributes:
        peer: The row that it stands for.
        x: Place across.
        y: Place down.
        label_y: Where its name stands.
        anchor: Where its name begins: ``start``, ``middle`` or ``end``.
        link: ``eager``, ``lazy``, ``visit``, or ``none`` without a session.
        state: Of its agreement with this daemon, see ``overview.agreement``.
    """

    peer: Mapping[str, Any]
    x: float
    y: float
    label_y: float
    anchor: str
    link: str
    state: str


class Mesh(NamedTuple):
    """A picture of the peers around this daemon, which is in its middle."""

    height: int
    spots: tuple[Spot, ...]


def bars(parts: Sequence[tuple[str, float]], whole: float | None = None) -> list[Segment]:
    """Lay the parts of a whole side by side.

    Args:
        parts: Kind and value of each, in order; values are not negative.
        whole: What fills the bar; the sum of the parts unless given. Smaller than that sum, it is the sum.

    Returns:
        A segment for each part that is not empty; together at most WIDTH.
    """
    total = max(sum(value for _, value in parts), whole or 0)
    if not any(value > 0 for _, value in parts):
        return []
    filled = [(kind, value, max(VISIBLE, WIDTH * value / total)) for kind, value in parts if value > 0]
    over = max(0.0, sum(width for *_, width in filled) - WIDTH)
    widest = max(range(len(filled)), key=lambda index: filled[index][2])  # it gives the others their room
    found, x = [], 0.0
    for index, (kind, value, width) in enumerate(filled):
        taken = width - over if index == widest else width
        found.append(Segment(kind, value, round(x, 2), round(taken, 2)))
        x += taken
    return found


def mesh(peers: Sequence[Mapping[str, Any]]) -> Mesh:
    """Place peers around this daemon, MESH_WIDTH across.

    Args:
        peers: As ``GET /peers`` has them, and ``said``: that peer as ``overview.agreement`` has it. The first
            PEERS_DRAWN_MAX are drawn.
    """
    drawn = peers[:PEERS_DRAWN_MAX]
    height = next(height for most, height in MESH_HEIGHTS if len(drawn) <= most)
    spots = []
    for index, peer in enumerate(drawn):
        angle = 2 * math.pi * index / len(drawn) - (0 if len(drawn) <= 2 else math.pi / 2)
        near = len(drawn) > 16 and index % 2  # two rings, so that names have room
        reach = 0.62 if near else 1.0
        x = MESH_WIDTH / 2 + reach * (MESH_WIDTH / 2 - 130) * math.cos(angle)
        y = height / 2 + reach * (height / 2 - 64) * math.sin(angle)
        level = abs(math.cos(angle)) > 0.5
        anchor = "middle" if not level else "start" if math.cos(angle) > 0 else "end"
        label_y = y + 4 if level else y + (30 if math.sin(angle) > 0 else -20)
        link = peer.get("link", "visit") if peer["connected"] else "none"
        spots.append(Spot(peer, round(x, 1), round(y, 1), round(label_y, 1), anchor, link, peer["said"]["state"]))
    return Mesh(height, tuple(spots))
