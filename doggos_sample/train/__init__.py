"""Parts of the training of the sample's CLIP; see ``python -m doggos_sample.train``."""
