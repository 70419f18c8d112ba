"""The loop, one step, checkpoints, the run folder, processes, preflight, profiling."""
