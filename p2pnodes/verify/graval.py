"""The verifier graval: GPUs prove themselves by work that only they can do, in the time that they need for it.

It is the validator's side of what miners run today, to the letter (compat.md, section 5). A miner's bootstrap service
answers for the GPUs of one server. The operator's own GraVal service, which needs a GPU, makes challenges and judges
answers. A check of a claim goes like this:

1. Device challenges: 20 times ``GET /info``. Each answer hashes the devices that are there with 32 random bytes.
2. Ciphertexts: for each GPU a random text, encrypted so that only this GPU, after its work, can read it.
3. Proof of work: one ``POST /prove`` with all ciphertexts. Each text must come back, after 0.55 to 1.7 times the time
   that the GPU table estimates, and each GPU's proof must hold.

How a check is cut: a bootstrap service speaks for the GPUs that the claim puts at its host and port (today's client
puts all of them there), and one ``/prove`` carries one number of iterations, so it asks GPUs of one model. Of one
service they come one after the other, because it works on one at a time; of several services at the same time, so that
one GPU cannot stand in for several by working for one after the other.

Seeds, challenges and texts are drawn at random for each attempt; the claim's public seed is never used. A miner's
silence, and a 429, 502, 503 or 504, is tried again a bounded number of times; a wrong answer is not. Silence fails a
claim while it is young, and makes this validator abstain when it is checked again: today's miners take the service away
once they have registered. Whatever may be this validator's own fault ends in ``VerifierUnavailableError``, never in a
verdict.
"""

import asyncio
import base64
import binascii
import uuid
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Annotated, Any, Final, NamedTuple, NoReturn, TypeVar

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from p2pnodes.miner.challenge import signed_headers
from p2pnodes.model.claims import NAME_CHARS_MAX, Node, parse_json
from p2pnodes.model.clock import hlc_ms
from p2pnodes.model.codec import INT_MAX
from p2pnodes.model.codes import Code
from p2pnodes.model.errors import ConfigError, printable
from p2pnodes.model.events import ABSTAIN, DETAIL_CHARS_MAX, FAILED, VERIFIED
from p2pnodes.model.gpus import GpuSpecError, GpuTable, supported_gpus
from p2pnodes.model.keys import ss58_encode
from p2pnodes.model.problems import FOUND_CHARS_MAX, found_and_expected, shown
from p2pnodes.model.requests import UUID_CHARS_MAX
from p2pnodes.steady import steady_s
from p2pnodes.store.facts import StoredClaim
from p2pnodes.verify.exchange import Answer, Exchange, NoAnswerError, host_url
from p2pnodes.verify.finding import Finding, VerifierUnavailableError
from p2pnodes.verify.turns import RENEW_EARLIEST
from p2pnodes.verify.verifier import Setup, Verifier

log = structlog.get_logger("p2pnodes.verify")

PURPOSE: Final = "graval"
"""The tail that is signed for ``GET /info``."""

INFO_CHALLENGES: Final = 20
INFO_S_MAX: Final = 12.0
"""Seconds for one device challenge. Like their number: what miners' services are asked today (compat.md, section 5)."""

INFO_PHASE_S_MAX: Final = 60.0
"""Seconds that a miner may take for all its device challenges, pauses before another try included. An answer takes a
hash and a round trip, so this is much; without it, one check could hold the host of a slow miner for four minutes."""

INFO_CHARS: Final = 64
INFO_BYTES_MAX: Final = 16 * 1024
"""Bound of an answer to a device challenge; what is longer than 64 characters is an error's page."""

FASTEST: Final = 0.55
SLOWEST: Final = 1.7
PROVE_TIMEOUT: Final = 2.5
"""Bounds of the time for ``/prove``, and its time-out, as multiples of the table's estimate (compat.md, section 5)."""

PROOF_BYTES_MAX: Final = 1024 * 1024
"""Bound of the answer to ``/prove``, for each GPU that is asked: a proof holds some hashes of 64 characters."""

