"""`python -m distilnb` is the command `distilnb`."""

from distilnb.cli import main

if __name__ == "__main__":
    main()
