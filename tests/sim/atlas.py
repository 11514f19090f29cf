"""A world map: 19 regions and how long a packet takes between them, as it was measured.

Source: Microsoft, "Azure network round-trip latency statistics" (https://learn.microsoft.com/azure/networking/
azure-network-latency), the medians over the 30 days to 30 July 2026; 19 of its 54 regions, some of every continent.

A packet takes half of the round trip. The round trips of a pair were measured from both ends, which differ by 18 ms at
most, and are averaged here.
"""

import itertools
import random
from typing import Final

ROUND_TRIPS_MS: Final = {
    "West US 2": (0, 56, 38, 73, 64, 177, 129, 139, 142, 155, 158, 279, 240, 210, 162, 141, 124, 101, 160),
    "South Central US": (52, 0, 26, 36, 52, 139, 104, 113, 117, 124, 137, 244, 214, 232, 202, 173, 154, 129, 162),
    "Central US": (39, 26, 0, 29, 29, 149, 101, 109, 110, 119, 126, 244, 192, 223, 198, 176, 158, 136, 176),
    "East US": (71, 35, 28, 0, 18, 117, 71, 78, 83, 94, 100, 219, 174, 198, 224, 202, 184, 162, 201),
    "Canada Central": (64, 54, 29, 18, 0, 129, 76, 81, 90, 97, 109, 230, 175, 201, 222, 201, 182, 160, 202),
    "Brazil South": (177, 139, 149, 118, 129, 0, 172, 181, 185, 198, 201, 321, 277, 304, 331, 307, 283, 262, 295),
    "North Europe": (130, 104, 101, 73, 77, 172, 0, 13, 17, 27, 35, 172, 128, 147, 176, 215, 239, 225, 263),
    "UK South": (139, 112, 108, 78, 81, 180, 12, 0, 11, 17, 31, 164, 119, 141, 167, 200, 240, 229, 261),
    "West Europe": (143, 118, 108, 85, 90, 185, 17, 11, 0, 11, 26, 166, 111, 140, 169, 201, 243, 233, 265),
    "Germany West Central": (154, 122, 119, 94, 97, 196, 26, 16, 11, 0, 28, 165, 118, 139, 166, 192, 244, 235, 266),
    "Sweden Central": (159, 135, 129, 100, 106, 201, 33, 31, 27, 27, 0, 186, 122, 157, 190, 219, 260, 252, 285),
    "South Africa North": (280, 244, 243, 220, 230, 321, 172, 163, 166, 166, 188, 0, 103, 130, 177, 210, 242, 247, 328),
    "UAE North": (241, 214, 190, 176, 175, 274, 121, 112, 111, 100, 122, 103, 0, 32, 83, 113, 147, 151, 173),
    "Central India": (211, 234, 220, 201, 201, 303, 146, 141, 139, 140, 164, 131, 32, 0, 53, 87, 121, 122, 145),
    "Southeast Asia": (162, 200, 197, 224, 222, 330, 176, 167, 169, 166, 191, 177, 83, 53, 0, 36, 68, 72, 95),
    "East Asia": (141, 173, 176, 204, 200, 306, 212, 200, 203, 193, 220, 211, 113, 88, 36, 0, 39, 49, 122),
    "Korea Central": (124, 154, 157, 185, 182, 284, 239, 239, 241, 235, 260, 246, 146, 119, 68, 39, 0, 30, 126),
    "Japan East": (100, 129, 135, 162, 160, 262, 227, 230, 234, 236, 253, 251, 152, 122, 72, 49, 29, 0, 103),
    "Australia East": (161, 162, 176, 202, 202, 295, 263, 261, 264, 267, 286, 328, 172, 144, 95, 121, 127, 104, 0),
}
"""Median round trips in milliseconds, from the named region to each of them in this order."""

REGIONS: Final = tuple(ROUND_TRIPS_MS)

LOCAL_MS: Final = 1.0
"""One way between two peers of one region: Azure keeps the round trip between its zones of a region below 2 ms."""


def _one_way() -> list[list[float]]:
    rows = list(ROUND_TRIPS_MS.values())
    return [[LOCAL_MS if a == b else (rows[a][b] + rows[b][a]) / 4 for b in range(len(rows))] for a in range(len(rows))]


def _shortest(direct: list[list[float]]) -> list[list[float]]:
    """Floyd and Warshall's all shortest paths."""
    found = [list(row) for row in direct]
    for via, a, b in itertools.product(range(len(found)), repeat=3):
        if a != b:
            found[a][b] = min(found[a][b], found[a][via] + found[via][b])
    return found


_ONE_WAY: Final = _one_way()
_SHORTEST: Final = _shortest(_ONE_WAY)


def one_way_ms(a: int, b: int) -> float:
    """How long a packet takes between two regions, given by their places in REGIONS; within one, LOCAL_MS."""
    return _ONE_WAY[a][b]


def shortest(a: int, b: int) -> float:
    """How long news takes at least between two regions, if every region on the way hands it on at once: milliseconds.

    The map is measured, so the triangle inequality does not hold everywhere: a detour may be faster than the direct
    way. No gossip protocol can be faster than this.
    """
    return _SHORTEST[a][b]


def draw(count: int, rng: random.Random) -> list[int]:
    """The regions of so many peers: all regions alike, as far as the number allows, in an order that is drawn."""
    places = [place % len(REGIONS) for place in range(count)]
    rng.shuffle(places)
    return places
