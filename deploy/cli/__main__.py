"""`python -m deploy.cli`: the command line of this checkout, installed or not."""

from deploy.cli.main import main

if __name__ == "__main__":
    main()
