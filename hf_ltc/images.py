"""`decode_image` by the address that scripts know; it stands in [`hf_ltc.training.images`]."""

from .training.images import decode_image as decode_image
