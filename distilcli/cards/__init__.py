"""Model cards: README.md beside a model, with what the hub reads of it and what people need."""
