"""The step plan, packing, masking, workers."""
