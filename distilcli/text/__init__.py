"""Documents and rows out of files and hub data sets; tokenizers."""
