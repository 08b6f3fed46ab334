"""Texts that a causal language model writes: how, which rows together, and by transformers' `generate`."""
