"""Loading, saving, heads, copying layers, packed attention, placement."""
