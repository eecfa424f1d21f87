"""The same apps on a real SuperLink with two SuperNodes, on the loopback: a smoke test of deployment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.device.device import Device, Memory
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint
from engine.model.inputs import encode_inputs
from engine.personal.together import ANSWER_LENGTH
from store import DeviceKey

ROUNDS = 1


@contextlib.contextmanager
def running(arguments: list[str], *, env: dict[str, str], cwd: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process and what it starts, in a session of their own that ends with the block."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            arguments, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def flwr(bin: Path, *arguments: Any, env: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [bin / "flwr", *map(str, arguments)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(what: Callable[[], Any], *, seconds: float, logs: list[Path]) -> Any:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if found := what():
            return found
        time.sleep(0.5)
    told = "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in logs)
    raise AssertionError(f"Nothing came within {seconds} s.\n{told}")


def test_rounds_run_on_a_superlink_with_two_supernodes(
    tmp_path: Path, tree: Path, clean_env: dict[str, str], program: str, encoder: Any, free_port: Callable[[], int]
) -> None:
    bin, port = Path(program).parent, free_port()
    # From the bundle, not from this checkout.
    env = {name: value for name, value in clean_env.items() if name != "PYTHONPATH"}
    env |= {"PATH": f"{bin}{os.pathsep}{env['PATH']}", "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
    home = Path(env["FLWR_HOME"])
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "smoke"\n\n[superlink.smoke]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )

    start = start_checkpoint(Catalogue.from_names(["taxi", "pizza", "opera"]), encoder)
    start.save(tmp_path / "start.safetensors")
    said = [
        [("a cab to the airport", "taxi"), ("drive me home", "taxi")],
        [("two slices with cheese", "pizza"), ("seats for the evening", "opera")],
    ]
    for number, memories in enumerate(said):
        key = DeviceKey.generate()
        key.write(tmp_path / f"{number}.key")
        with Device.create(tmp_path / f"device{number}", key, model=start, encoder=encoder) as device:
            device.allow_rounds("open")
            device.remember_many([Memory(text=text, label=label) for text, label in memories * 20])

    out = tmp_path / "out"
    out.mkdir()
    logs = [tmp_path / f"{name}.log" for name in ("link", "node0", "node1", "agent0", "agent1")]
    with contextlib.ExitStack() as stack:
        sockets = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(
            running(
                [
                    str(bin / "flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port),
                    "--database", str(tmp_path / "state.db"), "--disable-runtime-dependency-installation",
                ],
                env=env, cwd=tmp_path, log=logs[0],
            )
        )  # fmt: skip
        for number in range(2):
            # Names of sockets have an end, and a test's folder may lie deep.
            agent = f"{sockets}/{number}"
            stack.enter_context(
                running(
                    [
                        str(bin / "tacit"), "device", "agent", str(tmp_path / f"device{number}"), "--socket", agent,
                        "--key-file", str(tmp_path / f"{number}.key"),
                    ],
                    env=env, cwd=tmp_path, log=logs[3 + number],
                )
            )  # fmt: skip
            node_config = f'agent="{agent}"'
            stack.enter_context(
                running(
                    [
                        str(bin / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}",
                        "--host", "127.0.0.1", "--port", str(free_port()), "--node-config", node_config,
                    ],
                    env=env | {"FLWR_HOME": str(tmp_path / f"home{number}")}, cwd=tmp_path, log=logs[1 + number],
                )
            )  # fmt: skip

        def submitted() -> bool:
            done = subprocess.run(
                [
                    bin / "flwr", "run", tree, "smoke", "-c",
                    f'rounds={ROUNDS} cohort=2 min-replies=2 strategy="fedavg" learning-rate=30.0 ridge=0.0 '
                    f'model="{tmp_path}/start.safetensors" out="{out}"',
                ],
                env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            return done.returncode == 0

        wait_for(submitted, seconds=40, logs=logs)

        def ended() -> str:
            listed = json.loads(flwr(bin, "list", "smoke", "--format", "json", env=env, cwd=tmp_path))
            status = str(listed["runs"][0]["status"])
            return status if status.startswith("finished") else ""

        status = wait_for(ended, seconds=80, logs=logs)
        told = "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)
        assert status == "finished:completed", told

    trained = Checkpoint.load(out / "checkpoint.safetensors")
    assert trained.round == ROUNDS + 3  # Three Newton steps end a run.
    assert trained.learned is not None
    # Both devices contributed: a label's vector moves towards a text only where someone remembers it with that label.
    moved = (trained.flat - start.flat).reshape(3, -1)[:, :-1]
    for memories in said:
        for text, label in memories:
            x = encode_inputs([text], encoder, start.dimension)[0]
            assert moved[start.catalogue.index(label)] @ x > 0.001
    for number in range(2):
        with Device.open(
            tmp_path / f"device{number}", DeviceKey.from_file(tmp_path / f"{number}.key"), encoder=encoder
        ) as device:
            told = device.account.contributions()
            trains, steps = range(1, ROUNDS + 1), range(ROUNDS + 1, ROUNDS + 4)
            assert [(its.round, its.size_bytes) for its in told] == [
                *((n, 4 * start.flat.size) for n in trains),
                *((n, 4 * ANSWER_LENGTH) for n in steps),
            ]
            device.load_model(trained)
            assert device.model.round == ROUNDS + 3
    secret = said[0][0][0].encode()
    for log in logs:
        assert secret not in log.read_bytes()
