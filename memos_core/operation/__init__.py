"""What works on memory: find it (MemOperator), choose it (MemScheduler), keep it in shape (MemLifecycle)."""
