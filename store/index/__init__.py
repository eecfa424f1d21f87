"""Indexes over vectors and words, in memory: arrays in, arrays out. Knows no key and no file."""
