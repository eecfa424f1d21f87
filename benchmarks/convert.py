"""Turns public data sets into the files that `tacit evaluate` reads: `python -m benchmarks.convert NAME SOURCE OUT`.

NAME is unimobile, hwu64, sgd, ml-100k, frappe, locomo or friendsqa; SOURCE is what its address gives, unpacked
(``docs/data.md`` has the addresses and licences); OUT is the folder for the JSONL. Nothing is downloaded and nothing of
the data is shipped.
"""

import argparse
import csv
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]
_APPS = 9  # Columns App0 to App8 of UniMobile.
_SAME_APP = {"google chrome": "google search"}  # Its search bar asks the same service.
_SCENES_APART_S, _TURNS_APART_S = 86_400, 20
_CUT_OFF = re.compile(r" (?=(?:n't|'s|'re|'m|'ve|'ll|'d|[.,!?;:])(?:\s|$))", re.I)
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def unimobile(source: Path) -> dict[str, list[Row]]:
    """``mobile_queries.csv``: the user is the worker, the labels are the apps in the order of preference."""
    rows = []
    with (source / "mobile_queries.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            apps = [line[f"App{number}"] for number in range(_APPS) if line[f"App{number}"]]
            labels = list(dict.fromkeys(_SAME_APP.get(app, app) for app in apps))
            if labels and line["Query"].strip():
                rows.append(_row(line["Query"].strip(), labels, order=int(line["index"]), user=line["WorkerId"]))
    return {"unimobile": rows}


def hwu64(source: Path) -> dict[str, list[Row]]:
    """The ten folds' test sets, which do not overlap; the first stands as test, the label is the file's name."""
    found = sorted(source.glob("CrossValidation/**/KFold_*/testset/csv/*.csv"), key=lambda path: (_fold(path), path))
    rows: list[Row] = []
    for path in found:
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file, delimiter=";"):
                split = "test" if _fold(path) == 1 else "train"
                rows.append(_row(line["answer_from_anno"], [path.stem], order=len(rows), split=split))
    return {"hwu64": rows}


def sgd(source: Path) -> dict[str, list[Row]]:
    """Of the schema-guided dialogues the user's turns that open an intent: labels are the domain and the intent."""
    rows: list[Row] = []
    for folder, split in (("train", "train"), ("dev", "valid"), ("test", "test")):
        for path in sorted((source / folder).glob("dialogues_*.json")):
            for dialogue in _read(path):
                for text, service, intent in _opened(dialogue):
                    rows.append(_row(text, [service.split("_")[0], intent], order=len(rows), split=split))
    return {"sgd": rows}


def _opened(dialogue: Row) -> Iterator[tuple[str, str, str]]:
    before: dict[str, str] = {}
    for turn in dialogue["turns"]:
        for frame in turn["frames"] if turn["speaker"] == "USER" else ():
            service, intent = frame["service"], frame["state"]["active_intent"]
            if intent not in ("NONE", before.get(service)):
                yield turn["utterance"], service, intent
            before[service] = intent


def ml_100k(source: Path) -> dict[str, list[Row]]:
    """``u.data`` and ``u.item`` of MovieLens 100K; an item's text is its title and its genres."""
    rows = []
    for line in (source / "u.data").read_text(encoding="ascii").splitlines():
        user, item, value, at = line.split("\t")
        rows.append({"user": user, "ts": int(at), "item": item, "value": float(value), "context": {}, "split": ""})
    items = []
    for line in (source / "u.item").read_text(encoding="latin-1").splitlines():
        item, title, *_, flags = line.split("|", 5)
        genres = [name for name, flag in zip(_GENRES, flags.split("|"), strict=True) if flag == "1"]
        items.append({"item": item, "text": f"{title}. Genres: {', '.join(genres)}"})
    return {"ml-100k": rows, "ml-100k_items": items}


