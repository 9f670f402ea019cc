"""`dataset_identity` by the address that scripts know; it is public as `hf_ltc.dataset_identity`."""

from .data.identity import dataset_identity as dataset_identity
