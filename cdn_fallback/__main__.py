"""``python -m cdn_fallback`` is ``cdn-fallback``."""

import sys

from cdn_fallback.cli import main

if __name__ == "__main__":
    sys.exit(main())