def frappe(source: Path) -> dict[str, list[Row]]:
    """``data/frappe/frappe.csv``: which app somebody used in which context, a row each; the apps have numbers alone.

    Nothing tells their order. A fifth of the rows, drawn at random, stands as test, a tenth as valid.
    """
    rng, rows = random.Random(0), []
    with (source / "data" / "frappe" / "frappe.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            drawn = rng.random()
            split = "train" if drawn < 0.7 else "valid" if drawn < 0.8 else "test"
            fixed = {"user": line.pop("user"), "ts": None, "item": line.pop("item"), "value": int(line.pop("cnt"))}
            rows.append({**fixed, "context": dict(line), "split": split})
    apps = sorted({int(row["item"]) for row in rows})
    return {"frappe": rows, "frappe_items": [{"item": str(app), "text": f"app {app}"} for app in apps]}


def locomo(source: Path) -> dict[str, list[Row]]:
    """``data/locomo10.json``: each turn with its session's time, a shared picture as its caption in brackets."""
    rows = []
    for one in _read(source / "data" / "locomo10.json"):
        talk = one["conversation"]
        sessions = sorted((key for key in talk if re.fullmatch(r"session_\d+", key)), key=lambda key: int(key[8:]))
        memory = [_turn(turn, talk[f"{name}_date_time"]) for name in sessions for turn in talk[name]]
        known = {turn["id"] for turn in memory}
        queries = [_question(qa, known) for qa in one["qa"]]
        rows.append({"conv": one["sample_id"], "memory": memory, "queries": queries})
    return {"locomo": rows}


def _turn(turn: Row, time: str) -> Row:
    picture = f" [image: {turn['blip_caption']}]" if turn.get("blip_caption") else ""
    return {"id": turn["dia_id"], "speaker": turn["speaker"], "time": time, "text": turn["text"] + picture}


def _question(qa: Row, known: set[str]) -> Row:
    # Some evidence names several turns in one string, or turns that there are not.
    evidence = [id for part in qa.get("evidence", []) for id in re.findall(r"D\d+:\d+", part) if id in known]
    answer = qa.get("answer", qa.get("adversarial_answer", ""))
    return {"q": qa["question"], "answer": answer, "evidence": evidence, "category": qa["category"]}


def friendsqa(source: Path) -> dict[str, list[Row]]:
    """``dat/friendsqa_dev.json`` and ``_tst``: of each a season is a conversation, each scene a session of its own.

    The scripts have no times. These are made up: a scene a day, a turn each 20 seconds.
    """
    rows = []
    for part in ("dev", "tst"):
        seasons: dict[str, list[Row]] = {}
        scenes = _read(source / "dat" / f"friendsqa_{part}.json")["data"]
        for scene in sorted(scenes, key=lambda scene: str(scene["title"])):  # Such as s01_e22_c03.
            seasons.setdefault(scene["title"].split("_")[0], []).append(scene)
        rows += [_talk(f"{part}-{season}", its) for season, its in seasons.items()]
    return {"friendsqa": rows}


def _talk(name: str, scenes: list[Row]) -> Row:
    memory, queries = [], []
    for number, scene in enumerate(scenes):
        [paragraph] = scene["paragraphs"]
        ids = {}
        for place, said in enumerate(paragraph["utterances:"]):
            if text := _as_written(said["utterance"]):
                ids[said["uid"]] = id = f"{scene['title']}:{said['uid']}"
                who = said["speakers"][0].split()[0] if said["speakers"] else ""
                time = number * _SCENES_APART_S + place * _TURNS_APART_S
                speaker = "" if who.startswith("#") else who  # Such as #NOTE#.
                memory.append({"id": id, "speaker": speaker, "time": time, "text": text})
        for qa in paragraph["qas"]:
            evidence = sorted({ids[its["utterance_id"]] for its in qa["answers"] if its["utterance_id"] in ids})
            answer = qa["answers"][0]["answer_text"] if qa["answers"] else ""
            queries.append({"q": _as_written(qa["question"]), "answer": answer, "evidence": evidence, "category": 1})
    return {"conv": name, "memory": memory, "queries": queries}


def _as_written(text: str) -> str:
    """``text`` with its words put together that were cut for a parser."""
    return _CUT_OFF.sub("", text).strip()


def _row(text: str, labels: list[str], *, order: int, user: str = "", split: str = "") -> Row:
    return {"user": user, "order": order, "text": text, "label": labels[0], "labels": labels, "split": split}


def _fold(path: Path) -> int:
    return int(next(part for part in path.parts if part.startswith("KFold_")).removeprefix("KFold_"))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


CONVERTERS: dict[str, Callable[[Path], dict[str, list[Row]]]] = {
    "unimobile": unimobile,
    "hwu64": hwu64,
    "sgd": sgd,
    "ml-100k": ml_100k,
    "frappe": frappe,
    "locomo": locomo,
    "friendsqa": friendsqa,
}


def write(rows: Iterable[Row], path: Path) -> None:
    """Write one JSON object a line, UTF-8."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=CONVERTERS)
    parser.add_argument("source", type=Path, help="the unpacked download")
    parser.add_argument("out", type=Path, help="the folder for the JSONL")
    asked = parser.parse_args(arguments)
    try:
        made = CONVERTERS[asked.name](asked.source)
    except (OSError, KeyError, ValueError) as error:
        parser.error(f"{asked.source} is not {asked.name} as its address gives it: {error!r}")
    if not any(made.values()):
        parser.error(f"{asked.source} holds nothing of {asked.name}: give the unpacked download.")
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, rows in made.items():
        write(rows, asked.out / f"{name}.jsonl")
        print(f"{asked.out / name}.jsonl: {len(rows):,} rows")


if __name__ == "__main__":
    main()
