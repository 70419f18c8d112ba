"""The command line: options to calls, exit codes, what people see."""
