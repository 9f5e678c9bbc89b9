"""Where callers and prompts meet memory."""
