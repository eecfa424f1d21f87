"""The shipped weights of the ranking of found memories.

They are printed by ``benchmarks/recall_weights.py``: half the way from weights set by hand, by the reasons given there,
to those that are best for questions about the scripts of a series (FriendsQA, whose licence allows it). Nothing else
was fitted to, and what the scripts do not have, such as dates, weighs as set by hand. Which features there are was
chosen on conversations of public sets (``docs/results.md``).
"""

WEIGHTS = {
    # The evidence of the memory itself: what the question and its words mean, and the words softly and exactly.
    "meaning": 0.25,
    "words": 0.17,
    "sense": 0.33,
    "soft": 0.32,
    # People answer in other words than were asked, next to those words: the surroundings count as much again together.
    "soft_window": 0.29,
    "sense_window": 0.48,
    "phrase_window": 1.22,
    "has_word_window": 0.25,
    "soft_session": 0.25,
    "meaning_before": 0.13,
    "meaning_after": 0.1,
    "answers": 0.24,
    "session_best": 0.7,
    # Whoever is asked about mostly said it, but may have been told.
    "speaker": 0.76,
    # A question rarely answers one; a long memory says more.
    "asks": -0.55,
    "length": 0.47,
    # A date in the question is a filter as good as certain; that a memory has a date or number says less.
    "tells_when": 1.14,
    "tells_number": 1.03,
    "kept_then": 1.92,
    "kept_soon_after": 1.0,
    "tells_of_then": 1.49,
}
