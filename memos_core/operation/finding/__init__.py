"""How memories are found: words, vectors, what else speaks for a memory, and one ranking of it all."""
