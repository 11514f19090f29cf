"""Rules broken on purpose: one line of the code is exchanged while a run lasts, and the run's checkers must notice.

A mutant is some *edits* and the *hunt* that finds it: runs of ``World``, or plays of a scenario, seed after seed, until
a checker fails; or unit tests, for what a simulated network hardly ever comes to need. An edit gives the text that it
replaces, which must stand in its function exactly once; so a mutant whose line is gone, or moved, fails at once and by
name, and never becomes a run in which nothing is broken.

A function gets another code object, not another name: whoever imported it has the broken one as well.
"""

import ast
import inspect
import io
import multiprocessing
import os
import signal
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, Final, NamedTuple, Protocol, cast
from unittest.mock import patch

import pytest
from hypothesis import Phase, settings

from p2pnodes.gossip import pace, rates
from p2pnodes.gossip.engine import Engine
from p2pnodes.gossip.rates import Rate
from p2pnodes.gossip.view import VIEW_SIZE
from tests.sim import check
from tests.sim.check import LATE_MS, RECOVERY_MS
from tests.sim.scenarios.catalogue import play
from tests.sim.simulation import SimulationError
from tests.sim.stories import Turn
from tests.sim.world import FAULTS, World

CPU_S_MAX: Final = 60.0
"""CPU seconds after which a run counts as one that does not end; the longest run of an unbroken network takes some."""

MESSAGE_CHARS_MAX: Final = 160
"""Of a checker's message in the table."""

_TESTS: Final = Path(__file__).parents[1]


class Edit(NamedTuple):
    """Other text in a function's source.

    Attributes:
        where: The module or class that holds the function, method or property.
        name: Its name there.
        old: Text that occurs in its source exactly once.
        new: What stands there instead; it may use what the function's module has.
    """

    where: Any
    name: str
    old: str
    new: str

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run the body with the function broken."""
        function = _function(self.where, self.name)
        whole, before = function.__code__, _broken.get(function)
        source = self._broken_source(function)
        function.__code__ = _compiled(function, source)
        _broken[function] = source
        try:
            yield
        finally:
            function.__code__ = whole
            if before is None:
                del _broken[function]
            else:
                _broken[function] = before

    def _broken_source(self, function: FunctionType) -> str:
        source = _broken.get(function) or textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise LookupError(
                f"{function.__module__}.{function.__qualname__} holds {self.old!r} {source.count(self.old)} times: "
                "expected it once; give the mutant the line as it is now"
            )
        return source.replace(self.old, self.new)


class Swap(NamedTuple):
    """Another value of a name: a constant, or a whole function where one line does not say it."""

    where: Any
    name: str
    value: Any

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run the body with it."""
        if not hasattr(self.where, self.name):
            raise LookupError(f"{self.where} has no {self.name}: give the mutant the name as it is now")
        with patch.object(self.where, self.name, self.value):
            yield


class Hunt(Protocol):
    """Something that is run by seed."""

    def run(self, seed: int) -> None:
        """Run it; raises SimulationError where a checker fails."""
        ...


class Drawn(NamedTuple):
    """A run of ``World``.

    Attributes:
        faults: See ``World``.
        peers: See ``World``.
        minutes: See ``World``.
        tight: See ``World``.
        view: Size of every peer's active view.
        late_ms: How long a delivery may take that no fault explains.
        pace_ms: Pause between two digests of a peer; None: as it is.
        begins_ms: Deliveries that begin sooner than this may be late: the peers still find each other.
        copies_max: How often an event may be sent to a peer, on the mean, in a run without faults; None: as often as
            may be.
        turn: What else happens, and is looked at; one of ``stories``.
        author_rate: Events that one author may have pushed, instead of AUTHOR_EVENTS.
    """

    faults: tuple[str, ...] = FAULTS
    peers: int = 6
    minutes: float = 1.0
    tight: bool = False
    view: int = VIEW_SIZE
    late_ms: int = LATE_MS
    pace_ms: int | None = None
    begins_ms: int = 0
    copies_max: float | None = None
    turn: Turn | None = None
    author_rate: Rate | None = None

    def run(self, seed: int) -> None:
        """See ``Hunt``."""
        defaults = cast("FunctionType", Engine.__init__).__kwdefaults__
        paces: dict[str, Any] = {
            name: self.pace_ms or getattr(pace, name) for name in ("DIGEST_INTERVAL_MS", "CALM_INTERVAL_MS")
        }
        with (
            patch.dict(defaults, view_size=self.view),
            patch.object(check, "LATE_MS", self.late_ms),
            patch.multiple(pace, **paces),
            patch.object(rates, "AUTHOR_EVENTS", self.author_rate or rates.AUTHOR_EVENTS),
        ):
            world = World(seed, peers=self.peers, minutes=self.minutes, faults=self.faults, tight=self.tight)
            if self.turn is not None:
                self.turn(world)
            if self.begins_ms:
                world.touched("start", None, self.begins_ms - RECOVERY_MS)
            world.run()
        if self.copies_max is not None and (copies := _copies(world)) > self.copies_max:
            raise SimulationError(f"every event was sent {copies:.2f} times to each peer: over {self.copies_max:g}")

    def __str__(self) -> str:
        faults = "all" if set(self.faults) == set(FAULTS) else ",".join(self.faults) or "none"
        more = [", tight bounds"] if self.tight else []
        if self.view != VIEW_SIZE:
            more.append(f", views of {self.view}")
        if self.late_ms != LATE_MS:
            more.append(f", late after {self.late_ms / 1000:g} s")
        if self.pace_ms is not None:
            more.append(f", digests after {self.pace_ms / 1000:g} s")
        if self.copies_max is not None:
            more.append(f", {self.copies_max:g} copies at most")
        if self.turn is not None:
            more.append(f", {self.turn.__name__.replace('_', ' ')}")
        return f"{self.peers} peers, {self.minutes:g} min, faults {faults}{''.join(more)}"


