"""The embedding index: codes that the format page describes, and searches that agree with numpy."""

import hashlib
import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from store.errors import DimensionError, TamperedError
from store.index.blocks import SignBlocks, WeighedBlocks, packed_signs, packed_without
from store.index.codes import CodeIndex, candidates_for
from store.index.quantizer import Quantizer

DATA = Path(__file__).parents[3] / "shared" / "data"
DIMENSIONS = (1, 2, 8, 384, 1000)


def random_vectors(count, dimension, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dimension), dtype=np.float32)


def clustered_vectors(count, dimension, seed=0):
    """Unit vectors around 50 centres, with unequal spread, somewhat like sentence embeddings."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, dimension + 1) ** -0.5
    vectors = 2 * (rng.standard_normal((50, dimension)) * spread)[rng.integers(50, size=count)]
    vectors += rng.standard_normal((count, dimension)) * spread
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def filled(vectors, slots=None):
    quantizer = Quantizer(vectors.shape[1])
    index = CodeIndex(quantizer)
    index.extend(np.arange(len(vectors)) if slots is None else np.asarray(slots), quantizer.encode(vectors))
    return index


def found(index, query, k):
    slots, scores, deviations = index.search(query, k)
    assert deviations.shape == scores.shape
    assert slots.dtype == np.int64
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert (scores[1:] <= scores[:-1]).all()
    return slots.tolist()


def recall_at_10(index, vectors, queries, rows):
    """The share of the ten best by inner product that are among the first ``rows`` of the index."""
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    return np.mean([np.isin(b, index.search(q, rows)[0]).mean() for b, q in zip(best, queries, strict=True)])


def described_rotation(dimension):
    """The rotation as a matrix (d, d), built from its description with loops."""
    power = 1
    while 2 * power <= dimension:
        power *= 2
    hadamard = np.array([[(-1) ** (i & j).bit_count() for j in range(power)] for i in range(power)]) / power**0.5
    matrix = np.eye(dimension)
    for number in range(3):
        seed = b"tacit codes 1" + dimension.to_bytes(4, "little") + bytes([number])
        stream = hashlib.shake_256(seed).digest(8 * dimension)
        words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(dimension)]
        matrix = matrix * [-1 if word % 2 else 1 for word in words]
        matrix = matrix[:, sorted(range(dimension), key=lambda i: words[i])]
        matrix[:, :power] = matrix[:, :power] @ hadamard
        if power < dimension:
            matrix[:, dimension - power :] = matrix[:, dimension - power :] @ hadamard
    return matrix


@pytest.mark.parametrize("dimension", [1, 2, 3, 24, 100, 384])
def test_the_rotation_is_the_described_one(dimension):
    matrix = described_rotation(dimension)
    assert np.allclose(matrix @ matrix.T, np.eye(dimension), atol=1e-12)
    vectors = random_vectors(5, dimension)
    assert np.allclose(Quantizer(dimension).rotate(vectors), vectors @ matrix, atol=1e-5)


def test_a_rotation_without_a_matrix_is_one():
    vectors = random_vectors(6, 1500)
    turned = Quantizer(1500).rotate(vectors)
    assert turned.dtype == np.float32
    assert np.allclose(turned @ turned.T, vectors @ vectors.T, rtol=1e-4, atol=1e-2)


def test_the_code_of_a_known_vector_never_changes():
    # All steps are exact in float32 here, so that no machine rounds otherwise.
    vectors = np.array([np.arange(24) - 11, np.zeros(24)], dtype=np.float32)
    assert [code.tobytes().hex() for code in Quantizer(24).encode(vectors)] == ["e51d39bc262442", "00000000000000"]


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_codes_are_signs_and_a_factor(dimension):
    vectors = random_vectors(40, dimension)
    codes = Quantizer(dimension).encode(vectors)
    turned = Quantizer(dimension).rotate(vectors)
    assert codes.shape == (40, -(-dimension // 8) + 4)
    assert codes.dtype == np.uint8
    signs = np.unpackbits(codes[:, :-4], axis=1, count=dimension, bitorder="little")
    assert (signs == (turned > 0)).all()
    factors = codes[:, -4:].copy().view("<f4")[:, 0]
    assert np.allclose(factors, dimension**0.5 * (turned**2).sum(axis=1) / np.abs(turned).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_scores_are_the_estimates_that_codes_give(dimension):
    vectors, query = random_vectors(100, dimension), random_vectors(1, dimension, seed=1)[0]
    quantizer = Quantizer(dimension)
    codes = quantizer.encode(vectors)
    signs = 2.0 * np.unpackbits(codes[:, :-4], axis=1, count=dimension, bitorder="little") - 1
    factors = codes[:, -4:].copy().view("<f4")[:, 0]
    estimates = factors * (signs @ quantizer.rotate(query[None])[0]) / dimension**0.5
    slots, scores, _ = filled(vectors).search(query, 100)
    assert sorted(slots.tolist()) == list(range(100))
    assert np.abs(scores - estimates[slots]).max() < 0.02 * np.linalg.norm(query) * factors.max()


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("kind", [SignBlocks, WeighedBlocks])
def test_blocks_are_those_of_faiss(dimension, kind):
    vectors = random_vectors(75, dimension)
    quantizer = Quantizer(dimension)
    signs, factors = np.split(quantizer.encode(vectors), [quantizer.sign_bytes], axis=1)
    factors = np.ascontiguousarray(factors).view("<f4")[:, 0]
    theirs, ours = kind(quantizer)._faiss, kind(quantizer)
    turned = np.zeros((75, theirs.d), dtype=np.float32)
    turned[:, :dimension] = quantizer.rotate(vectors)
    turned[:, dimension:] = -1  # Bits that no coordinate has are not set.
    theirs.add(turned)
    stride = 32 * (quantizer.sign_bytes + 4 * kind.floats)
    expected = faiss.rev_swig_ptr(theirs.codes.get(), 3 * stride).reshape(3, stride)
    for part in np.array_split(np.arange(75), 7):
        ours.append(signs[part], factors[part])
    blocks, width = ours._blocks(0, 3), 32 * quantizer.sign_bytes
    assert (blocks[:, :width] == expected[:, :width]).all()
    assert np.allclose(blocks[:, width:].view(np.float32), expected[:, width:].view(np.float32), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("kind", [SignBlocks, WeighedBlocks])
def test_whole_blocks_are_taken_as_rows_are(kind, count):
    quantizer = Quantizer(64)
    vectors = clustered_vectors(3 * count, 64)
    signs, factors = np.split(quantizer.encode(vectors), [quantizer.sign_bytes], axis=1)
    factors = np.ascontiguousarray(factors).view("<f4")[:, 0]
    by_rows, by_blocks = kind(quantizer), kind(quantizer)
    by_rows.append(signs, factors)
    for start in range(0, 3 * count, count):
        part = slice(start, start + count)
        by_blocks.append_blocks([(packed_signs(signs[part]), factors[part])])
    live = by_blocks.live()
    assert len(live) == 3 * count
    for rows, places in ((by_rows, np.arange(3 * count)), (by_blocks, live)):
        assert (rows.rows(places)[0] == signs).all()
        assert (rows.rows(places)[1] == factors).all()
    for query in quantizer.rotate(vectors[:5]):
        estimates, places, _ = by_blocks.search(query[None], 3 * count)
        assert np.allclose(estimates, by_rows.search(query[None], 3 * count)[0])
        assert sorted(places) == live.tolist()


@pytest.mark.parametrize(("scales", "kind"), [((1, 1.1), SignBlocks), ((1, 3), WeighedBlocks), ((1, 0), WeighedBlocks)])
def test_rows_are_weighed_one_by_one_where_their_lengths_differ(scales, kind):
    vectors = clustered_vectors(3000, 384)
    vectors *= np.random.default_rng(5).choice(scales, (3000, 1)).astype(np.float32)
    index = filled(vectors[:1000])
    index.remove(range(50))
    for start in range(1000, 3000, 500):
        index.extend(np.arange(start, start + 500), index.quantizer.encode(vectors[start : start + 500]))
    assert type(index._table) is kind
    assert len(index) == 2950
    queries = clustered_vectors(50, 384, seed=6)
    best = np.argsort(-(queries @ vectors[50:].T), axis=1)[:, :10] + 50
    found = [np.isin(b, index.search(q, candidates_for(10))[0]).mean() for b, q in zip(best, queries, strict=True)]
    assert np.mean(found) >= 0.99


def test_rows_that_are_gone_crowd_no_live_row_out():
    vectors = np.ones((2000, 64), dtype=np.float32) + 0.01 * random_vectors(2000, 64)
    index = filled(vectors)
    index.remove(range(0, 2000, 9))  # Too few for the rest to be moved together.
    assert index._dead > 100
    # What is gone has no sign set, as this query's opposite would have.
    query = -(index.quantizer.rotate(np.eye(64, dtype=np.float32)) @ np.ones((64, 1), dtype=np.float32))[:, 0]
    for k in (1, 10, 200):
        slots, _, _ = index.search(query.astype(np.float32), k)
        assert len(set(slots.tolist())) == k
        assert not any(slot % 9 == 0 for slot in slots.tolist())


def test_the_best_ten_are_among_the_candidates():
    vectors = clustered_vectors(5100, 384)
    index = filled(vectors[100:])
    assert recall_at_10(index, vectors[100:], vectors[:100], candidates_for(10)) >= 0.99


def test_a_noisy_copy_leads_to_its_vector_among_unrelated_ones():
    vectors = random_vectors(5000, 384)
    index = filled(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    for slot, noise in enumerate(random_vectors(100, 384, seed=1)):
        assert slot in found(index, vectors[slot] + noise, 10)


def test_vectors_of_unequal_norms_are_ranked_by_inner_product():
    vectors = clustered_vectors(3100, 384) * np.random.default_rng(0).uniform(0.1, 10, (3100, 1)).astype(np.float32)
    assert recall_at_10(filled(vectors[100:]), vectors[100:], vectors[:100], candidates_for(10)) >= 0.99


@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e15])
def test_scores_keep_their_precision_at_any_scale(dimension, scale):
    signs = np.where(random_vectors(20, dimension) > 0, 1, -1).astype(np.float32)
    vectors = signs * np.float32(scale)
    query = vectors[3]
    slots, scores, _ = filled(vectors).search(query, 20)
    own = scores[slots.tolist().index(3)]
    assert np.isfinite(scores).all()
    assert own == pytest.approx(float(query.astype(float) @ query.astype(float)), rel=0.3)
    assert own >= scores[0] * (1 - 1e-2)


@pytest.mark.parametrize("dimension", [64, 384])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_estimates_err_by_their_deviations(dimension, scale):
    vectors = random_vectors(2000, dimension) * np.float32(scale)
    index, errors = filled(vectors), []
    for query in random_vectors(20, dimension, seed=1):
        slots, estimates, deviations = index.search(query, len(vectors))  # All, so that no selection favours errors.
        errors.append((vectors[slots] @ query - estimates) / deviations)
    assert abs(np.mean(errors)) < 0.05
    assert 0.9 < np.std(errors) < 1.1


def test_small_vectors_are_ranked_beside_huge_queries():
    vectors = clustered_vectors(1000, 64) * np.float32(1e-5)
    index = filled(vectors)
    queries = vectors[:20]
    for query in queries:
        scores = {}
        for scale in (1.0, 1e18):
            slots, estimates, _ = index.search(query * np.float32(scale), 1000)
            scores[scale] = (estimates / scale)[np.argsort(slots)]
        # FAISS rounds the query to steps of its own, so the scores agree to such a step and not to the last bit.
        assert np.ptp(scores[1.0]) > 0
        assert np.abs(scores[1e18] - scores[1.0]).max() < 0.02 * np.ptp(scores[1.0])


def test_zero_vectors_and_a_zero_query_are_taken():
    index = filled(np.zeros((40, 16), dtype=np.float32))
    assert sorted(found(index, np.ones(16, dtype=np.float32), 40)) == list(range(40))
    assert len(found(index, np.zeros(16, dtype=np.float32), 3)) == 3
    index.remove([2])  # Too few for the rest to be moved together.
    slots, scores, _ = index.search(np.zeros(16, dtype=np.float32), 99)
    assert sorted(slots.tolist()) == [slot for slot in range(40) if slot != 2]
    assert not scores.any()


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100, 1500])
def test_exactly_as_many_as_are_there_are_found(count):
    vectors, query = random_vectors(count, 8), np.ones(8, dtype=np.float32)
    index = filled(vectors)
    assert len(index) == count
    for k in (0, 1, 10, count, count + 1, 10 * count + 7):
        slots = found(index, query, k)
        assert len(slots) == len(set(slots)) == min(k, count)


def test_any_sequence_of_changes_leaves_what_a_dictionary_has():
    rng = np.random.default_rng(5)
    vectors = random_vectors(4000, 16)
    quantizer = Quantizer(16)
    codes, index, kept, fresh = quantizer.encode(vectors), CodeIndex(quantizer), {}, 0
    for step in range(150):
        if rng.random() < 0.6:
            rows = rng.integers(4000, size=int(rng.choice([1, 1, 3, 40, 200])))
            # Mostly ever greater slots, at times old ones again, in any order.
            slots = np.arange(fresh, fresh + len(rows)) if step % 4 else rng.choice(fresh + 500, len(rows), False)
            rows, slots = rows[~np.isin(slots, list(kept))], slots[~np.isin(slots, list(kept))]
            index.extend(slots, codes[rows])
            kept.update(zip(slots.tolist(), rows.tolist(), strict=True))
            fresh = max([fresh, *(slots + 1).tolist()])
        else:
            gone = rng.choice(fresh + 1, size=min(fresh, int(rng.choice([1, 5, 100]))), replace=False).tolist()
            index.remove(gone)
            for slot in gone:
                kept.pop(slot, None)
        assert len(index) == len(kept)
        query = vectors[step]
        slots, scores, _ = index.search(query, len(kept) + 5)
        assert set(slots.tolist()) == set(kept)
        exact = vectors[[kept[slot] for slot in slots.tolist()]] @ query
        if len(slots) > 100:
            assert np.corrcoef(scores, exact)[0, 1] > 0.7


def test_removed_rows_are_never_found_and_others_still_are():
    vectors = clustered_vectors(2000, 64)
    index = filled(vectors)
    order = np.random.default_rng(3).permutation(2000)
    for at in range(0, 2000, 100):
        index.remove(order[at : at + 100].tolist())
        live = set(order[at + 100 :].tolist())
        for query in vectors[:3]:
            assert set(found(index, query, 2000)) == live
        if live:
            alive = max(live)
            assert alive in found(index, vectors[alive], 100)


@pytest.mark.parametrize("gone", [[3], [0, 16, 31, 32, 99], list(range(50)), list(range(100))])
def test_the_code_of_a_removed_row_is_zeroed_in_memory(gone):
    quantizer = Quantizer(64)
    codes = np.full((100, quantizer.code_bytes), 255, dtype=np.uint8)
    codes[:, -4:] = np.frombuffer(np.float32(2).astype("<f4").tobytes(), dtype=np.uint8)
    index = CodeIndex(quantizer)
    index.extend(np.arange(100), codes)
    index.remove(gone)
    signs, factors = index._table.rows(np.arange(index._table.count))
    assert np.unpackbits(signs).sum() == 64 * (100 - len(gone))
    assert (factors == 2).sum() == 100 - len(gone)
    assert (factors[factors != 2] == -1).all()


def test_memory_follows_the_rows_that_are_left():
    index = filled(random_vectors(4000, 64))
    before = index.size_bytes
    index.remove(range(0, 4000, 2))
    assert len(index) == 2000
    assert index.size_bytes < 0.75 * before
    index.remove(range(4000))
    assert index._table.size_bytes == len(index) == 0


def test_unknown_slots_are_passed_over():
    index = filled(random_vectors(10, 8))
    index.remove([4])
    index.remove([4, 77, -1, 1 << 40])
    assert len(index) == 9


def test_a_slot_can_come_back_after_its_removal():
    vectors = random_vectors(40, 8)
    quantizer = Quantizer(8)
    index = filled(vectors)
    for slot in (39, 5):
        index.remove([slot])
        index.extend(np.array([slot]), quantizer.encode(vectors[slot : slot + 1]))
        assert sorted(found(index, vectors[slot], 99)) == list(range(40))
    index.remove([5, 39])
    assert sorted(found(index, vectors[0], 99)) == [slot for slot in range(39) if slot != 5]


@pytest.mark.parametrize("slots", [[3], [2, 2], [1, 2, 30], [70, 69, 70], [0]])
def test_a_slot_that_is_there_is_refused_and_nothing_is_added(slots):
    vectors = random_vectors(50, 8)
    index = filled(vectors, [0, 3, *range(30, 78)])
    index.remove([77])
    index.extend(np.array([1]), Quantizer(8).encode(vectors[:1]))  # Out of order.
    before = sorted(found(index, vectors[0], 99))
    with pytest.raises(ValueError, match="remove it first"):
        index.extend(np.array(slots), Quantizer(8).encode(vectors[: len(slots)]))
    assert sorted(found(index, vectors[0], 99)) == before


@pytest.mark.parametrize("slots", [[-5, 0, 2], [1 << 32, 1 << 40, (1 << 63) - 1], [7, -(1 << 63)]])
def test_slots_may_be_any_int64(slots):
    vectors = random_vectors(10 + len(slots), 8)
    index = filled(vectors[:10], range(100, 110))
    index.extend(np.array(slots), Quantizer(8).encode(vectors[10:]))
    assert set(found(index, vectors[0], 99)) == {*range(100, 110), *slots}
    index.remove(slots)
    assert set(found(index, vectors[0], 99)) == set(range(100, 110))


def test_many_rows_out_of_order_are_found_again():
    slots = np.random.default_rng(0).permutation(5000)
    vectors = random_vectors(5000, 16)
    quantizer = Quantizer(16)
    index = CodeIndex(quantizer)
    for part in np.array_split(slots, 11):
        index.extend(part, quantizer.encode(vectors[part]))
    assert len(index) == 5000
    for slot in (0, 17, 4999):
        assert slot in found(index, vectors[slot], 300)
    index.remove(range(0, 5000, 2))
    assert set(found(index, vectors[0], 5000)) == set(range(1, 5000, 2))


def test_factors_that_no_vector_has_are_tampered():
    quantizer = Quantizer(8)
    for value in (np.nan, np.inf, -1.0):
        codes = quantizer.encode(random_vectors(3, 8))
        codes[1, -4:] = np.frombuffer(np.array(value, dtype="<f4").tobytes(), dtype=np.uint8)
        index = CodeIndex(quantizer)
        with pytest.raises(TamperedError):
            index.extend(np.arange(3), codes)
        assert len(index) == 0


def test_wrong_shapes_are_refused():
    quantizer = Quantizer(8)
    index = CodeIndex(quantizer)
    with pytest.raises(DimensionError):
        quantizer.encode(random_vectors(2, 9))
    with pytest.raises(DimensionError):
        index.extend(np.arange(2), np.zeros((2, 4), dtype=np.uint8))
    with pytest.raises(DimensionError):
        index.extend(np.arange(3), np.zeros((2, 5), dtype=np.uint8))
    with pytest.raises(DimensionError):
        index.search(np.zeros(9, dtype=np.float32), 1)
    with pytest.raises(ValueError, match="NaN"):
        index.search(np.full(8, np.nan, dtype=np.float32), 1)
    with pytest.raises(DimensionError):
        Quantizer(0)


def test_a_row_takes_at_most_64_bytes():
    vectors = random_vectors(2000, 384)
    quantizer = Quantizer(384)
    codes, index = quantizer.encode(vectors), CodeIndex(quantizer)
    index.reserve(20_000)
    for at in range(20):
        index.extend(np.arange(2000 * at, 2000 * at + 2000), codes)
    assert index.size_bytes <= 64 * len(index)


def test_encoding_no_vectors_gives_no_codes():
    assert Quantizer(8).encode(np.zeros((0, 8), dtype=np.float32)).shape == (0, 5)


@pytest.mark.slow
def test_real_sentences_are_found_again():
    source = DATA / "memory" / "locomo.jsonl"
    if not source.is_file():
        pytest.skip("../shared/data/memory/locomo.jsonl is not there.")
    from engine.encoders.encoder import load_encoder

    conversations = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    turns = list(dict.fromkeys(turn["text"] for conversation in conversations for turn in conversation["memory"]))
    questions = list(dict.fromkeys(query["q"] for query in conversations[0]["queries"]))
    vectors, queries = (load_encoder().encode(texts) for texts in (turns, questions))
    assert recall_at_10(filled(vectors), vectors, queries, candidates_for(10)) >= 0.99


@pytest.mark.parametrize("kind", [SignBlocks, WeighedBlocks])
def test_rows_that_only_fill_a_block_of_any_part_are_never_found(kind):
    quantizer = Quantizer(64)
    vectors = clustered_vectors(134, 64)
    signs, factors = np.split(quantizer.encode(vectors), [quantizer.sign_bytes], axis=1)
    factors = np.ascontiguousarray(factors).view("<f4")[:, 0]
    blocks, parts = kind(quantizer), [slice(0, 33), slice(33, 34), slice(34, 134)]
    blocks.append_blocks([(packed_signs(signs[part]), factors[part]) for part in parts])
    assert blocks.count == 64 + 32 + 128
    assert blocks.live().tolist() == [*range(33), 64, *range(96, 196)]
    _, places, _ = blocks.search(quantizer.rotate(vectors[:1]) / np.linalg.norm(vectors[0]), 134)
    assert sorted(places.tolist()) == blocks.live().tolist()


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100, 1024])
@pytest.mark.parametrize("gone", [[], [0], [-1], [0, -1], "half", "most"])
def test_blocks_without_rows_are_the_blocks_of_the_rest(count, gone):
    rng = np.random.default_rng(count)
    signs = rng.integers(0, 256, (count, 6), dtype=np.uint8)
    kept = np.ones(count, dtype=bool)
    kept[rng.random(count) < {"half": 0.5, "most": 0.95}[gone] if isinstance(gone, str) else gone] = False
    assert (packed_without(packed_signs(signs), kept) == packed_signs(signs[kept])).all()
