"""Devices in memory, and ways to learn their shared model, for ``benchmarks/private_accuracy.py``."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.device.memory_view import encode_names
from engine.encoders.encoder import CachedEncoder, Encoder
from engine.model.catalogue import Catalogue
from engine.model.checkpoint import Checkpoint, start_checkpoint
from engine.model.inputs import encode_inputs
from engine.model.scoring import BIAS_GAIN, SCALE, logits
from engine.model.summary import SUMMARY_NORM, SummaryPlan, summary
from engine.personal.personalizer import Personalizer
from engine.personal.rescorer import Evidence, LabelledMemory, log_softmax
from federation.data.splits import Split
from federation.population import generate
from federation.privacy.mechanism import central_mean
from federation.privacy.parameters import NoiseParameters
from federation.privacy.stream import SecureStream
from federation.rounds.summary_model import plan_summary, summary_model

# Public texts: requests of invented people whom no fleet here holds.
PUBLIC_PEOPLE, PUBLIC_SEED = 30, 77_000
# A step of plain federated averaging, in clip norms; chosen on train rows: see the module that uses it.
SERVER_STEP = 1.6
POOLED_STEPS, POOLED_RATE, POOLED_RIDGE = 120, 0.03, 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A device: inputs (n, D) and labels (n,) it remembers, its own labels' vectors (p, D), and rows to measure on.

    Labels are numbers, its own after the C public ones; −1 is one that it cannot know.
    """

    x: np.ndarray
    y: np.ndarray
    own: np.ndarray
    queries: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """Devices before the label names' model, and public inputs (n, D)."""

    devices: list[Own]
    start: Checkpoint
    public: np.ndarray
    words: int  # floats of the encoder alone


def crowd_of(split: Split, catalogue: Catalogue, encoder: CachedEncoder) -> Crowd:
    """Encode a split's rows; it may take minutes."""
    start = start_checkpoint(catalogue, encoder)
    devices = [_own(train, test, catalogue, encoder, start.dimension) for _, train, test in split]
    public = [row.text for row in generate(PUBLIC_PEOPLE, seed=PUBLIC_SEED).rows]
    return Crowd(
        devices=devices,
        start=start,
        public=encode_inputs(public, encoder, start.dimension),
        words=encoder.dimension,
    )


def _own(train: Sequence, test: Sequence, catalogue: Catalogue, encoder: Encoder, dimension: int) -> Own:
    names = sorted({row.label for row in train} - set(catalogue.names))
    place = {name: at for at, name in enumerate((*catalogue.names, *names))}
    blank = np.zeros((0, dimension), dtype=np.float32)
    return Own(
        x=encode_inputs([row.text for row in train], encoder, dimension) if train else blank,
        y=np.array([place[row.label] for row in train], dtype=np.int64),
        own=encode_names(names, encoder, dimension) if names else blank,
        queries=encode_inputs([row.text for row in test], encoder, dimension) if test else blank,
        truth=np.array([place.get(row.label, -1) for row in test], dtype=np.int64),
    )


def inner(split: Split, seed: int) -> Split:
    """Only train rows, a fifth of them to measure on: what every choice was made on."""
    found: Split = []
    for user, train, _ in split:
        own = list(train)
        random.Random(f"{seed}:{user}").shuffle(own)
        cut = int(0.8 * len(own))
        found.append((user, own[:cut], own[cut:]))
    return found


