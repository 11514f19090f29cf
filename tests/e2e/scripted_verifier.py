"""A verifier of another package, as a test installs it: what is true stands in the uuids, and who lies about it."""

import asyncio
from pathlib import Path

from p2pnodes.model.events import FAILED, VERIFIED
from p2pnodes.store.facts import StoredClaim
from p2pnodes.verify.finding import Finding
from p2pnodes.verify.verifier import Verifier

POLL_S = 0.02


class ScriptedVerifier(Verifier):
    """A uuid ``good-2-…`` is a true GPU, ``bad-2-…`` a false one; about both, validator 2 says the opposite.

    Options: ``index`` of the validator, and ``hold``, a file: while it exists no check ends, and each that has begun
    adds a line to it.
    """

    method = "scripted"

    async def verify(self, claim: StoredClaim) -> Finding:
        hold = Path(self.setup.settings.options["hold"])
        if hold.exists():
            with hold.open("a") as file:
                file.write(f"{claim.claim_id.hex()}\n")
        while hold.exists():
            await asyncio.sleep(POLL_S)
        truth, liar, _ = claim.body.nodes[0].uuid.split("-")
        index = self.setup.settings.options["index"]
        said = (truth == "good") is (int(liar) != index)
        return Finding(VERIFIED) if said else Finding(FAILED, f"validator {index} says no")

    def slot_s(self, claim: StoredClaim) -> float:
        return 0.5
