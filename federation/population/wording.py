"""From a wording with slots to the sentence that one person would type.

Guarantees: every sentence is non-empty and has no slot left open; the same generator state gives the same sentence.

>>> from random import Random
>>> fill("meet at {spot} {soon}", {"spot": ("the gym",)}, hour=9.0, rng=Random("0"))
'meet at the gym this morning'
"""

import re
from collections.abc import Mapping
from random import Random

from federation.population.people import Voice
from federation.population.words import SLOTS

_SLOT = re.compile(r"\{(\w+)\}")
# "move it to" + "on Friday" must read "move it to Friday".
_DOUBLE = re.compile(r"\b(to|for|in|by|before|until) (?:on|at) ")
# Words that lose their capital after "hey, …"; names keep theirs.
_PLAIN_START = re.compile(
    r"(The|No|What|What's|When|Where|How|We|We're|Running|Any|Anything|Is|It's|Long|Can|Can't|My|Something|Visiting)\b"
)


def _by_hour(slot: str, hour: float, rng: Random) -> str | None:
    """Words that depend on the time of day, so that nobody asks for lunch at nine in the evening."""
    if slot == "meal":
        return "breakfast" if hour < 9.5 else "lunch" if hour < 15.5 else rng.choice(("dinner", "supper"))
    if slot == "soon":
        part = "this morning" if hour < 11 else "this afternoon" if hour < 15.5 else "tonight"
        return rng.choice((part, part, "today"))
    if slot == "later":
        half_hours = round(2 * (hour + rng.uniform(0.5, 2.0)))
        full, half = half_hours // 2 % 24, half_hours % 2 == 1
        twelve = full % 12 or 12
        return rng.choice((f"{full:02d}:{30 * half:02d}", f"half {twelve}" if half else f"{twelve}"))
    return None


def fill(wording: str, slots: Mapping[str, tuple[str, ...]], *, hour: float, rng: Random) -> str:
    """Fill each ``{slot}``: from the person's ``slots`` first, then by the hour, then from the common words."""

    def word(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot in slots:
            return rng.choice(slots[slot])
        return _by_hour(slot, hour, rng) or rng.choice(SLOTS[slot])

    return _DOUBLE.sub(r"\1 ", _SLOT.sub(word, wording))


def _frame(clause: str, voice: Voice, rng: Random) -> str:
    frame = rng.choice(voice.frames)
    # "please … please" and a question mark after "please" read badly.
    return clause if "please" in clause and "please" in frame else frame.replace("{x}", clause)


def _misspell(text: str, rng: Random) -> str:
    """Swap two neighbouring letters inside one longer word."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return text
    position = rng.choice(long)
    word = words[position]
    at = rng.randrange(1, len(word) - 2)
    words[position] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _abbreviate(text: str, voice: Voice) -> str:
    for full, short in voice.abbreviations:
        text = re.sub(rf"\b{re.escape(full)}\b", short, text)
    return text


def speak(clause: str, voice: Voice, *, rng: Random, framed: bool) -> str:
    """Put a filled clause in a person's own way of writing; ``framed`` for a clause that may be wrapped."""
    text = _frame(clause, voice, rng) if framed else clause
    text = _abbreviate(text, voice)
    if rng.random() < voice.typo:
        text = _misspell(text, rng)
    if rng.random() < voice.opener_rate:
        rest = text[0].lower() + text[1:] if _PLAIN_START.match(text) else text
        text = f"{rng.choice(voice.openers)}, {rest}"
    if not text.endswith("?"):
        if rng.random() < voice.closer_rate:
            text = f"{text}, {rng.choice(voice.closers)}"
        text += "" if text.endswith("?") else voice.full_stop
    return text.lower() if voice.lower_case else text[0].upper() + text[1:]
