"""The reference station controller."""