ATTEMPTS_MAX: Final = 3
"""How often a silent host is asked: for ``/prove``, and in all device challenges together once more than there are."""

RETRY_PAUSE_S: Final = 2.0
EARLY_S_MAX: Final = 6.0
"""Seconds within which ``/prove`` must have broken off to be tried again: a refused connection, a service that starts.
Later, work was under way, and a second try would take a second slot."""

CHALLENGE_BYTES: Final = 32
TEXT_CHARS_MAX: Final = 256
"""Longest plaintext that is looked at; those that were encrypted have 55 characters."""

CHECK_INDEX: Final = 0
"""Which part of a proof is checked: the one that validators check today."""

SERVICE_S_MAX: Final = 120.0
"""Seconds for one call of the operator's GraVal service, and what a slot leaves for all calls of a check."""

SERVICE_CALLS_MAX: Final = 4
"""Calls of the operator's GraVal service at the same time, over all checks: it has one GPU, and queues by itself."""

SERVICE_BYTES_MAX: Final = 64 * 1024
PROBE_S_MAX: Final = 5.0
"""Seconds for the question at the start, whether the GraVal service answers."""

LATE_STEPS: Final = 4
"""How often an exchange waits for the event loop: its name resolves, it connects, it sends, its answer is there."""

_DEVICE_INFO: Final = (
    "uuid",
    "name",
    "memory",
    "major",
    "minor",
    "processors",
    "sxm",
    "clock_rate",
    "max_threads_per_processor",
    "concurrent_kernels",
    "ecc",
)
_NOT_NOW: Final = frozenset({429, 502, 503, 504})
"""Statuses that say nothing but: not now."""

_Value = TypeVar("_Value")
DeviceInfo = dict[str, Any]
"""What GraVal knows a GPU by."""


