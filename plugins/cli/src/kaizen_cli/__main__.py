"""`python -m kaizen_cli` does what `kaizen` does.

With `-m`, Python itself looks for modules in the working directory first. Where that is
somebody else's, use `kaizen`, or `python -P -m kaizen_cli`.
"""

import sys

from kaizen_cli import main

if __name__ == "__main__":
    sys.exit(main())
