"""Adversarial training: losses, the recipe, and the loop that fits a network."""
