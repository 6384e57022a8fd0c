"""Telling the world: status messages over AMQP, and metric logs. See `Reporter`.

`Reporter` is what a training uses; `Listener` reads the messages on the other side.
"""

from coppice.status.messages import BadMessage, Message
from coppice.status.metric_logs import MetricLogs
from coppice.status.metrics import MetricLog
from coppice.status.reporter import Reporter, open_reporter
from coppice.status.settings import StatusSettings, StatusSettingsError, load_status_settings

__all__ = [
    "BadMessage",
    "Message",
    "MetricLog",
    "MetricLogs",
    "Reporter",
    "StatusSettings",
    "StatusSettingsError",
    "load_status_settings",
    "open_reporter",
]
