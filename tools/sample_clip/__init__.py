"""Parts of the training of the sample's CLIP; see ``tools/train_sample_clip.py``."""
