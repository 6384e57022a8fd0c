"""Fuzzing: whatever lies in the work folder or in a user's file, only `CoppiceError` comes out of a reader.

Beside each fuzz test stands what it has found, smallest input first, as a plain test.
"""
