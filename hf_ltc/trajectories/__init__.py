"""What a run recorded, as a value and as files. Imports hub, coresets, scores, data and utils."""
