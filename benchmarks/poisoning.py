"""What devices that lie do to the shared model, with the defences and without: `python -m benchmarks.poisoning`.

Real apps over a generated population (or `--data FILE`, whose rows are dealt to devices), the default encoder. Some
devices lie:

- *flip*: all their labels are permuted, the same way by all liars, and their software is honest;
- *flip, to the clip*: the same, and their change is brought to the longest that is accepted;
- *flip ×10*: the same, ten times as long as it came, whatever the clip;
- *targeted*: they claim that the commonest label's texts, other people's too, are of the second commonest, to the clip;
- in private mode *×10* in the masked sum, *hidden*, as long as the bound on the sum's norm lets pass, and *huge*, three
  times as long as that bound; for these one liar is as good as many.

Accuracy is that of people who never lie, the same ones in all rows; "without" are the same rounds without the bound on
norms and without the gate. A defended run in which nothing was refused is its own undefended one. Also printed: how
many of the rounds of honest runs the gate refuses. Options: --devices, --rounds, --epsilon, --seed, --seeds, --data,
--part, --json.
"""

import argparse
import contextlib
import dataclasses
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np

from engine.encoders.encoder import CachedEncoder, load_encoder
from engine.model.checkpoint import start_checkpoint
from federation.agent import answers
from federation.agent.names import TRAIN_MESSAGE
from federation.agent.private import PrivateAgent
from federation.agent.update import update_of
from federation.data.dataset import Row, read_rows
from federation.data.splits import Split, split_as_marked, split_rows
from federation.errors import RoundError
from federation.population import generate
from federation.privacy.bound import longest_mean
from federation.privacy.update import clip, l2_norm
from federation.rounds import private_rounds, strategy
from federation.rounds.config import SUMMARY, RunSettings, default
from federation.rounds.gate import refused_rounds
from federation.rounds.noisy_rounds import first_terms, likely_noise, noise_std
from federation.rounds.public_inputs import encode_public, public_texts
from federation.rounds.summary_model import plan_summary
from federation.simulation.experiment import Experiment, run_experiment

SHARES = (0.01, 0.05, 0.10)
STRATEGIES = ("fedadam", "fedavg", "fedmedian", "fedtrimmedavg", "krum")
OPEN_ATTACKS = ("flip", "flip, to the clip", "flip ×10", "targeted")
PRIVATE_ATTACKS = ("flip", "flip ×10", "targeted", "flip, hidden", "targeted, hidden", "flip, huge")
_PUBLIC_PEOPLE, _PUBLIC_ROWS = 10, 300
_NOISY_ROUNDS = 4  # Of strategies that train, in private mode.


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """People, what is public beside the catalogue, and the label that targeted liars rename, and to what."""

    title: str
    generated: bool
    split: Split
    public: Path
    reserved: int  # The first people: they lie or not, and are not measured.
    source: str
    target: str

    def experiment(self, liars: int, attack: str) -> Experiment:
        """The rounds' people, of whom the first ``liars`` lie about their rows."""
        names = sorted({row.label for _, train, _ in self.split for row in train})
        turned = Random(7).sample(names, len(names))
        lie = dict(zip(names, turned, strict=True))
        of_source = [row for _, train, _ in self.split for row in train if row.label == self.source]
        split = []
        for number, (user, train, test) in enumerate(self.split):
            if number < liars and attack.startswith("flip"):
                train = [_relabelled(row, lie[row.label]) for row in train]
            elif number < liars and attack.startswith("targeted"):
                train = [_relabelled(row, self.target) for row in of_source][:400]
            split.append((user, train, [] if number < self.reserved else test))
        return Experiment.of(split, title=self.title, generated=self.generated)


def _relabelled(row: Row, label: str) -> Row:
    return dataclasses.replace(row, label=label, labels=(label,))


def make_world(data: str, devices: int, seed: int, folder: Path) -> World:
    """Everything is drawn from ``seed``; the public rows are of nobody who takes part."""
    public = folder / "public.jsonl"
    if data == "generated":
        population = generate(devices, seed=seed)
        split, title = split_as_marked(population.rows), population.title
        generate(_PUBLIC_PEOPLE, seed=seed + 1000).write_jsonl(public)
    else:
        rows = read_rows(Path(data))
        Random(seed).shuffle(rows)
        split, title = split_rows(rows[_PUBLIC_ROWS:], seed=seed, devices=devices, alpha=0.3), Path(data).name
        public.write_text("".join(json.dumps({"text": r.text, "label": r.label}) + "\n" for r in rows[:_PUBLIC_ROWS]))
    tested = Counter(row.label for _, _, test in split for row in test)
    (source, _), (target, _) = tested.most_common(2)
    return World(
        title=title,
        generated=data == "generated",
        split=split,
        public=public,
        reserved=liars_of(devices, SHARES[-1]),
        source=source,
        target=target,
    )


def liars_of(devices: int, share: float) -> int:
    return max(1, round(share * devices))


