"""Let `python -m builder` do what the `builder` command does."""

from builder.cli import main

if __name__ == "__main__":
    main()
