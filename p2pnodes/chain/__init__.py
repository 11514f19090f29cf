"""The electorate, from the chain or from a file that stands in for it, and the key files of Bittensor wallets."""
