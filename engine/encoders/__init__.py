"""From a text to vectors: the encoders of meaning, and of wording beside it."""
