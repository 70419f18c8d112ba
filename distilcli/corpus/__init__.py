"""Documents to token store."""
