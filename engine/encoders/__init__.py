"""From a text to vectors: the encoders of meaning, and spelling beside them."""