class _Received(BaseModel):
    """JSON from others: types are not converted, unknown fields are passed over."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class WorkProduct(_Received):
    """What a GPU's work left behind. Its hashes are between the miner's GraVal and ours: passed on as they came."""

    intermediate_hashes: Annotated[list[JsonValue], Field(min_length=1)]
    num_matrices: Annotated[int, Field(ge=0, le=INT_MAX)]
    total_iterations: Annotated[int, Field(ge=0, le=INT_MAX)]


_Uuid = Annotated[str, Field(max_length=UUID_CHARS_MAX)]


class DeviceProof(_Received):
    """The proof of one GPU, and which GPU it says it is."""

    device_id: Annotated[int, Field(ge=0, le=INT_MAX)]
    device_uuid: _Uuid
    device_name: Annotated[str, Field(max_length=NAME_CHARS_MAX)]
    work_product: WorkProduct


class Proof(_Received):
    """The answer to ``/prove``; its ``devices`` are of no use: each proof names its GPU."""

    seed: Annotated[int, Field(ge=0, le=INT_MAX)]
    proof: dict[_Uuid, DeviceProof]
    plaintext: dict[_Uuid, Annotated[str, Field(max_length=TEXT_CHARS_MAX)]]


class _Result(_Received):
    result: bool


_RESULT: Final = TypeAdapter(_Result)


class GravalService:
    """Client of the operator's own GraVal service; whatever goes wrong there is no miner's fault."""

    def __init__(self, exchange: Exchange, url: str) -> None:
        """Ask the service at a base URL."""
        self._exchange = exchange
        self._url = url
        self._turns = asyncio.Semaphore(SERVICE_CALLS_MAX)
        self._accepted_proof = False

    async def probe(self, device: DeviceInfo) -> None:
        """Ask whether a made-up answer of a GPU is right.

        Raises:
            VerifierUnavailableError: No answer, or it is yes: such a service would verify whatever lies.
        """
        challenge = response = "0" * (2 * CHALLENGE_BYTES)
        question = {"devices": [device], "challenge": challenge, "response": response}
        answer = await self._post("/verify_device_challenge", question, PROBE_S_MAX)
        if answer.status == 200 and self._result("/verify_device_challenge", answer):
            raise VerifierUnavailableError(
                f"{self._url}/verify_device_challenge: found true for a made-up answer, expected false; a service that "
                "believes everything verifies every liar: replace it"
            )

    async def encrypt(self, device: DeviceInfo, payload: str, seed: int, iterations: int) -> str:
        """Encrypt a text for one GPU; base64.

        Raises:
            VerifierUnavailableError: It cannot, or its answer is none.
        """
        question = {"device_info": device, "payload": payload, "seed": seed, "iterations": iterations}
        answer = self._require_ok("/encrypt", await self._post("/encrypt", question, SERVICE_S_MAX))
        prefix, _, ciphertext = answer.body.decode(errors="replace").strip().rpartition("|")
        if prefix != str(seed) or not _is_base64(ciphertext):
            raise VerifierUnavailableError(
                f"{self._url}/encrypt: found {_shown(answer.body)}, expected {seed}|base64; is it a GraVal service?"
            )
        return ciphertext

    async def check_proof(self, device: DeviceInfo, seed: int, product: WorkProduct) -> bool:
        """Whether a GPU's work is what it should be.

        Raises:
            VerifierUnavailableError: The service cannot say.
        """
        question = {
            "device_info": device,
            "seed": seed,
            "work_product": product.model_dump(),
            "check_index": CHECK_INDEX,
        }
        answer = await self._post("/check_proof", question, SERVICE_S_MAX)
        if answer.status in {400, 422} and self._accepted_proof:
            # It took the same device_info and seed for the encryption, and other proofs in this form: what it cannot
            # read is the miner's part. A service of another version reads none, and so is asked in vain.
            return False
        accepted = self._result("/check_proof", answer)
        self._accepted_proof = self._accepted_proof or accepted
        return accepted

    async def verify_device_challenge(self, devices: Sequence[DeviceInfo], challenge: str, response: str) -> bool:
        """Whether an answer to a device challenge is the one of these devices.

        Raises:
            VerifierUnavailableError: The service cannot say.
        """
        question = {"devices": devices, "challenge": challenge, "response": response}
        answer = await self._post("/verify_device_challenge", question, SERVICE_S_MAX)
        return self._result("/verify_device_challenge", answer)

    async def _post(self, path: str, question: Mapping[str, Any], timeout_s: float) -> Answer:
        async with self._turns:
            return await self._exchange.ask_service(
                "POST",
                self._url + path,
                timeout_s=timeout_s,
                bytes_max=SERVICE_BYTES_MAX,
                headers={"Content-Type": "application/json"},
                body=orjson.dumps(question),
            )

    def _require_ok(self, path: str, answer: Answer) -> Answer:
        if answer.status != 200:
            raise VerifierUnavailableError(
                f"{self._url}{path}: found status {answer.status} {_shown(answer.body)}, expected 200; see the log of "
                "the GraVal service"
            )
        return answer

    def _result(self, path: str, answer: Answer) -> bool:
        try:
            return _RESULT.validate_json(self._require_ok(path, answer).body).result
        except ValidationError as error:
            raise VerifierUnavailableError(
                f'{self._url}{path}: found {_shown(answer.body)}, expected {{"result": true}} or false; is it a GraVal '
                "service?"
            ) from error


class _Group(NamedTuple):
    """GPUs of one model at one bootstrap service: what one ``/prove`` asks. ``estimate`` is seconds."""

    model: str
    nodes: tuple[Node, ...]
    estimate: float
    iterations: int

    @property
    def timeout_s(self) -> int:
        return int(self.estimate * PROVE_TIMEOUT)


class _Server(NamedTuple):
    """One bootstrap service, and the GPUs of a claim that it speaks for."""

    host: str
    port: int
    nodes: tuple[Node, ...]
    groups: tuple[_Group, ...]


class _Challenge(NamedTuple):
    """One ``/prove`` as it is sent, and the texts that must come back."""

    seed: int
    texts: dict[str, str]
    body: bytes


class _DecidedError(Exception):
    """The check has come to a finding that is not verified."""

    def __init__(self, finding: str, detail: str) -> None:
        super().__init__(detail)
        self.finding = Finding(finding, detail[:DETAIL_CHARS_MAX])


class _SilentError(_DecidedError):
    """The miner's bootstrap service does not answer."""


