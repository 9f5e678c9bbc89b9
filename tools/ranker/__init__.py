"""Training of the ranker: conversations made by program, signals of questions, and the fit."""
