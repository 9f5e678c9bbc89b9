"""KV caches as memory: what they depend on, how they are stored, how a request shares them."""
