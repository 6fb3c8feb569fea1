"""`python -m kaizen_cli` does what `kaizen` does."""

import sys

from kaizen_cli import main

if __name__ == "__main__":
    sys.exit(main())
