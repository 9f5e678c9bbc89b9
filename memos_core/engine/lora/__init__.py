"""LoRA adapters as memory: their format, the bank that keeps them loaded, and the plan by which they act."""
