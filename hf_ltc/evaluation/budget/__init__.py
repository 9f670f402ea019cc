"""How small can I go: the smallest budget that is worth nearly as much as all rows."""