class GravalVerifier(Verifier):
    """Verifies through the miner's bootstrap service and the operator's GraVal service; see the module."""

    method = "graval"

    def __init__(self, setup: Setup, table: GpuTable | None = None) -> None:
        """Take what there is.

        Args:
            setup: ``settings.graval.url`` must be set.
            table: Supported GPUs with their estimates; the packaged ones unless given.

        Raises:
            ConfigError: ``verify.graval.url`` is missing.
        """
        super().__init__(setup)
        if setup.settings.graval.url is None:
            raise ConfigError(
                "verify.graval.url: missing; expected the base URL of your GraVal service, such as http://127.0.0.1:8001",
                code=Code.VERIFIER_SETTINGS,
            )
        self._table = table or supported_gpus()
        self._service = GravalService(setup.exchange, setup.settings.graval.url)

    async def start(self) -> None:
        """Say at once, where the operator looks, when the GraVal service is down; it may come up later."""
        model, data = next(iter(self._table.data.items()))
        device = {name: data[name] for name in _DEVICE_INFO if name in data}
        device |= {"uuid": "0" * 32, "name": model, "memory": data["memory"] * 1024**3}
        device["clock_rate"] = data["clock_rate"]["boost"] * 1000.0
        try:
            await self._service.probe(device)
        except VerifierUnavailableError as error:
            log.warning("graval_service_unavailable", error=str(error), code=Code.VERIFIER_UNAVAILABLE)

    def slot_s(self, claim: StoredClaim) -> float:
        """Seconds that a check may take: its time-outs together, and nothing runs longer.

        That is 120 s for the own GraVal service, 60 s for the device challenges, and for each model at one service 2.5
        times its estimate (a whole number) and two early failures of 6 s with pauses of 2 s. For eight H100 SXM at one
        host: 120 + 60 + 175 + 16 = 371 s, of which an honest miner needs 70 to 90 s. 0 for a claim with a model that
        is not in the GPU table: nobody is asked.
        """
        if self._unknown_model(claim) is not None:
            return 0.0
        retries_s = (ATTEMPTS_MAX - 1) * (EARLY_S_MAX + RETRY_PAUSE_S)
        proofs_s = max(sum(group.timeout_s + retries_s for group in server.groups) for server in self._servers(claim))
        return SERVICE_S_MAX + INFO_PHASE_S_MAX + proofs_s

    async def verify(self, claim: StoredClaim) -> Finding:
        """Check the GPUs of a claim; see the module."""
        if (model := self._unknown_model(claim)) is not None:
            return Finding(
                ABSTAIN, f"this validator's GPU table has no model {shown(model)}: it cannot check it before an upgrade"
            )
        slot_s = self.slot_s(claim)
        try:
            async with asyncio.timeout(slot_s):
                await self._check(claim)
        except TimeoutError as error:
            # Every wait for the miner has a smaller bound of its own.
            raise VerifierUnavailableError(
                f"the check was not done after {slot_s:g} s; the GraVal service, or this daemon, is too slow for this "
                "many: give it a faster GPU, or lower verify.checks_at_once"
            ) from error
        except _SilentError as silent:
            return self._silence(claim, silent.finding)
        except _DecidedError as decided:
            return decided.finding
        return Finding(VERIFIED)

    def _silence(self, claim: StoredClaim, finding: Finding) -> Finding:
        """What silence means: while a claim is young, that it failed; later, that nobody can check it again.

        Today's miners run the bootstrap service while they register GPUs, and take it away then.
        """
        age_s = self.setup.now_s() - hlc_ms(claim.created_hlc) / 1000
        if age_s < self.setup.network.verdict_ttl_s * RENEW_EARLIEST:
            return finding
        return Finding(ABSTAIN, f"cannot be checked again: {finding.detail}"[:DETAIL_CHARS_MAX])

    def _unknown_model(self, claim: StoredClaim) -> str | None:
        models = (node.gpu_identifier for node in claim.body.nodes)
        return next((model for model in models if "graval" not in self._table.data.get(model, {})), None)

    def _servers(self, claim: StoredClaim) -> list[_Server]:
        """The claim's GPUs by service, in the claim's order."""
        found: dict[tuple[str, int], list[Node]] = {}
        for node in claim.body.nodes:
            found.setdefault((node.verification_host, node.verification_port), []).append(node)
        return [_Server(host, port, tuple(nodes), self._groups(nodes)) for (host, port), nodes in found.items()]

    def _groups(self, nodes: Iterable[Node]) -> tuple[_Group, ...]:
        found: dict[str, list[Node]] = {}
        for node in nodes:
            found.setdefault(node.gpu_identifier, []).append(node)
        return tuple(
            _Group(model, tuple(nodes), graval["estimate"], graval["iterations"])
            for model, nodes in found.items()
            for graval in [self._table.data[model]["graval"]]
        )

    async def _check(self, claim: StoredClaim) -> None:
        """Return when all is well.

        Raises:
            _DecidedError: The miner failed, or does not let this validator in.
        """
        for node in claim.body.nodes:
            try:
                self._table.check([node])
            except GpuSpecError as error:
                _fail(node, printable(str(error)), "register what GET /devices of the bootstrap service lists")
        checks = [
            _ServerCheck(self.setup, self._service, self._table, server, ss58_encode(claim.miner))
            for server in self._servers(claim)
        ]
        await _together(check.challenge_devices() for check in checks)
        await _together(check.prepare() for check in checks)
        await _together(check.prove() for check in checks)


