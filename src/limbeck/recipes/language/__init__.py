"""Recipes for language models, teacher's logits at hand."""
