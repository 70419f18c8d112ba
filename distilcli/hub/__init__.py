"""The files of models, from folders or the hub, and what the hub answers."""
