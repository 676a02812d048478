"""Models: bases, loading, LoRA, training, merging, generation."""
