"""Conversations as a model sees them: rendered by a chat template, and which of their tokens are trained. Without torch."""
