"""Copied as they are into every export: nothing here may import anything but torch."""
