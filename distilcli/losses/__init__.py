"""One file a loss, and the fused vocabulary head."""
