"""Decoder layers of the Llama family, forward and backward written by hand for a frozen base with LoRA."""
