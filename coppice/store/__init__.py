"""Shared files: one small contract, three homes (a folder, HDFS, memory)."""

from coppice.store.effort import Retry
from coppice.store.errors import PermanentStoreError, StoreError, TooLarge, TransientStoreError
from coppice.store.home import MAX_READ_BYTES, Entry, Home
from coppice.store.store import TEMPORARY_FOLDER, Store
from coppice.store.urls import open_store

__all__ = [
    "MAX_READ_BYTES",
    "TEMPORARY_FOLDER",
    "Entry",
    "Home",
    "PermanentStoreError",
    "Retry",
    "Store",
    "StoreError",
    "TooLarge",
    "TransientStoreError",
    "open_store",
]
