"""What each command does and how its result is shown: one module a command."""