class _ServerCheck:
    """The check of one bootstrap service, in three steps that the caller takes in order."""

    def __init__(self, setup: Setup, service: GravalService, table: GpuTable, server: _Server, miner: str) -> None:
        self._setup = setup
        self._service = service
        self._server = server
        self._miner = miner
        self._url = self._base_url()
        self._devices = {node.uuid: _device_info(table, node) for node in server.nodes}
        self._challenges: list[_Challenge] = []
        self._info_left_s = INFO_PHASE_S_MAX
        self._info_silent = 0

    def _base_url(self) -> str:
        try:
            return host_url(self._server.host, self._server.port)
        except NoAnswerError as error:
            _fail(self._server.nodes[0], str(error), "register it with the public address of its bootstrap service")

    async def challenge_devices(self) -> None:
        """Ask for the devices, 20 times."""
        for number in range(1, INFO_CHALLENGES + 1):
            challenge, response = await self._ask_device(number)
            if not await self._service.verify_device_challenge(list(self._devices.values()), challenge, response):
                _fail(
                    self._asked(number),
                    f"GET /info: wrong answer to device challenge {number} of {INFO_CHALLENGES}",
                    "register exactly the GPUs that GET /devices of the bootstrap service lists, in its order",
                )

    def _asked(self, number: int) -> Node:
        """The GPU that a device challenge, from 1, asks: all of them in turn, in the claim's order."""
        return self._server.nodes[(number - 1) % len(self._server.nodes)]

    async def _ask_device(self, number: int) -> tuple[str, str]:
        """One device challenge and its answer, before the time for all of them is over."""
        # What validators send today begins with the index of the device that is asked.
        index = bytes([self._server.nodes.index(self._asked(number))])
        while True:
            challenge = (index + self._setup.randbytes(CHALLENGE_BYTES - 1)).hex()
            begun_s = steady_s()
            try:
                answer = await self._ask(
                    "GET",
                    f"/info?challenge={challenge}",
                    PURPOSE,
                    timeout_s=min(INFO_S_MAX, self._info_left_s),
                    bytes_max=INFO_BYTES_MAX,
                )
            except NoAnswerError as error:
                self._info_silent += 1
                self._info_left_s -= steady_s() - begun_s + RETRY_PAUSE_S
                if self._info_silent == ATTEMPTS_MAX:
                    self._fail_silent(f"GET /info: {error}", self._info_silent, INFO_S_MAX)
                self._require_time_left(number)
                await asyncio.sleep(RETRY_PAUSE_S)
            else:
                self._info_left_s -= max(0.0, answer.elapsed_s - LATE_STEPS * answer.late_s)
                self._require_time_left(number)
                return challenge, self._read_info(answer)

    def _require_time_left(self, number: int) -> None:
        if self._info_left_s <= 0:
            _fail(
                self._asked(number),
                f"GET /info: {INFO_PHASE_S_MAX:g} s were over at device challenge {number} of {INFO_CHALLENGES}, "
                "expected less for all",
                "free the host's CPU and network while it is verified",
            )

    async def prepare(self) -> None:
        """Make the first challenge of each model, so that all services can begin at the same moment."""
        self._challenges = await _together(self._prepare(group) for group in self._server.groups)

    async def prove(self) -> None:
        """Let the GPUs work, model by model, and judge what comes back."""
        for group, challenge in zip(self._server.groups, self._challenges, strict=True):
            await self._prove(group, challenge)

    async def _prepare(self, group: _Group) -> _Challenge:
        seed = (int.from_bytes(self._setup.randbytes(8), "big") & INT_MAX) or 1
        texts = {node.uuid: f"decrypt me please: {self._random_uuid()}" for node in group.nodes}
        ciphertexts = await _together(
            self._service.encrypt(self._devices[name], text, seed, group.iterations) for name, text in texts.items()
        )
        content = {
            "seed": seed,
            "iterations": group.iterations,
            "ciphertext": dict(zip(texts, ciphertexts, strict=True)),
        }
        return _Challenge(seed, texts, orjson.dumps(content))

    def _random_uuid(self) -> uuid.UUID:
        return uuid.UUID(bytes=self._setup.randbytes(16), version=4)

    async def _prove(self, group: _Group, challenge: _Challenge) -> None:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            begun_s = steady_s()
            try:
                answer = await self._ask(
                    "POST",
                    "/prove",
                    sha256(challenge.body).hexdigest(),
                    timeout_s=group.timeout_s,
                    bytes_max=PROOF_BYTES_MAX * len(group.nodes),
                    body=challenge.body,
                )
            except NoAnswerError as error:
                if attempt == ATTEMPTS_MAX or steady_s() - begun_s > EARLY_S_MAX:
                    self._fail_silent(f"POST /prove: {error}", attempt, group.timeout_s)
                await asyncio.sleep(RETRY_PAUSE_S)
                challenge = await self._prepare(group)  # never the same work again: it may have gone on meanwhile
            else:
                await self._judge(group, challenge, answer)
                return

    async def _judge(self, group: _Group, challenge: _Challenge, answer: Answer) -> None:
        """Look for what is wrong with the answer to ``/prove``, the plain lies first."""
        try:
            proof = await asyncio.to_thread(_read_proof, answer.body)
        except ValueError as error:
            _fail(
                group.nodes[0],
                f"POST /prove: {error}",
                "run the GraVal bootstrap service in the version that validators support",
            )
        if proof.seed != challenge.seed:
            _fail(
                group.nodes[0],
                "POST /prove: found the answer to a challenge with another seed, expected this one's",
                "answer each challenge on its own",
            )
        for node in group.nodes:
            _judge_devices(node, proof)
        for named in (proof.proof, proof.plaintext):
            if others := named.keys() - challenge.texts.keys():
                _fail(
                    group.nodes[0],
                    f"POST /prove: found an answer for GPU {shown(min(others))}, too, which was not asked",
                    "answer for the GPUs of the challenge only",
                )
        for node in group.nodes:
            if proof.plaintext[node.uuid] != challenge.texts[node.uuid]:
                _fail(
                    node,
                    f"POST /prove: found plaintext {shown(proof.plaintext[node.uuid])}, expected the text that was "
                    "encrypted for this GPU",
                    "the GPU there is another than the one claimed, or its memory is faulty: check it, and register "
                    "what is there",
                )
        _judge_time(group, answer)
        verified = await _together(
            self._service.check_proof(self._devices[node.uuid], challenge.seed, proof.proof[node.uuid].work_product)
            for node in group.nodes
        )
        for node, right in zip(group.nodes, verified, strict=True):
            if not right:
                _fail(
                    node,
                    "POST /prove: its proof of work is wrong",
                    "the work was not done by this GPU: register what is there",
                )

    async def _ask(
        self, method: str, path: str, tail: str, *, timeout_s: float, bytes_max: int, body: bytes | None = None
    ) -> Answer:
        """Send a request, signed now, and return an answer with status 200.

        Raises:
            NoAnswerError: There was none, or it says that the service is not ready; another try may help.
            VerifierUnavailableError: This validator's own fault.
            _DecidedError: Any other answer.
        """
        headers = signed_headers(self._setup.signer, self._miner, self._setup.now_s(), tail)
        if body is not None:
            headers["Content-Type"] = "application/json"
        answer = await self._setup.exchange.ask_host(
            method, self._url + path, timeout_s=timeout_s, bytes_max=bytes_max, headers=headers, body=body
        )
        if answer.status in _NOT_NOW:
            raise NoAnswerError(f"found status {answer.status} {_shown(answer.body)}")
        if answer.status != 200:
            self._refuse(f"{method} {path.partition('?')[0]}", answer)
        return answer

    def _refuse(self, call: str, answer: Answer) -> NoReturn:
        node, found = self._server.nodes[0], f"{call}: found status {answer.status} {_shown(answer.body)}"
        if answer.status in {401, 403}:
            raise _DecidedError(
                ABSTAIN,
                f"{found}: this validator may not check; put {self._setup.signer.address} on the allow-list of the "
                "bootstrap service, and set the host's clock, to have its vote",
            )
        if 300 <= answer.status < 400:
            _fail(
                node,
                f"{call}: found a redirect (status {answer.status}), which is not followed, expected an answer",
                "give the bootstrap service's own address as verification_host and verification_port",
            )
        _fail(node, f"{found}, expected 200", "see the log of the bootstrap service")

    def _read_info(self, answer: Answer) -> str:
        response = answer.body.decode(errors="replace")
        if len(response) != INFO_CHARS or not (response.isascii() and response.isprintable()):
            _fail(
                self._server.nodes[0],
                f"GET /info: found {shown(response)}, expected {INFO_CHARS} characters",
                "run the GraVal bootstrap service in the version that validators support",
            )
        return response

    def _fail_silent(self, what: str, attempts: int, timeout_s: float) -> NoReturn:
        times = f", {attempts} times" if attempts > 1 else ""
        raise _SilentError(
            FAILED,
            f"GPU {self._server.nodes[0].uuid}: {what}{times}, expected an answer within {timeout_s:g} s; run the "
            "bootstrap service, and open its port to validators",
        )


