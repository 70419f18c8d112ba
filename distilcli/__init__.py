"""distilcli: compress BERT into DistilBERT-style students from the command line."""

__version__ = "0.2.0"
