"""The verifier nvml: asks the miner's agent which GPUs its host has, and compares them with the claim.

For networks without GraVal. Each agent of a claim (each verification host and port) gets one challenge, signed by this
validator and with a fresh nonce; its answer is signed by the miner for this challenge alone
(``p2pnodes.miner.challenge``). What it says of the claimed GPUs must equal the claim, and fit the GPU table.

**What it proves:** that a program which holds the miner's hotkey runs at the claimed address now, and says that these
GPUs are there. It finds mistakes, GPUs that are gone, claims that copy another's numbers, and answers taken from
elsewhere. **What it does not:** that the program is ours, or the driver NVIDIA's. A miner who alters either can show
any GPU to every validator; a quorum of validators does not help, because all of them ask the same liar. Where GPUs are
paid for, use a verifier that makes them work (``graval``), or one that attests the host.

A miner that does not let this validator in (401, 403) gets an abstention. An agent that does not answer, or is busy,
is asked again within the slot, and then failed. Constants, not settings, bound all of it: each validator must give a
miner the same time.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import orjson

from p2pnodes.miner.challenge import (
    ANSWER_BYTES_MAX,
    NONCE_BYTES,
    PATH,
    Challenge,
    MalformedReportError,
    Report,
    ask,
    open_report,
)
from p2pnodes.miner.hardware import Gpu, canonical_uuid, clock_limit_mhz
from p2pnodes.model.claims import Node
from p2pnodes.model.errors import printable
from p2pnodes.model.events import ABSTAIN, DETAIL_CHARS_MAX, FAILED, VERIFIED
from p2pnodes.model.gpus import GpuSpecError, GpuTable, supported_gpus
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.problems import shown
from p2pnodes.store.facts import StoredClaim
from p2pnodes.verify.exchange import LATE_S_MAX, Answer, NoAnswerError, host_url, was_busy
from p2pnodes.verify.finding import Finding, VerifierUnavailableError
from p2pnodes.verify.verifier import Setup, Verifier

SLOT_S: Final = 15.0
"""Seconds of a validator's turn at an agent. All tries of a check together take less."""

CHECK_S_MAX: Final = 14.0
ANSWER_S_MAX: Final = 10.0
"""Seconds for one answer. An agent gives up its own waits after 8 s, so that it can say why."""

ANSWER_S_MIN: Final = 1.0
"""A try with less time left than this would only measure the network."""

TRIES_MAX: Final = 4
PAUSE_S: Final = 1.0
"""Pause before the next try; it grows by as much with each."""

MEMORY_TOLERANCE: Final = 0.01
"""Drivers differ in what they keep of a GPU's memory for themselves."""

CLOCK_TOLERANCE: Final = 0.01
"""Clocks are told in steps of 15 MHz or less."""

QUOTE_CHARS_MAX: Final = 160
"""Most that a detail repeats of an agent's words."""

_NOT_NOW: Final = frozenset({429, 502, 503, 504})
"""Statuses that say nothing but: not now. 502 and 504 are those of a proxy before the agent."""

_REGISTER: Final = "delete the claim and register what p2pnodes miner probe prints on that host"


class _NotNowError(Exception):
    """The agent gave no answer this time; the text says what it did."""


