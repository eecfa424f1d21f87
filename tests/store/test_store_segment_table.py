"""The table of segments against a plain dict of them."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.errors import TamperedError
from store.format.segment_table import NO_SEGMENTS, SegmentRef, SegmentTable

REFS = st.builds(
    SegmentRef,
    number=st.integers(0, 40) | st.integers(2**40, 2**40 + 3),
    page=st.integers(0, 5) | st.just(2**64 - 1),
    mark=st.sampled_from([bytes(8), b"markmark", b"\xff" * 8, b"m\0\0\0\0\0\0\0"]),
    live=st.integers(1, 1024),
    soonest=st.sampled_from([-math.inf, -1.5, 0.0, 7.0, math.inf]),
    linked=st.booleans(),
)
TABLES = st.lists(REFS, max_size=12)


def table(refs: list[SegmentRef]) -> SegmentTable:
    made = NO_SEGMENTS
    for ref in refs:
        made = made.with_ref(ref)
    return made


@given(refs=TABLES, asked=st.integers(0, 45))
def test_table_holds_what_a_dict_would(refs: list[SegmentRef], asked: int) -> None:
    made, plain = table(refs), {ref.number: ref for ref in refs}
    assert dict(made) == plain
    assert list(made) == sorted(plain)
    assert (len(made), asked in made, made.get(asked)) == (len(plain), asked in plain, plain.get(asked))
    assert all(type(ref.linked) is bool and type(ref.mark) is bytes for ref in made.values())
    assert SegmentTable(made.data) == made
    assert made.soonest() == min((ref.soonest for ref in plain.values()), default=math.inf)
    assert made.expiring(0.0) == [ref for _, ref in sorted(plain.items()) if ref.soonest <= 0.0]
    assert made.linked() == [ref for _, ref in sorted(plain.items()) if ref.linked]


@given(refs=TABLES, drop=st.sets(st.integers(0, 11)))
def test_table_without_a_segment_is_the_table_of_the_rest(refs: list[SegmentRef], drop: set[int]) -> None:
    plain = {ref.number: ref for ref in refs}
    made = table(refs)
    for at in drop:
        if at < len(plain):
            number = sorted(plain)[at]
            del plain[number]
            made = made.without(number)
    assert dict(made) == plain


@given(before=TABLES, after=TABLES, shared=TABLES)
def test_changes_are_those_of_two_dicts(
    before: list[SegmentRef], after: list[SegmentRef], shared: list[SegmentRef]
) -> None:
    earlier, later = table(before + shared), table(after + shared)
    old, new = dict(earlier), dict(later)
    gone = [n for n in sorted(old) if n not in new or new[n].identity != old[n].identity]
    fresh = [new[n] for n in sorted(new) if n not in old or new[n].identity != old[n].identity]
    assert later.changes_since(earlier) == (gone, fresh)


@pytest.mark.parametrize(
    "rows",
    [
        [(2, 1, b"m" * 8, 1, 0.0, 0), (1, 1, b"m" * 8, 1, 0.0, 0)],
        [(1, 1, b"m" * 8, 1, 0.0, 0), (1, 2, b"n" * 8, 1, 0.0, 0)],
        [(1, 1, b"m" * 8, 0, 0.0, 0)],
        [(1, 1, b"m" * 8, 1025, 0.0, 0)],
        [(1, 1, b"m" * 8, 1, math.nan, 0)],
    ],
    ids=["descending", "twice", "empty", "too many", "no time"],
)
def test_rows_that_no_segments_have_are_refused(rows: list[tuple[object, ...]]) -> None:
    with pytest.raises(TamperedError):
        SegmentTable(b"".join(struct.pack(">QQ8sHdB", *row) for row in rows))


@pytest.mark.parametrize("size", [1, 34, 36, 69])
def test_a_cut_row_is_refused(size: int) -> None:
    with pytest.raises(TamperedError):
        SegmentTable(struct.pack(">QQ8sHdB", 1, 1, b"m" * 8, 1, 0.0, 0).ljust(70, b"\0")[:size])
