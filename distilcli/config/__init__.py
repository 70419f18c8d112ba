"""The tree of settings, reading it, saying what is wrong with it."""