class NvmlVerifier(Verifier):
    """Verifies through the miner's agents; see the module."""

    method = "nvml"

    def __init__(self, setup: Setup, table: GpuTable | None = None, *, pause_s: float = PAUSE_S) -> None:
        """Take what there is.

        Args:
            setup: No setting of it is needed.
            table: Supported GPUs; the packaged ones unless given.
            pause_s: Pause before the second try.
        """
        super().__init__(setup)
        self._table = table or supported_gpus()
        self._pause_s = pause_s

    def slot_s(self, claim: StoredClaim) -> float:
        """Seconds that a check may take, whatever the claim: SLOT_S. Agents of one claim are asked at the same time."""
        return SLOT_S

    async def verify(self, claim: StoredClaim) -> Finding:
        """Check the GPUs of a claim; see the module."""
        nodes = claim.body.nodes
        unknown = next((node.gpu_identifier for node in nodes if node.gpu_identifier not in self._table.data), None)
        if unknown is not None:
            what = f"this validator's GPU table has no model {shown(unknown)}: it cannot check it before an upgrade"
            return Finding(ABSTAIN, what)
        for node in nodes:
            try:
                self._table.check([node])
            except GpuSpecError as error:
                return _failed(node, f"{printable(str(error))}; {_REGISTER}")
        agents: dict[tuple[str, int], list[Node]] = {}
        for node in nodes:
            agents.setdefault((node.verification_host, node.verification_port), []).append(node)
        found = await asyncio.gather(
            *(self._check_agent(claim, host, port, of) for (host, port), of in agents.items()), return_exceptions=True
        )
        return _together(found)

    async def _check_agent(self, claim: StoredClaim, host: str, port: int, nodes: Sequence[Node]) -> Finding:
        """What one agent's answer comes to, for the GPUs of the claim that it is to show."""
        try:
            url = host_url(host, port) + PATH
        except NoAnswerError as error:
            return _failed(nodes[0], f"{error}; {_REGISTER}")
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + CHECK_S_MAX
        problem, tries = "", 0
        while tries < TRIES_MAX:
            pause_s = self._pause_s * tries
            left_s = deadline_s - loop.time() - pause_s
            if left_s < ANSWER_S_MIN:
                break
            await asyncio.sleep(pause_s)
            tries += 1
            try:
                return await self._try(claim, url, nodes, min(ANSWER_S_MAX, left_s))
            except (NoAnswerError, _NotNowError) as error:
                problem = str(error)
        return _failed(
            nodes[0],
            f"its agent gave no answer in {tries} tries, {_quoted(problem)}; run p2pnodes miner serve at the claim's "
            "verification host and port, and open that port",
        )

    async def _try(self, claim: StoredClaim, url: str, nodes: Sequence[Node], timeout_s: float) -> Finding:
        """Ask once.

        Raises:
            NoAnswerError: There was no answer.
            _NotNowError: The agent asks for another try.
            VerifierUnavailableError: This validator's own network or machine is in trouble.
        """
        setup, miner = self.setup, ss58_encode(claim.miner)
        challenge = Challenge(
            network=setup.network.id.hex(),
            claim=claim.claim_id.hex(),
            nonce=setup.randbytes(NONCE_BYTES).hex(),
            uuids=tuple(node.uuid for node in nodes),
        )
        asked = ask(challenge, setup.signer, miner, setup.now_s())
        answer = await setup.exchange.ask_host(
            "POST", url, timeout_s=timeout_s, bytes_max=ANSWER_BYTES_MAX, headers=asked.headers, body=asked.body
        )
        if answer.status in _NOT_NOW:
            raise _NotNowError(f"it answered {answer.status}: {_reason(answer)}")
        if answer.status in {401, 403}:
            advice = f"; allow it: --allow {setup.signer.address}" if answer.status == 403 else ""
            return Finding(
                ABSTAIN,
                f"the agent does not let this validator in ({answer.status}: {_quoted(_reason(answer))}){advice}",
            )
        if answer.status != 200:
            return _failed(
                nodes[0],
                f"found status {answer.status} from its agent, {_quoted(_reason(answer))}; expected 200: run p2pnodes "
                "miner serve there, with the hotkey that made the claim",
            )
        try:
            report = open_report(
                answer.body, challenge, miner=miner, validator=setup.signer.address, now_s=setup.now_s()
            )
        except MalformedReportError as error:
            if answer.late_s > LATE_S_MAX:  # it may have grown old here
                raise VerifierUnavailableError(was_busy(answer.late_s)) from error
            return _failed(nodes[0], f"asked its agent, and {error}")
        return self._compared(nodes, report)

    def _compared(self, nodes: Sequence[Node], report: Report) -> Finding:
        """Whether a report shows all GPUs of a claim as the claim describes them; GPUs beyond those may be there."""
        shown_gpus: dict[str, Gpu] = {}
        for gpu in report.devices:
            if gpu.uuid in shown_gpus:
                return _failed(nodes[0], f"its agent shows GPU {gpu.uuid} twice; run the agent of this p2pnodes")
            shown_gpus[gpu.uuid] = gpu
        for node in nodes:
            gpu_shown = shown_gpus.get(node.uuid)
            difference = _absence(node, report) if gpu_shown is None else compare(node, gpu_shown, self._table)
            if difference is not None:
                return _failed(node, difference)
        return Finding(VERIFIED)


