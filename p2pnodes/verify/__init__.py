"""Verifiers: how a validator finds out whether a claim is true, and when it does so."""
