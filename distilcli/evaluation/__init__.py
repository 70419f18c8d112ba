"""Quality on held-out text and dev examples, comparison of models, speed."""