def compare(node: Node, gpu: Gpu, table: GpuTable) -> str | None:
    """What makes a GPU that an agent shows another one than a claim describes, and what to do; None where nothing does.

    Args:
        node: The claim's.
        gpu: The agent's, of the same uuid.
        table: Supported GPUs.
    """
    expected = table.fill(node)
    if gpu.name != node.name:
        return _difference("name", shown(gpu.name), shown(node.name))
    if not _close(gpu.memory, node.memory, MEMORY_TOLERANCE):
        return _difference("memory", f"{gpu.memory} bytes", f"{node.memory}")
    if gpu.processors != expected["processors"]:
        return _difference("SM count", gpu.processors, expected["processors"])
    if not _close(gpu.clock_rate, node.clock_rate, CLOCK_TOLERANCE):
        limit_mhz = clock_limit_mhz(gpu.name)
        if gpu.clock_source == "nvml" and limit_mhz is not None and gpu.clock_rate / 1000 > limit_mhz:
            return (
                f"found clock rate {gpu.clock_rate:.0f} kHz on its host, NVML's maximum, the claim says "
                f"{node.clock_rate:.0f}; its agent cannot have CUDA's clock rate: run it where CUDA programs run"
            )
        return _difference("clock rate", f"{gpu.clock_rate:.0f} kHz", f"{node.clock_rate:.0f}")
    for field, value in (("major", gpu.major), ("minor", gpu.minor)):
        for claimed in (getattr(node, field), expected[field]):
            if claimed not in {None, value}:
                return _difference(f"compute capability, {field},", value, claimed)
    try:
        table.check([node._replace(memory=gpu.memory, processors=gpu.processors, clock_rate=gpu.clock_rate)])
    except GpuSpecError as error:
        return f"what its agent shows does not fit the GPU table: {printable(str(error))}"
    return None


def _absence(node: Node, report: Report) -> str:
    """Why a GPU is not in a report, as far as its agent tells."""
    canonical = canonical_uuid(node.uuid)
    if any(gpu.uuid == canonical for gpu in report.devices):
        return f"found uuid {canonical} on its host, expected it to be written so in the claim; {_REGISTER}"
    if report.problems:
        return f"not among the GPUs that its agent can read, {_quoted(report.problems[0])}"
    return f"not on its host, which has {report.total} other GPUs; {_REGISTER}"


def _difference(what: str, found: object, claimed: object) -> str:
    return f"found {what} {found} on its host, the claim says {claimed}; {_REGISTER}"


def _close(found: float, claimed: float, tolerance: float) -> bool:
    return abs(found - claimed) <= tolerance * claimed


def _failed(node: Node, detail: str) -> Finding:
    return Finding(FAILED, f"GPU {node.uuid}: {detail}"[:DETAIL_CHARS_MAX])


def _together(found: Iterable[Finding | BaseException]) -> Finding:
    """The finding on a claim from those on its agents: what failed counts first, then what could not be checked."""
    results = list(found)
    findings = [result for result in results if isinstance(result, Finding)]
    for finding in findings:
        if finding.finding == FAILED:
            return finding
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return next((finding for finding in findings if finding.finding == ABSTAIN), Finding(VERIFIED))


def _reason(answer: Answer) -> str:
    """The agent's own words for a refusal."""
    try:
        fields = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        fields = None
    detail = fields.get("detail") if isinstance(fields, dict) else None
    return detail if isinstance(detail, str) else "without a reason"


def _quoted(text: str) -> str:
    """What an agent said, in one bounded line."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= QUOTE_CHARS_MAX else line[: QUOTE_CHARS_MAX - 3] + "..."