def log_of(one: Own, x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Log probabilities (n, C + p) of inputs x (n, D) by a shared table (C, D + 1) and the device's own labels."""
    bias = np.concatenate([table[:, -1], np.zeros(len(one.own), dtype=np.float32)])
    return log_softmax(logits(x, np.concatenate([table[:, :-1], one.own]), bias))


def memory_of(one: Own, seen: np.ndarray, *, words: int, classes: int) -> LabelledMemory:
    """What a device remembers, with what the shared model says of it (n, C + p)."""
    x = np.ascontiguousarray(one.x[:, :words])
    return LabelledMemory(x=x, y=one.y, global_log=seen, public=classes)


def measured(crowd: Crowd, flat: np.ndarray, *, most: int) -> tuple[float, float]:
    """Accuracy of the shared model and of the personalized devices, on rows of the first ``most`` devices."""
    classes = len(crowd.start.catalogue)
    table = flat.reshape(classes, crowd.start.dimension + 1)
    shared = personal = rows = 0
    for one in crowd.devices[:most]:
        if not len(one.truth):
            continue
        seen, asked = log_of(one, one.x, table), log_of(one, one.queries, table)
        memory = memory_of(one, seen, words=crowd.words, classes=classes)
        own = Personalizer.fit(memory, Evidence(rows=np.arange(len(one.y)), global_log=seen))
        answers = own.ranking(asked, own.predict(asked, one.queries[:, : crowd.words]))
        shared += int((asked[:, :classes].argmax(axis=1) == one.truth).sum())
        personal += int((answers.argmax(axis=1) == one.truth).sum())
        rows += len(one.truth)
    return shared / rows, personal / rows


def public_rows(one: Own, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """What a device may train on."""
    kept = one.y < classes
    return one.x[kept], one.y[kept]


def by_one_release(crowd: Crowd, z: float, honest: float) -> tuple[np.ndarray, SummaryPlan]:
    """The model from one release of summaries, by the mechanism of central mode as it is; z = 0 adds no noise."""
    count, classes = len(crowd.devices), len(crowd.start.catalogue)
    noise = z / np.sqrt(honest) * SUMMARY_NORM / count
    plan = plan_summary(crowd.start, crowd.public, noise_std=noise)
    answers = (summary(plan, *public_rows(one, classes)) for one in crowd.devices)
    if z:
        settings = NoiseParameters(
            dimension=plan.length,
            clip_norm=SUMMARY_NORM,
            noise_multiplier=z / np.sqrt(honest),
            cohort=count,
            honest_share=1.0,
        )
        mean = central_mean(answers, settings, SecureStream(), denominator=count)
    else:
        mean = (np.sum(list(answers), axis=0, dtype=np.float64) / count).astype(np.float32)
    return summary_model(crowd.start, plan, mean, noise_std=noise).flat, plan


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pooled:
    """All devices' rows side by side: inputs with the bias's entry (n, D+1), labels (n,), and where each device's
    begin."""

    x: np.ndarray
    y: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def _pooled(crowd: Crowd) -> _Pooled:
    classes = len(crowd.start.catalogue)
    parts = [public_rows(one, classes) for one in crowd.devices]
    x = np.concatenate([x for x, _ in parts])
    ends = np.cumsum([len(y) for _, y in parts])
    return _Pooled(
        x=np.column_stack([x, np.full(len(x), BIAS_GAIN, dtype=np.float32)]),
        y=np.concatenate([y for _, y in parts]),
        starts=np.concatenate([[0], ends[:-1]]),
        ends=ends,
    )


def _errors(rows: _Pooled, table: np.ndarray) -> np.ndarray:
    scores = np.float32(SCALE) * (rows.x @ table.T)
    scores -= scores.max(axis=1, keepdims=True)
    p = np.exp(scores)
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), rows.y] -= 1.0
    return p


def by_averaging(crowd: Crowd, z: float, honest: float, *, rounds: int, step: float, seed: int) -> np.ndarray:
    """Plain DP-FedAvg from the label names: in each round all devices give a step of their own loss, clipped.

    Every update is longer than the clip norm, so all have it; the noise is numpy's, of the mechanism's variance.
    """
    rows, rng = _pooled(crowd), np.random.default_rng(seed)
    count, classes = len(crowd.devices), len(crowd.start.catalogue)
    table = crowd.start.flat.reshape(classes, crowd.start.dimension + 1).copy()
    for _ in range(rounds):
        errors = _errors(rows, table)
        for start, end in zip(rows.starts, rows.ends, strict=True):
            own, x = errors[start:end], rows.x[start:end]
            errors[start:end] /= max(float(np.sqrt(np.maximum(((own @ own.T) * (x @ x.T)).sum(), 0.0))), 1e-6)
        mean = errors.T @ rows.x / count
        mean += rng.normal(size=mean.shape).astype(np.float32) * np.float32(z / np.sqrt(honest) / count)
        table -= np.float32(step) * mean
    return table.reshape(-1)


def by_pooling(crowd: Crowd) -> np.ndarray:
    """What no round can beat by much: a softmax over all rows in one place, by Adam, held to half of the names."""
    rows, classes = _pooled(crowd), len(crowd.start.catalogue)
    table = crowd.start.flat.reshape(classes, crowd.start.dimension + 1).copy()
    anchor = 0.5 * table
    first, second = np.zeros_like(table), np.zeros_like(table)
    for step in range(1, POOLED_STEPS + 1):
        slope = SCALE * (_errors(rows, table).T @ rows.x) / len(rows.y) + POOLED_RIDGE * (table - anchor)
        first = 0.9 * first + 0.1 * slope
        second = 0.99 * second + 0.01 * slope**2
        table -= POOLED_RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
    return table.astype(np.float32).reshape(-1)
