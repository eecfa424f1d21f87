"""The device's own side of an open round: consent, training, clipping, the answer. It opens no store and no socket.

`client_app` hands over a request and gets an update or an `UpdateError`; it sees no record.
"""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from engine.device.device import Device
from engine.errors import BudgetError, ChangedMeanwhileError, ConsentError
from engine.model.training import TrainingPlan
from engine.owner.account import digest
from engine.owner.consent import PERSONALIZATION
from engine.owner.modes import CENTRAL, OPEN
from federation.agent.choice_request import ChoiceRequest, choice_answer
from federation.agent.entry import WIRE, entry
from federation.agent.limits import MOST_LOCAL_STEPS
from federation.agent.private import PrivateAgent, require_participations_left
from federation.agent.terms import NoisyTerms, asked_hash
from federation.agent.update import check_lengths, update_of
from federation.errors import UpdateError
from federation.privacy.sampling import drawn
from federation.privacy.stream import SecureStream
from federation.privacy.update import Floats, clip

_ATTEMPTS = 3  # To make an update while the device is used by others.


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What the server asks for in a round; all of it is public."""

    run: str  # which federation asks, as its messages name it: nothing proves it in open mode
    flat: Floats  # the global model, (d,)
    catalogue: str  # the fingerprint of the labels that its rows are of
    server_round: int
    mode: str
    hold_back: bool
    plan: TrainingPlan
    clip_norm: float
    seed: int

    purpose = PERSONALIZATION

    def digest(self) -> str:
        """SHA-256, in hex, of all that is asked."""
        terms = asdict(self) | {"flat": digest(self.flat.tobytes())}
        return digest(json.dumps(terms, sort_keys=True).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsRequest:
    """What the server asks for in a Newton step of the re-scorer's weights; all of it is public."""

    run: str
    flat: Floats  # the global model, (d,)
    catalogue: str  # the fingerprint of the labels that its rows are of
    weights: npt.NDArray[np.float64]  # the population weights so far, (k,)
    server_round: int
    mode: str
    clip_norm: float

    purpose = PERSONALIZATION

    def digest(self) -> str:
        """SHA-256, in hex, of all that is asked."""
        terms = asdict(self) | {"flat": digest(self.flat.tobytes()), "weights": digest(self.weights.tobytes())}
        return digest(json.dumps(terms, sort_keys=True).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class CentralRequest:
    """What the server asks for in a round of central mode; all of it is public."""

    terms: NoisyTerms
    flat: Floats  # the global model, (d,)

    purpose = PERSONALIZATION

    @property
    def run(self) -> str:
        """Which federation asks."""
        return self.terms.run

    @property
    def server_round(self) -> int:
        """The round's number."""
        return self.terms.server_round

    @property
    def mode(self) -> str:
        """The terms' own."""
        return self.terms.mode

    def digest(self) -> str:
        """SHA-256, in hex, of all that is asked."""
        return asked_hash(self.terms.to_bytes(), self.flat).hex()


Request = CentralRequest | TrainRequest | StatisticsRequest | ChoiceRequest


class Agent:
    """One device's agent. It holds the open `Device` and decides what leaves it."""

    def __init__(self, device: Device) -> None:
        self.device, self.private = device, PrivateAgent(device)

    def train(self, request: TrainRequest, *, node_id: int) -> Floats:
        """Return global + clipped delta, float32 (d,), once the device's ledger says so.

        Asked for the same again, it is the same, and no memory is looked at. Raises `UpdateError` if the device does
        not take part.
        """
        if request.plan.steps > MOST_LOCAL_STEPS:
            raise UpdateError(
                f"The server asks for {request.plan.steps} local steps, at most {MOST_LOCAL_STEPS} are taken."
            )
        self._require_same_catalogue(request)
        return self._answered(request, lambda: self._trained(request, node_id))

    def statistics(self, request: StatisticsRequest) -> Floats:
        """Return the re-scorer's statistics, float32 (ANSWER_LENGTH,), clipped as one; else as :meth:`train`."""
        self._require_same_catalogue(request)
        return self._answered(request, lambda: self._counted(request))

    def choices(self, request: ChoiceRequest) -> Floats:
        """Return the sums about choices, float32 (`ChoiceRequest.length`,), clipped; else as :meth:`train`."""
        return self._answered(request, lambda: choice_answer(self.device, request))

    def central(self, request: CentralRequest, *, node_id: int) -> Floats:
        """Return this device's part by the terms, float32 (d,), clipped, if it draws itself into the round."""
        terms = request.terms
        if terms.mode != CENTRAL:
            raise UpdateError(f"Expected terms of a round in central mode, got {terms.mode!r}.")
        check_lengths(terms, self.device.model, request.flat)

        def update() -> Floats:
            require_participations_left(self.device.account, terms)
            self._draw(request)
            rng = np.random.default_rng([terms.seed, terms.server_round, node_id])
            return clip(update_of(self.device, terms, request.flat, rng=rng), terms.clip_norm)

        return self._answered(request, update, rho=terms.rho)

    def _draw(self, request: CentralRequest) -> None:
        """Raise `UpdateError` unless the device draws itself; asked for the same again it does not draw anew."""
        stage, asked = self.device.stage, request.digest().encode()
        if stage.declined == asked:
            raise UpdateError("This device did not draw itself into the round.")
        if not drawn(request.terms.q, SecureStream()):
            stage.decline(asked)
            raise UpdateError("This device did not draw itself into the round.")

    def _require_same_catalogue(self, request: TrainRequest | StatisticsRequest) -> None:
        """Raise `UpdateError` unless the request's numbers stand for the labels that this device knows.

        Another version may have as many labels: what was added up then would mean something else.
        """
        if request.catalogue != self.device.model.catalogue.fingerprint:
            raise UpdateError("This device has another version of the catalogue than the server asks about.")

    def _answered(self, request: Request, make: Callable[[], Floats], *, rho: float | None = None) -> Floats:
        if request.mode != (OPEN if rho is None else CENTRAL):
            raise UpdateError(f"This agent knows no such rounds in the mode {request.mode!r}.")
        try:
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(ChangedMeanwhileError):
                    return self._given(request, make, rho)
        except (ConsentError, BudgetError) as error:
            raise UpdateError(str(error)) from None
        raise UpdateError("The device was used all the while that its update was made.")

    def _given(self, request: Request, make: Callable[[], Floats], rho: float | None) -> Floats:
        """What leaves, noted. Raises `ConsentError`, `BudgetError` and `ChangedMeanwhileError`."""
        asked, standing = request.digest(), self.device.account.standing()
        sent = self.device.contribute_again(asked, mode=request.mode, purpose=request.purpose)
        if sent is not None:
            return np.frombuffer(sent, dtype=WIRE).astype(np.float32)
        # Before the work, which would be in vain; and once more where it is charged.
        self.device.account.require_left(now=time.time(), rho=rho)
        update = make()
        payload = update.astype(WIRE).tobytes()
        its = entry(request, request.flat, asked=asked, payload=payload, rho=rho)
        self.device.contribute(its, payload, standing=standing)
        return update

    def _trained(self, request: TrainRequest, node_id: int) -> Floats:
        rng = np.random.default_rng([request.seed, request.server_round, node_id])
        trained = self.device.train(request.flat, plan=request.plan, hold_back=request.hold_back, rng=rng)
        return request.flat + clip(trained - request.flat, request.clip_norm)

    def _counted(self, request: StatisticsRequest) -> Floats:
        statistics = self.device.rescorer_statistics(request.flat, request.weights)
        return clip(statistics.astype(np.float32), request.clip_norm)
