"""The ceiling of label habits: Bayes' rule with a device's shares, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import ceiling
from benchmarks.parts import Ready
from engine.personal.rescorer import Evidence, LabelledMemory, log_softmax


def device(y: list[int], truth: list[int], logits: list[list[float]]) -> Ready:
    logs = log_softmax(np.zeros((len(y), 3)))
    memory = LabelledMemory(x=np.eye(len(y), dtype=np.float32), y=np.array(y), global_log=logs, public=3)
    return Ready(
        memory=memory,
        evidence=Evidence(rows=np.arange(len(y)), global_log=logs),
        asked_log=log_softmax(np.array(logits)),
        asked=np.zeros((len(truth), len(y)), dtype=np.float32),
        truth=np.array(truth),
    )


@pytest.mark.parametrize(("told_all", "shares"), [(False, [2.5, 0.5, 1.5]), (True, [2.5, 2.5, 1.5])])
def test_shares_are_those_after_the_memories_and_where_told_after_all_requests(
    told_all: bool, shares: list[float]
) -> None:
    one = device([0, 0, 2], [1, 1, -1], [[0.0, 0.2, 0.1]] * 3)
    got = ceiling.by_shares([one], 0.5, told_all=told_all)(one)
    # All labels are alike to the shared model, so only the device's shares weigh them.
    expected = one.asked_log + np.log(shares)
    np.testing.assert_allclose(got - got[:, :1], expected - expected[:, :1], rtol=1e-12)


def test_a_file_that_names_users_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"user": "a", "order": 0, "text": "a taxi", "label": "taxi"}\n', encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["ceiling", str(file)])
    with pytest.raises(SystemExit):
        ceiling.main()
    assert "names users" in capsys.readouterr().err
