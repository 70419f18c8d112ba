"""One file for each loss, and the fused vocabulary head."""
