"""Staged rollouts: a canary, then waves, each behind the proof of the one before; resumable.

Pure logic and its file.
"""
