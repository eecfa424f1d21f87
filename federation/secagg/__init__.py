"""Secure sums: a server learns the sum of many devices' vectors modulo 2^32, and nothing of one, even if it lies.

``PROTOCOL.md`` beside this file has the messages, who sees what, what each side refuses, and proofs.

>>> parameters(300, dropout=0.3, colluding=0.1).neighbours
72
"""

from federation.secagg.device import Answer, DeviceRound, Started
from federation.secagg.errors import (
    FloorError,
    GraphError,
    ModelError,
    ParameterError,
    PeerKeyError,
    ReplayError,
    RosterError,
    RosterRollbackError,
    SecAggError,
    StateError,
    SurvivorError,
    UnmaskError,
    WireError,
)
from federation.secagg.keys import SigningKey
from federation.secagg.messages import sizes
from federation.secagg.parameters import Parameters, parameters
from federation.secagg.roster import Roster, open_roster, sign_roster, unsigned_roster
from federation.secagg.server import ServerRound
from federation.secagg.terms import Announcement, History, Policy, Terms

__all__ = [
    "Announcement",
    "Answer",
    "DeviceRound",
    "FloorError",
    "GraphError",
    "History",
    "ModelError",
    "ParameterError",
    "Parameters",
    "PeerKeyError",
    "Policy",
    "ReplayError",
    "Roster",
    "RosterError",
    "RosterRollbackError",
    "SecAggError",
    "ServerRound",
    "SigningKey",
    "Started",
    "StateError",
    "SurvivorError",
    "Terms",
    "UnmaskError",
    "WireError",
    "open_roster",
    "parameters",
    "sign_roster",
    "sizes",
    "unsigned_roster",
]
