"""Restores of the database, into a scratch instance or in place, their proof, and the logical dump."""
