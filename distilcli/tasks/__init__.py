"""Downstream tasks: their rows, inputs, labels and scores, one file a kind."""
