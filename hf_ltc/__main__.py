"""`python -m hf_ltc`, which `accelerate launch -m hf_ltc` runs."""

import sys

from .cli import main

sys.exit(main())
