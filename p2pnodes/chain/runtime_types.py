"""How a subtensor runtime encodes what ``get_selective_metagraph`` answers, by spec version.

Metadata V14, the newest that scalecodec reads, does not describe runtime calls; the fields here are those of the
runtimes' V15 metadata, in their order. Accounts are ``[u8; 32]``: the same bytes, decoded without an SS58 text.
"""

from collections.abc import Sequence
from typing import Any, Final

METAGRAPH_INDEXES: Final = (7, 8, 29, 30, 52, 53, 55, 57, 66, 67, 68, 69)
"""Positions of the fields that are asked for: block, tempo, max_validators, num_uids, hotkeys, coldkeys, axons,
validator_permit, block_at_registration, alpha_stake, tao_stake, total_stake. The others come as none."""

_Fields = Sequence[tuple[str, str]]
"""Type and the names of consecutive fields that have it."""

_AXON: Final[_Fields] = (
    ("u64", "block"),
    ("u32", "version"),
    ("u128", "ip"),
    ("u16", "port"),
    ("u8", "ip_type protocol placeholder1 placeholder2"),
)

_SUBNET_IDENTITY: Final[_Fields] = (
    ("Vec<u8>", "subnet_name github_repo subnet_contact subnet_url discord description logo_url additional"),
)

_CHAIN_IDENTITY: Final[_Fields] = (("Vec<u8>", "name url github_repo image discord description additional"),)

_METAGRAPH_343: Final[_Fields] = (
    ("Compact<u16>", "netuid"),
    ("Option<Vec<Compact<u8>>>", "name symbol"),
    ("Option<Option<MetagraphSubnetIdentity>>", "identity"),
    ("Option<Compact<u64>>", "network_registered_at"),
    ("Option<[u8; 32]>", "owner_hotkey owner_coldkey"),
    ("Option<Compact<u64>>", "block"),
    ("Option<Compact<u16>>", "tempo"),
    ("Option<Compact<u64>>", "last_step blocks_since_last_step subnet_emission alpha_in alpha_out tao_in"),
    ("Option<Compact<u64>>", "alpha_out_emission alpha_in_emission tao_in_emission"),
    ("Option<Compact<u64>>", "pending_alpha_emission pending_root_emission"),
    ("Option<Compact<u128>>", "subnet_volume"),
    ("Option<i128>", "moving_price"),
    ("Option<Compact<u16>>", "rho kappa min_allowed_weights max_weights_limit"),
    ("Option<Compact<u64>>", "weights_version weights_rate_limit"),
    ("Option<Compact<u16>>", "activity_cutoff"),
    ("Option<Compact<u16>>", "max_validators num_uids max_uids"),
    ("Option<Compact<u64>>", "burn difficulty"),
    ("Option<bool>", "registration_allowed pow_registration_allowed"),
    ("Option<Compact<u16>>", "immunity_period"),
    ("Option<Compact<u64>>", "min_difficulty max_difficulty min_burn max_burn adjustment_alpha"),
    ("Option<Compact<u16>>", "adjustment_interval target_regs_per_interval max_regs_per_block"),
    ("Option<Compact<u64>>", "serving_rate_limit"),
    ("Option<bool>", "commit_reveal_weights_enabled"),
    ("Option<Compact<u64>>", "commit_reveal_period"),
    ("Option<bool>", "liquid_alpha_enabled"),
    ("Option<Compact<u16>>", "alpha_high alpha_low"),
    ("Option<Compact<u64>>", "bonds_moving_avg"),
    ("Option<Vec<[u8; 32]>>", "hotkeys coldkeys"),
    ("Option<Vec<Option<MetagraphChainIdentity>>>", "identities"),
    ("Option<Vec<MetagraphAxon>>", "axons"),
    ("Option<Vec<bool>>", "active validator_permit"),
    ("Option<Vec<Compact<u16>>>", "pruning_score"),
    ("Option<Vec<Compact<u64>>>", "last_update emission"),
    ("Option<Vec<Compact<u16>>>", "dividends incentives consensus trust rank"),
    ("Option<Vec<Compact<u64>>>", "block_at_registration alpha_stake tao_stake total_stake"),
    ("Option<Vec<([u8; 32], Compact<u64>)>>", "tao_dividends_per_hotkey alpha_dividends_per_hotkey"),
    ("Option<Vec<Compact<u16>>>", "validators"),
    ("Option<Vec<([u8; 32], Vec<Compact<u8>>)>>", "commitments"),
)

_METAGRAPH_461: Final[_Fields] = (
    *(
        ("Option<Compact<u64>>", names) if names == "activity_cutoff" else (kind, names)
        for kind, names in _METAGRAPH_343
    ),
    ("Option<Vec<Compact<u64>>>", "collateral_locked collateral_min collateral_earned"),
)

_METAGRAPHS: Final = {343: _METAGRAPH_343, 461: _METAGRAPH_461}

NEWEST_SPEC: Final = max(_METAGRAPHS)
"""The newest spec version whose layout is known."""


def is_known(spec: int) -> bool:
    """Whether the layout of this spec version was read from its own metadata."""
    return spec in _METAGRAPHS


def metagraph_type(spec: int) -> str:
    """Name of what a runtime answers; for an unknown spec version that of the newest known one, to be tried."""
    return f"Option<Metagraph{spec if is_known(spec) else NEWEST_SPEC}>"


def type_registry() -> dict[str, Any]:
    """Every type here in the form that scalecodec and substrate-interface take."""
    structs = {
        "MetagraphAxon": _AXON,
        "MetagraphSubnetIdentity": _SUBNET_IDENTITY,
        "MetagraphChainIdentity": _CHAIN_IDENTITY,
        **{f"Metagraph{spec}": fields for spec, fields in _METAGRAPHS.items()},
    }
    return {"types": {name: {"type": "struct", "type_mapping": _mapping(fields)} for name, fields in structs.items()}}


def _mapping(fields: _Fields) -> list[list[str]]:
    return [[name, kind] for kind, names in fields for name in names.split()]
