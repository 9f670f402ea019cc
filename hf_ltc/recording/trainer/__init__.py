"""Recording by a Trainer of transformers, or of TRL, whose training it does not change."""