@contextlib.contextmanager
def lying(attack: str, liars: int, clip_norm: float) -> Iterator[None]:
    """The first ``liars`` devices send what the attack says."""
    plain, update = answers.answer, PrivateAgent._update

    def answer(agent: Any, asked: Any) -> Any:
        reply = plain(agent, asked)
        if asked.kind != TRAIN_MESSAGE or asked.node_id - 2 >= liars or attack == "flip":
            return reply
        flat = asked.arrays["model"]
        change = reply - flat
        length = 10.0 if "×10" in attack else clip_norm * (1 - 1e-6) / max(l2_norm(change), 1e-12)
        return (flat + length * change).astype(np.float32)

    def masked(self: Any, terms: Any, held: Any, flat: Any, excess: bytes) -> Any:
        sent = update(self, terms, held, flat, excess)
        if held.index >= liars or attack in ("flip", "targeted"):
            return sent
        noise = likely_noise(terms)  # Who hides in it supposes that nobody drops out.
        own = clip(update_of(self._device, terms, flat, rng=np.random.default_rng(0)), terms.clip_norm)
        vector = own.astype(np.float64) * (_length(attack, terms, noise) / max(l2_norm(own), 1e-12) / noise.step)
        return (sent.astype(np.int64) + np.rint(vector).astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)

    with mock.patch.object(answers, "answer", answer), mock.patch.object(PrivateAgent, "_update", masked):
        yield


def _length(attack: str, terms: Any, noise: Any) -> float:
    """How long a vector a liar adds to the masked sum."""
    if "×10" in attack:
        return 10 * float(terms.clip_norm)
    most = longest_mean(noise, devices=noise.cohort, denominator=1.0)
    variance = noise.share_variance * noise.cohort * noise.step**2
    return float(3 * most if "huge" in attack else 0.9 * np.sqrt(most**2 - variance * terms.dimension))


@contextlib.contextmanager
def undefended() -> Iterator[None]:
    """No bound on norms, in open and in private mode."""
    plain = strategy._is_valid

    def finite(reply: Any, length: int, most: float, around: Any) -> bool:
        return plain(reply, length, most if around is None else float("inf"), around)

    with (
        mock.patch.object(strategy, "_is_valid", finite),
        mock.patch.object(private_rounds, "check_mean", return_value=None),
    ):
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Accuracy of the honest people, and of the label that targeted liars rename; what was refused."""

    shared: float
    personal: float
    source: float
    undone: int
    left_out: int
    rounds: int


class _Count(logging.Handler):
    """Counts replies that the server left out."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        if "left out" in record.msg:
            self.left_out += record.args[1]  # type: ignore[index, operator]


class Bench:
    """Runs of one world, each in a folder of its own."""

    def __init__(self, world: World, encoder: CachedEncoder, *, rounds: int, epsilon: float, seed: int) -> None:
        self.world, self._encoder, self._rounds, self._epsilon, self._seed = world, encoder, rounds, epsilon, seed

    def settings(self, mode: str, name: str, *, defended: bool = True) -> RunSettings:
        return RunSettings(
            mode=mode,
            strategy=name,
            rounds=self._rounds if mode == "open" else default("rounds", mode) if name == SUMMARY else _NOISY_ROUNDS,
            cohort=len(self.world.split),
            rescorer_steps=0,
            epsilon=self._epsilon,
            seed=self._seed,
            canary=str(self.world.public) if defended else "none",
        )

    def lengths(self) -> str:
        """How long things are in a private round's mean, of which a liar's own share is the clip over the devices."""
        settings, count = self.settings("private", SUMMARY), len(self.world.split)
        start = start_checkpoint(self.world.experiment(0, "").catalogue, self._encoder)
        public = encode_public(public_texts(), self._encoder, start)
        rough = first_terms(settings, start, devices=count, run="0")
        asked = plan_summary(start, public, noise_std=noise_std(likely_noise(rough), rough))
        terms = first_terms(settings, start, devices=count, run="0", asked=asked)
        noise = likely_noise(terms)
        usual, hidden = noise_std(noise, terms) * terms.dimension**0.5, _length("hidden", terms, noise) / 0.9 / count
        return (
            f"private, ε = {self._epsilon:g}: on the mean of {count} updates the noise is {usual:.3g} long, at most "
            f"{longest_mean(noise, devices=count, denominator=float(count)):.3g} is used, so that one liar may hide "
            f"{hidden:.3g}; its share within the clip is {terms.clip_norm / count:.3g}"
        )

    def run(self, mode: str, name: str, attack: str, liars: int, *, defended: bool = True) -> Found:
        """One run. Raises `RoundError` where a round has too few valid replies."""
        world, settings = self.world, self.settings(mode, name, defended=defended)
        log, count = logging.getLogger("tacit.federation"), _Count()
        log.addHandler(count)
        log.propagate = False
        with contextlib.ExitStack() as stack:
            stack.callback(log.removeHandler, count)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if liars:
                stack.enter_context(lying(attack, liars, settings.clip_norm))
            if not defended:
                stack.enter_context(undefended())
            outcome = run_experiment(world.experiment(liars, attack), settings, folder / "run", self._encoder)
        hits: dict[str, list[bool]] = {"global": [], "personal": []}
        of_source: list[bool] = []
        for member, one in zip([its for its in outcome.people if its.test], outcome.measured, strict=True):
            for method, its in hits.items():
                its += [rank == 1 for rank in one.by_method[method]]
            ranks = one.by_method["global"]
            of_source += [rank == 1 for row, rank in zip(member.test, ranks, strict=True) if row.label == world.source]
        return Found(
            shared=float(np.mean(hits["global"])),
            personal=float(np.mean(hits["personal"])),
            source=float(np.mean(of_source)),
            undone=len(refused_rounds(outcome.model.notes)),
            left_out=count.left_out,
            rounds=settings.rounds,
        )

    def row(self, mode: str, name: str, attack: str, share: float, honest: Found) -> dict[str, Any]:
        """One row of the table: honest, with liars, with liars and defences."""
        liars = liars_of(len(self.world.split), share)
        about = {"mode": mode, "strategy": name, "attack": attack, "share": share, "liars": liars}
        try:
            defended = self.run(mode, name, attack, liars)
        except RoundError as error:
            return about | {"honest": dataclasses.asdict(honest), "failed": str(error)}
        nothing = not defended.undone and not defended.left_out
        plain = defended if nothing else self.run(mode, name, attack, liars, defended=False)
        return about | {
            "honest": dataclasses.asdict(honest),
            "without": dataclasses.asdict(plain),
            "with": dataclasses.asdict(defended),
        }


