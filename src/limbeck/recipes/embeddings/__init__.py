"""Recipes for models that give texts vectors, and for models that rank."""
