"""What a run trains towards, one file for each kind, and putting its parts together."""
