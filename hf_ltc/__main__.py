"""`python -m hf_ltc`, which `accelerate launch -m hf_ltc` runs."""

import sys

from .cli.main import main

sys.exit(main())
