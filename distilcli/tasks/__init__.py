"""Downstream tasks: their rows, inputs, labels and scores, one file for each kind."""
