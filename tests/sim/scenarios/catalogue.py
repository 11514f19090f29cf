"""Every scenario by its name, and how one is run."""

from collections.abc import Callable
from typing import Final

from tests.sim.bounds import open_door
from tests.sim.scenarios import checkpoints, chutes, clocks, contest, early, keys, liars, permits, renewal, voters
from tests.sim.signatures import seeded_signatures
from tests.sim.simulation import SimulationError
from tests.sim.stage import Stage

Scenario = Callable[[Stage], None]

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.__name__.replace("_", "-"): scenario
    for scenario in (
        contest.two_miners_at_once,
        contest.two_sides_of_a_partition,
        contest.equal_nonces,
        contest.servers_that_overlap,
        contest.backdating_validator,
        contest.squatter_before_the_owner,
        renewal.owner_is_renewed,
        renewal.owners_verdict_lapses,
        renewal.owner_loses_the_gpu,
        renewal.owner_deletes,
        renewal.owner_leaves_the_chain,
        voters.validators_abstain,
        voters.validator_enrols,
        permits.validator_loses_its_permit,
        permits.miner_leaves_and_returns,
        liars.one_of_four_lies,
        liars.young_network_with_a_liar,
        liars.forty_and_twenty_offline,
        liars.liar_that_flips,
        liars.verdicts_on_nothing,
        liars.logs_without_end,
        chutes.places_while_the_owner_changes,
        keys.cloned_disk,
        keys.restored_backup,
        keys.lost_disk,
        keys.branches_for_two_sides,
        keys.key_is_rotated,
        keys.key_is_stolen,
        keys.clock_jumped_ahead,
        keys.clock_is_set_back,
        keys.two_clocks_jumped_ahead,
        clocks.clock_is_off,
        early.registration_ahead_of_the_chain,
        checkpoints.logs_are_cut,
        checkpoints.permit_is_lost_above_a_cut,
        checkpoints.place_under_what_is_carried,
        checkpoints.what_comes_late,
        checkpoints.liars_at_a_cut,
        checkpoints.half_of_an_event_is_kept,
        checkpoints.fork_below_a_cut,
        checkpoints.forks_behind_proposals,
        checkpoints.displaced_behind_a_proposal,
        checkpoints.two_sides_of_a_cut,
        checkpoints.logs_that_are_over,
        checkpoints.one_log_after_the_other,
        checkpoints.newcomer_behind_a_cut,
        checkpoints.away_for_longer_than_the_horizon,
        checkpoints.newcomer_among_forgers,
    )
}


def play(name: str, seed: int, *, echo: bool = False) -> Stage:
    """Play a scenario to its end.

    Args:
        name: Of SCENARIOS.
        seed: Everything that is drawn follows from it.
        echo: Print the log as it grows.

    Raises:
        SimulationError: A check failed, or whatever else went wrong.
    """
    stage = Stage(seed, echo=echo)
    try:
        with seeded_signatures(seed), open_door():
            SCENARIOS[name](stage)
    except Exception as error:
        log = "\n".join(stage.trace.lines)
        replay = f"python -m tests.sim.scenarios --scenario {name} --seed {seed}"
        raise SimulationError(f"{log}\n\n{name}, seed {seed}: {error!r}\nreplay: {replay} --log") from error
    finally:
        stage.close()
    return stage
