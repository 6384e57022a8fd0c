"""`coppice report`: result/report.html, one page that says everything about a run, finished or not.

The page asks nothing of the network, and the same run gives the same bytes.
"""

from __future__ import annotations

from coppice.report_facts import read_facts
from coppice.report_page import page
from coppice.store import Store
from coppice.work import names


def write_report(store: Store) -> str:
    """Write result/report.html and say where it is.

    Raises `CoppiceError` where there is no run, or one of the files that hold its numbers is damaged.
    """
    store.replace(names.RESULT_REPORT, page(read_facts(store)).encode())
    return f"{store.url}/{names.RESULT_REPORT}"
