"""`python -m distilcli`: the same as the `distilcli` command."""

from distilcli.cli import main

if __name__ == "__main__":
    main()
