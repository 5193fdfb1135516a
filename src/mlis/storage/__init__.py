"""Atomic writes, locks, and tensor files with a checksum."""