def rows_of(bench: Bench, part: str) -> Iterator[dict[str, Any]]:
    """The rows of the table, as they are found."""
    if part in ("all", "open"):
        for name in STRATEGIES:
            honest = bench.run("open", name, "", 0)
            for attack in OPEN_ATTACKS:
                for share in SHARES if name == "fedadam" else SHARES[-1:]:
                    yield bench.row("open", name, attack, share, honest)
    if part in ("all", "private"):
        honest = bench.run("private", SUMMARY, "", 0)
        for attack in PRIVATE_ATTACKS:
            for share in SHARES[:1] if attack.endswith(("hidden", "huge")) else SHARES:
                yield bench.row("private", SUMMARY, attack, share, honest)


HEADING = (
    f"{'mode':8}{'strategy':14}{'attack':20}{'liars':>6}   {'honest':>11}  {'without':>11}  {'with':>11}   "
    f"{'its label: honest, without, with':34}{'left out':>9}{'undone':>8}"
)


def line_of(row: dict[str, Any]) -> str:
    """A row as a line: accuracy of the shared and of the personal models."""
    head = f"{row['mode']:8}{row['strategy']:14}{row['attack']:20}{row['liars']:>6}   "
    if "failed" in row:
        return head + row["failed"]
    three = [row[name] for name in ("honest", "without", "with")]
    cells = "  ".join(f"{its['shared']:.3f} {its['personal']:.3f}" for its in three)
    label = "  ".join(f"{its['source']:.3f}" for its in three)
    return f"{head}{cells}   {label:34}{row['with']['left_out']:>9}{row['with']['undone']:>8}"


def false_alarms(make: Sequence[Bench], names: Sequence[str]) -> Iterator[str]:
    """How many rounds of honest runs the gate refuses."""
    for mode, its in (("open", names), ("private", (SUMMARY, "fedavg", "fedadam"))):
        for name in its:
            found = [bench.run(mode, name, "", 0) for bench in make]
            undone, rounds = sum(one.undone for one in found), sum(one.rounds for one in found)
            out = sum(one.left_out for one in found)
            yield f"honest runs, {mode}, {name}: {undone} of {rounds} rounds refused, {out} replies left out"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=15, help="of open mode")
    parser.add_argument("--epsilon", type=float, default=4.0, help="of private mode, against the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2, help="of the honest runs that count false alarms")
    parser.add_argument("--data", default="generated", metavar="generated|FILE")
    parser.add_argument("--part", choices=("all", "open", "private", "alarms"), default="all")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    encoder, found = CachedEncoder(load_encoder()), []
    with tempfile.TemporaryDirectory() as name:

        def bench(seed: int) -> Bench:
            folder = Path(name) / str(seed)
            folder.mkdir()
            world = make_world(asked.data, asked.devices, seed, folder)
            return Bench(world, encoder, rounds=asked.rounds, epsilon=asked.epsilon, seed=seed)

        if not asked.json:
            print(f"{asked.data}, {asked.devices} devices; accuracy of the shared and the personal models")
        if asked.part in ("all", "open", "private"):
            if not asked.json:
                print(HEADING, flush=True)
            main_bench = bench(asked.seed)
            if asked.part != "open" and not asked.json:
                print(main_bench.lengths(), flush=True)
            for row in rows_of(main_bench, asked.part):
                found.append(row)
                if not asked.json:
                    print(line_of(row), flush=True)
        if asked.part in ("all", "alarms"):
            for line in false_alarms([bench(asked.seed + 1 + more) for more in range(asked.seeds)], STRATEGIES):
                found.append({"false_alarms": line})
                if not asked.json:
                    print(line, flush=True)
        if asked.json:
            print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
