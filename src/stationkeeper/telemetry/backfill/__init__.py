"""Bring missing rows back from other places, and prove that they are the same there and here."""
