"""Narrower students: smaller hidden states, fewer or smaller heads, fewer inner states.

`sizes.py` says which sizes a student has, `spaces.py` which axis of which weight follows which
size, `moments.py` what a model computes on some text, `choices.py` what of that is kept, and
`narrow.py` makes the smaller model.
"""
