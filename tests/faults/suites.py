"""All suites, by name."""

from typing import Final

from tests.faults.abuse import Abuse
from tests.faults.arena import Scene
from tests.faults.clocks import Clock
from tests.faults.disks import Full, Page, ReadOnly, Wal
from tests.faults.kills import Away, Cut, Kill, Pause
from tests.faults.links import Lines, Partition
from tests.faults.old import Old
from tests.faults.soak import Soak
from tests.faults.upgrades import Upgrade

SUITES: Final[dict[str, type[Scene]]] = {
    suite.name: suite
    for suite in (Kill, Cut, Away, Pause, Full, ReadOnly, Page, Wal, Old, Clock, Lines, Partition, Upgrade, Abuse, Soak)
}
