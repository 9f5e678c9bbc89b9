"""Forms of memories: KV caches and adapters that are made, used, made again and dropped."""
