"""`python -m bigdecon_cli`: the same as `bigdecon`."""

from bigdecon_cli.main import main

if __name__ == "__main__":
    main()
