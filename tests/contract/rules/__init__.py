"""The rules of the house, as functions that return one sentence for each breach."""
