import sys

from lmc_fast.cli import main

sys.exit(main())
