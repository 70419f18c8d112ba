"""Runs, suites and ablations as a page that people read: one HTML file, and the same as Markdown.

What is shown is read from run folders; nothing is computed anew and no model is loaded.
"""