def _copies(world: World) -> float:
    """How often an event was sent to a peer, on the mean, over the sessions that are open in the end."""
    sessions = [session for peer in world.peers for session in peer.engine._sessions.values()]
    return sum(session.events_received for session in sessions) / sum(session.events_stored for session in sessions)


class Played(NamedTuple):
    """A play of a scenario."""

    scenario: str

    def run(self, seed: int) -> None:
        """See ``Hunt``."""
        play(self.scenario, seed)

    def __str__(self) -> str:
        return f"scenario {self.scenario}"


class UnitTests(NamedTuple):
    """Unit tests, the same whatever the seed: their examples are.

    Attributes:
        where: A test module below ``tests/``, and what of it, as pytest names it.
    """

    where: str

    def run(self, seed: int) -> None:
        """See ``Hunt``; raises LookupError where pytest does not come to an answer, which finds nothing."""
        del seed
        reader, writer = multiprocessing.Pipe(duplex=False)
        # Of this process, which has the mutant; and another one each time, for pytest leaves much behind in its own.
        process = multiprocessing.get_context("fork").Process(target=_test, args=(self.where, writer))
        process.start()
        writer.close()
        try:
            code, failed, said = reader.recv()
        except EOFError:
            code, failed, said = None, "", ""
        process.join()
        if code == pytest.ExitCode.TESTS_FAILED:
            raise SimulationError(f"{failed} fails")
        if code != pytest.ExitCode.OK:
            raise LookupError(f"pytest ends with {code!r} on {self}:\n{said}")

    def __str__(self) -> str:
        return f"tests {self.where}"


def _test(where: str, writer: Connection) -> None:
    """Run tests; send pytest's exit code, the name of the first test that failed, and what was printed."""
    witness = _Witness()
    arguments = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", f"{_TESTS / where}"]
    with redirect_stdout(said := io.StringIO()):  # plain: what is imported already cannot be rewritten
        code = pytest.main(arguments, [witness])
    writer.send((code, witness.failed, said.getvalue()))


class _Witness:
    """A plugin of pytest that remembers which test failed."""

    def __init__(self) -> None:
        self.failed = ""

    def pytest_sessionstart(self) -> None:
        """Look for no smaller example: one is enough."""
        settings.register_profile("one", settings(), phases=(Phase.explicit, Phase.generate))
        settings.load_profile("one")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest with what became of each test."""
        if report.failed:
            self.failed = report.nodeid.rpartition("::")[2]


class Mutant(NamedTuple):
    """One rule broken.

    Attributes:
        name: Lower case, with hyphens.
        rule: One of ``mutants.RULES``.
        breaks: What it does wrong, a sentence.
        edits: How.
        hunt: The runs that must find it.
        seeds: Within the seeds 1 to this one.
    """

    name: str
    rule: str
    breaks: str
    edits: tuple[Edit | Swap, ...]
    hunt: Drawn | Played | UnitTests
    seeds: int = 5

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run the body with the rule broken."""
        with ExitStack() as stack:
            for edit in self.edits:
                stack.enter_context(edit.applied())
            yield


class Found(NamedTuple):
    """What a hunt came to.

    Attributes:
        seed: The first seed with which a checker failed; None when none did.
        said: What it said.
        cpu_s: CPU seconds of all runs.
    """

    seed: int | None
    said: str
    cpu_s: float


class EndlessError(Exception):
    """A run took more than CPU_S_MAX."""


def hunt(hunted: Hunt, seeds: int) -> Found:
    """Run seed after seed until a checker fails."""
    began_s = _cpu_s()
    for seed in range(1, seeds + 1):
        if (said := failure(hunted, seed)) is not None:
            return Found(seed, said, _cpu_s() - began_s)
    return Found(None, "", _cpu_s() - began_s)


def _cpu_s() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def failure(hunted: Hunt, seed: int) -> str | None:
    """What fails with one seed, in a line; None when nothing does."""
    try:
        with _cpu_limit(CPU_S_MAX):
            hunted.run(seed)
    except (SimulationError, EndlessError) as error:
        cause = error.__cause__ or error
        said = " ".join(str(cause).split()) or repr(cause)
        if not isinstance(cause, AssertionError):
            said = f"{type(cause).__name__}: {said}"
        return said if len(said) <= MESSAGE_CHARS_MAX else f"{said[: MESSAGE_CHARS_MAX - 1]}…"
    return None


@contextmanager
def _cpu_limit(cpu_s: float) -> Iterator[None]:
    """Break off the body once this process has used so much CPU time for it."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise EndlessError(f"a run takes over {cpu_s:g} s of CPU time")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


_broken: Final[dict[FunctionType, str]] = {}
"""The source of functions that are broken now: a second edit breaks that."""


def _compiled(function: FunctionType, source: str) -> CodeType:
    """The code object of a function with other source, without its decorators and annotations."""
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef)
    definition.decorator_list = []
    definition.returns = None
    for argument in ast.walk(definition.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    made: dict[str, Any] = {}
    name = f"<mutant of {function.__qualname__}>"
    exec(compile(ast.Module([definition], []), name, "exec"), function.__globals__, made)  # noqa: S102
    code: CodeType = made[definition.name].__code__
    return code


def _function(where: Any, name: str) -> FunctionType:
    """The plain function behind a name."""
    found: Any = inspect.getattr_static(where, name)
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    found = inspect.unwrap(found)
    assert isinstance(found, FunctionType), f"{where}.{name} is no function"
    return found
