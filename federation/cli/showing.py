"""An encoder that shows how far it is: for the commands that encode many texts at once."""

from collections.abc import Sequence

from engine.encoder import Vectors, WrappedEncoder, encode_in_parts
from federation.cli.console import progress

_BATCH = 64


class ShowingEncoder(WrappedEncoder):
    """Another encoder that shows a progress bar while it encodes many texts."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, float32 (len(texts), dimension)."""
        if len(texts) <= _BATCH:
            return self.inner.encode(texts)
        with progress(f"Encoding {len(texts)} texts", len(texts)) as tick:
            return encode_in_parts(self.inner, texts, part=_BATCH, tick=tick)
