"""The command line: options to calls, exit codes, what people see; one module a command."""
