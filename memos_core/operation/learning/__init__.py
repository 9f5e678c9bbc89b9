"""How the ranking of a user's memories follows what turned out to be useful."""
