"""`python -m distilcli`, and what the `distilcli` command calls.

Nothing is imported before the `try`: a Ctrl-C may come while Typer still loads.
"""

import sys


def main() -> None:
    """Run the command line."""
    try:
        from distilcli.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
