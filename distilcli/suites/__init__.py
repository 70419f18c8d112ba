"""Many tasks, models and seeds at once: what is run, the runs, their results."""
