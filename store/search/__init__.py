"""Finding records in an open store: by embedding, by words, by both, and whom a reading may answer with."""
