"""Fixtures of the verifiers' tests."""

from tests.gossip.past import pasts

__all__ = ["pasts"]
