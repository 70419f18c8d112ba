"""What a run trains towards, one file a kind, and putting its parts together."""
