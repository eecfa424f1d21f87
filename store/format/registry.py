"""The registry: which named values there are, each with the page and mark of its latest sealing. Sealed, one row.

>>> list(Registry.from_bytes(Registry().with_value(bytes(32), 5, bytes(8)).to_bytes()).values.values())
[(5, b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00')]
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

from store.errors import TamperedError
from store.format.padding import pad, unpad
from store.format.parts import prefixed, split_parts
from store.format.ranges import NO_RANGES, Ranges

_VALUE = struct.Struct(">32sQ8s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """``values``: lookup (32 bytes) to (page, mark). ``garbage``: replaced pages, still to be punctured."""

    values: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)
    garbage: Ranges = NO_RANGES

    def with_value(self, lookup: bytes, page: int, mark: bytes) -> Registry:
        """This registry with a value in place of an earlier one."""
        return Registry(values={**self.values, lookup: (page, mark)}, garbage=self._replaced(lookup))

    def without(self, lookup: bytes) -> Registry:
        """This registry without a value that it holds."""
        rest = {key: value for key, value in self.values.items() if key != lookup}
        return Registry(values=rest, garbage=self._replaced(lookup))

    def with_garbage(self, page: int) -> Registry:
        """This registry with one more page to puncture."""
        return replace(self, garbage=self.garbage.with_number(page))

    def _replaced(self, lookup: bytes) -> Ranges:
        before = self.values.get(lookup)
        return self.garbage if before is None else self.garbage.with_number(before[0])

    def to_bytes(self) -> bytes:
        """The plaintext of the table ``registry``."""
        rows = b"".join(_VALUE.pack(lookup, page, mark) for lookup, (page, mark) in sorted(self.values.items()))
        return pad(prefixed(rows, self.garbage.to_bytes()))

    @classmethod
    def from_bytes(cls, padded: bytes) -> Registry:
        """The registry in ``padded``. Raises ``TamperedError``."""
        try:
            rows, garbage = split_parts(unpad(padded), 2)
            values = {lookup: (page, mark) for lookup, page, mark in _VALUE.iter_unpack(rows)}
        except (ValueError, struct.error):
            raise TamperedError("The registry opened but is not laid out as in format 2: restore the store.") from None
        return cls(values=values, garbage=Ranges.from_bytes(garbage))
