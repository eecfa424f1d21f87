"""What holds for every text that Tacit keeps.

>>> is_unicode("naïve"), is_unicode("\\ud800")
(True, False)
"""


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can carry ``text``: a lone surrogate, from odd bytes in a call, it cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