def _fail(node: Node, what: str, then: str) -> NoReturn:
    """End the check: what was found and expected at a GPU, and what its miner can do."""
    raise _DecidedError(FAILED, f"GPU {node.uuid}: {what}; {then}")


def _judge_devices(node: Node, proof: Proof) -> None:
    """Require that the work of one GPU is there, and was done by the GPU itself."""
    device = proof.proof.get(node.uuid)
    if device is None or node.uuid not in proof.plaintext:
        missing = "proof" if device is None else "plaintext"
        _fail(
            node,
            f"POST /prove: found no {missing} of this GPU",
            "let the bootstrap service see every GPU that is claimed, or claim those that it sees",
        )
    if _bare(device.device_uuid) != _bare(node.uuid):
        _fail(
            node,
            f"POST /prove: found the work of GPU {shown(device.device_uuid)}, expected its own",
            "register the GPU that is there",
        )
    if device.device_name != node.name:
        _fail(
            node,
            f"POST /prove: found the work of a {shown(device.device_name)}, expected a {shown(node.name)}",
            "register the GPU that is there",
        )


def _judge_time(group: _Group, answer: Answer) -> None:
    """Require that the work took about as long as the GPU table says.

    The true time lies between ``elapsed_s`` less the event loop's lateness at each step, and ``elapsed_s``: who is late
    sends and reads late, never early.

    Raises:
        VerifierUnavailableError: Both in and out of the bounds is possible.
    """
    low_s, high_s = FASTEST * group.estimate, SLOWEST * group.estimate
    shortest_s = answer.elapsed_s - LATE_STEPS * answer.late_s
    found = (
        f"POST /prove: found an answer after {answer.elapsed_s:.1f} s, expected {low_s:.1f} to {high_s:.1f} s for "
        f"{group.model}"
    )
    if answer.elapsed_s <= low_s:
        _fail(group.nodes[0], found, "so little time is not the work of this model: register the GPU that is there")
    if shortest_s >= high_s:
        _fail(
            group.nodes[0],
            found,
            "let nothing else run on the GPUs while they are verified, and register the model that is there",
        )
    if shortest_s <= low_s or answer.elapsed_s >= high_s:
        raise VerifierUnavailableError(
            f"this daemon was busy for {answer.late_s:.1f} s while it timed a GPU's work; give it more CPU"
        )


