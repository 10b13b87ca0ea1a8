"""`python -m jepsen_lite`."""

from jepsen_lite.cli import main

if __name__ == "__main__":
    main()
