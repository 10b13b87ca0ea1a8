"""`python -m jepsen_lite.member`: see the package's text."""

import sys

from jepsen_lite.member.launch import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
