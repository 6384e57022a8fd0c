"""Shared files: one small contract, three homes (a folder, HDFS, memory)."""

from coppice.store.drafts import TEMPORARY_FOLDER
from coppice.store.effort import Retry
from coppice.store.errors import PermanentStoreError, StoreError, TooLarge, TransientStoreError
from coppice.store.home import MAX_READ_BYTES, Entry, Home
from coppice.store.staging import Staging
from coppice.store.store import Store
from coppice.store.urls import open_store, tell_trouble

__all__ = [
    "MAX_READ_BYTES",
    "TEMPORARY_FOLDER",
    "Entry",
    "Home",
    "PermanentStoreError",
    "Retry",
    "Staging",
    "Store",
    "StoreError",
    "TooLarge",
    "TransientStoreError",
    "open_store",
    "tell_trouble",
]