def _read_proof(body: bytes) -> Proof:
    """Read the answer to ``/prove``; up to 10 MiB, so not in the event loop.

    Raises:
        ValueError: Its text says what is wrong, in one bounded line.
    """
    try:
        proof = Proof.model_validate(parse_json(body))
        orjson.dumps(proof.model_dump())  # hashes may hold numbers and texts that the GraVal service cannot be sent
        return proof
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        key = printable(".".join(map(str, details["loc"])) or "the answer")[:NAME_CHARS_MAX]
        if details["type"] == "missing":
            raise ValueError(f"found no {key} in the answer, expected one") from error
        raise ValueError(f"{key}: {found_and_expected(details, key)}") from error
    except orjson.JSONEncodeError as error:
        raise ValueError(f"intermediate_hashes: {printable(str(error))}") from error
    except ValueError as error:
        raise ValueError(f"found no JSON: {printable(str(error))}") from error


def _device_info(table: GpuTable, node: Node) -> DeviceInfo:
    """A GPU as GraVal is told of it: the claim's fields, completed by the table; absent ones dropped."""
    fields = table.fill(node)
    return {name: fields[name] for name in _DEVICE_INFO if fields[name] is not None}


def _bare(name: str) -> str:
    """A GPU uuid without the dashes, the prefix and the capitals that NVML gives it and miners leave out."""
    return name.lower().removeprefix("gpu-").replace("-", "")


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False


def _shown(body: bytes) -> str:
    return shown(body[:FOUND_CHARS_MAX].decode(errors="replace"))


async def _together(work: Iterable[Coroutine[Any, Any, _Value]]) -> list[_Value]:
    """Run at once, results in order; the first failure ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except ExceptionGroup as errors:
        failure = errors.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise failure
