"""`python -m benchmarks.returns`."""

import sys

from benchmarks.returns import main

sys.exit(main())
