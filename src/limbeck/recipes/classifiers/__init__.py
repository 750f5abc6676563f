"""Recipes for classifiers of images, texts and tables."""
