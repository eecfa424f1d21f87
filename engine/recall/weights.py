"""The shipped weights of the ranking of found memories.

They are set by hand in round numbers, by the reasons given, and fitted to no data: what is learned from one kind of
conversation need not hold for another, and the licences of public ones differ. Which features there are was chosen on
five conversations of a public set (``docs/results.md``).
"""

WEIGHTS = {
    # The evidence of the memory itself: meaning and words weigh the same, the latter once softly and once by BM25.
    "meaning": 0.5,
    "soft": 0.5,
    "words": 0.25,
    # People answer in other words than were asked, next to those words: the surroundings count as much again together.
    "soft_window": 0.5,
    "has_word_window": 0.5,
    "soft_session": 0.5,
    "session_best": 0.5,
    "meaning_before": 0.2,
    "meaning_after": 0.2,
    "answers": 0.3,
    # A question rarely answers one; a long memory says more.
    "asks": -0.5,
    "length": 0.25,
    # Whoever is asked about mostly said it, but may have been told.
    "speaker": 1.0,
    # A date in the question is a filter as good as certain; that a memory has a date or number says less.
    "kept_then": 2.0,
    "kept_soon_after": 1.0,
    "tells_of_then": 1.5,
    "tells_when": 1.0,
    "tells_number": 0.5,
}
