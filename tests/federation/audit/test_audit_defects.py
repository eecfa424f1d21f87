"""Each seeded defect, put into one function of the running code, is a breach."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.audit_defects import DEFECTS
from engine.owner.modes import OPEN
from federation.audit import wire
from federation.audit.finding import Ground


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if defect.slow else ()) for name, defect in DEFECTS.items()]
)
def test_a_defect_is_a_breach(name: str, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "LANES", [wire.Lane(mode=OPEN, quick=2, full=2)])  # One lane says it.
    defect = DEFECTS[name]
    with defect.put_in():
        found = [finding for audit in defect.audits for finding in audit(ground)]
    for wanted in defect.breaches:
        verdicts = {
            finding.verdict for finding in found if finding.name.startswith(wanted) and finding.limit is not None
        }
        assert verdicts == {"breach"}, (wanted, found)


def test_what_has_to_be_caught_is_among_the_defects() -> None:
    names: set[Any] = {name.split(",")[0] for name in DEFECTS}
    assert names == {
        "no noise",
        "a third of the noise",
        "weights by memories",
        "unclipped NaN",
        "32-bit mask keys",
        "a skipped ledger",
    }
