"""Tests of p2pnodes. A name reads as a claim about the system; the folders mirror the packages."""
