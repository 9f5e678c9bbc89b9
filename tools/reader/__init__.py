"""Training and evaluation of the bundled reader model."""
