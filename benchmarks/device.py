"""What a device takes to answer, with the default encoder and with its reference: `python -m benchmarks.device`.

Prints, for ONNX Runtime and for sentence-transformers, CPU-seconds from the start of a process to its first answer, the
export that happens once on a machine, CPU-milliseconds of an utterance (encoding, `suggest`, `remember` with its
commit), of a personalization anew after a change of the memory, and the process's memory; then the commands
`tacit device suggest`, `search` and `remember`, each as a process of its own. All processes are told to compute on one
thread (`OMP_NUM_THREADS=1`), since threads that wait for each other count as CPU time. Options: --memories, --repeats,
--json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from federation.population import generate

ENCODERS = ("onnx", "sentence-transformers")
BOUNDS = {"cold_cpu_s": 2.0, "encode_cpu_ms": 10.0, "personalize_cpu_ms": 20.0}
ASKED = 100
Figures = dict[str, float]


def texts(count: int) -> list[tuple[str, str]]:
    """``count`` different requests of generated people, each with its service."""
    rows = {row.text: row.label for row in generate(4 + count // 50, seed=0).rows}
    return list(rows.items())[:count]


def prepare(folder: Path, memories: Sequence[tuple[str, str]]) -> None:
    """Make a device with these memories in ``folder``, and its key beside it. Also exports the encoder, if need be."""
    from engine.device.device import Device, Memory
    from store import DeviceKey, FileSecret

    key = DeviceKey.generate()
    key.write(folder / "key")
    with Device.create(folder / "phone", key, secret=FileSecret(folder / "secret")) as device:
        device.remember_many([Memory(text=text, label=label) for text, label in memories])


def answers(name: str, folder: Path, asked: Sequence[tuple[str, str]]) -> Figures:
    """The figures of one encoder, in a process that has done nothing before."""
    from engine.device.device import Device
    from engine.encoders.encoder import load_encoder
    from engine.encoders.sentence_encoder import SentenceEncoder
    from store import DeviceKey, FileSecret

    encoder = load_encoder() if name == "onnx" else SentenceEncoder.reference()
    key = DeviceKey.from_file(folder / "key")
    with Device.open(folder / "phone", key, encoder=encoder, secret=FileSecret(folder / "secret")) as device:
        device.suggest(asked[0][0])
        cold = time.process_time()
        # Each is asked for texts that were not asked for before.
        some = len(asked) // 4
        encoding = _each(lambda row: encoder.encode([row[0]]), asked[:some])
        suggesting = _each(lambda row: device.suggest(row[0]), asked[some : 2 * some])
        remembering = _each(lambda row: device.remember(row[0], label=row[1]), asked[2 * some : 3 * some])
        anew = []
        for text, label in asked[3 * some :]:
            device.remember(text, label=label)  # So that the next suggestion finds the personalization out of date.
            anew.append(_each(lambda row: device.suggest(row[0]), [(text, label)]))
    return {
        "cold_cpu_s": cold,
        "encode_cpu_ms": encoding,
        "suggest_cpu_ms": suggesting,
        "remember_cpu_ms": remembering,
        "personalize_cpu_ms": statistics.median(anew) - suggesting,
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def _each(step: Callable[[tuple[str, str]], object], rows: Sequence[tuple[str, str]]) -> float:
    """The median CPU-milliseconds of a step."""
    taken = []
    for row in rows:
        began = time.process_time()
        step(row)
        taken.append(1e3 * (time.process_time() - began))
    return statistics.median(taken)


def export_cpu_s() -> float:
    """CPU-seconds of the export that happens once on a machine."""
    from engine.encoders.encoder import default_encoder_path
    from engine.encoders.onnx_encoder import exported

    began = time.process_time()
    exported(default_encoder_path())
    return time.process_time() - began


def afresh(function: Callable[..., object], *given: object) -> object:
    """What ``function`` returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


def command_cpu_s(folder: Path, *words: str) -> float:
    """CPU-seconds of one `tacit device` command as a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "tacit", "device", words[0], str(folder / "phone"), *words[1:]]
    subprocess.run([*command, "--key-file", str(folder / "key")], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder: Path, memories: int, repeats: int) -> dict[str, Figures]:
    """All figures by encoder, and those of the commands; medians of ``repeats`` processes, in turns."""
    rows = texts(memories + ASKED)
    kept, asked = rows[:memories], rows[memories:]
    os.environ["TACIT_CACHE_DIR"], os.environ["TACIT_STATE_DIR"] = str(folder / "cache"), str(folder / "state")
    os.environ["OMP_NUM_THREADS"] = "1"
    export = afresh(export_cpu_s)
    assert isinstance(export, float)
    seen: dict[str, list[Figures]] = {name: [] for name in ENCODERS}
    commands: list[Figures] = []
    for turn in range(repeats):
        for name in ENCODERS:
            home = folder / f"{name} {turn}"
            home.mkdir()
            afresh(prepare, home, kept)
            figures = afresh(answers, name, home, asked)
            assert isinstance(figures, dict)
            seen[name].append(figures)
        # The commands look for the device secret where they keep it themselves.
        home = folder / f"commands {turn}"
        home.mkdir()
        lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in kept)
        (home / "lines.jsonl").write_text(lines, encoding="utf-8")
        command_cpu_s(home, "create")
        command_cpu_s(home, "remember", "--file", str(home / "lines.jsonl"))
        commands.append(
            {
                "suggest_cpu_s": command_cpu_s(home, "suggest", asked[0][0]),
                "search_cpu_s": command_cpu_s(home, "search", asked[1][0]),
                "remember_cpu_s": command_cpu_s(home, "remember", asked[2][0], "--label", asked[2][1]),
            }
        )
    result = {name: _medians(runs) for name, runs in seen.items()}
    result["onnx"]["export_cpu_s"] = export
    return result | {"commands": _medians(commands)}


def _medians(runs: Sequence[Figures]) -> Figures:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", type=int, default=200, help="how many memories the device holds")
    parser.add_argument("--repeats", type=int, default=3, help="how many processes of each kind")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), asked.memories, asked.repeats)
    if asked.json:
        print(json.dumps({"memories": asked.memories, "bounds": BOUNDS, **figures}, indent=2))
        return
    onnx, reference, commands = figures["onnx"], figures["sentence-transformers"], figures["commands"]
    print(f"A device with {asked.memories} memories; medians of {asked.repeats} processes")
    print(f"  {'':42} {'ONNX Runtime':>13} {'sentence-tr.':>13}")
    for key, title in (
        ("cold_cpu_s", "CPU-s from nothing to the first answer"),
        ("encode_cpu_ms", "CPU-ms to encode an utterance"),
        ("suggest_cpu_ms", "CPU-ms to suggest, encoding included"),
        ("remember_cpu_ms", "CPU-ms to remember, encoding included"),
        ("personalize_cpu_ms", "CPU-ms to personalize anew after a change"),
        ("memory_mb", "MB of memory at most"),
    ):
        bound = f"   (at most {BOUNDS[key]:g})" if key in BOUNDS else ""
        print(f"  {title:42} {onnx[key]:13.2f} {reference[key]:13.2f}{bound}")
    print(f"  {'CPU-s to export, once on a machine':42} {onnx['export_cpu_s']:13.2f}")
    for key, value in commands.items():
        title = f"CPU-s of `tacit device {key.split('_')[0]}`"
        print(f"  {title:42} {value:13.2f} {'':13}   (at most {BOUNDS['cold_cpu_s']:g})")


if __name__ == "__main__":
    main()
