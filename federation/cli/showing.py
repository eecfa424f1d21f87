"""Showing how far a step is: an encoder for commands that encode many texts at once, and a bar by share."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from engine.encoders.encoder import Vectors, WrappedEncoder, encode_in_parts
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


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far a step is, in hundredths; gives the function that is told (done, in all)."""
    shown = 0
    with progress(title, 100) as tick:

        def show(done: int, total: int) -> None:
            nonlocal shown
            while shown < (100 * done // total if total else 100):
                tick()
                shown += 1

        yield show
