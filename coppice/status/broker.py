"""One connection to RabbitMQ: how it is opened, the queue found, and what its faults mean to a person."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from coppice.errors import CoppiceError, printable
from coppice.status.settings import PASSWORD_VARIABLE, StatusSettings

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

CONNECT_S = 5.0
"""For each step on the way to a connection."""
CLOSE_S = 3.0
"""For the broker's goodbye."""
HEARTBEAT_S = 60
BLOCKED_S = 30.0
"""A broker that is out of memory or disk stops reading from us without a word; after so long we hang up."""


class BrokerError(CoppiceError):
    """The broker cannot be used as the settings say, and trying again will not help."""


class BrokerTrouble(CoppiceError):
    """The broker does not answer, or not sensibly: worth trying again."""


class QueueFull(CoppiceError):
    """The queue takes no more: its length is limited, and it refuses what is beyond."""


class Broker:
    """An open connection with one channel, for one thread. Calls raise `BrokerError` or `BrokerTrouble`."""

    def __init__(self, settings: StatusSettings, connection: Any, channel: BlockingChannel) -> None:
        self._settings = settings
        self._connection = connection
        self.channel = channel
        self.made_queue = False
        """Whether the queue was not there."""

    def publish(self, body: bytes) -> None:
        """Returns when the broker has the message: on disk, if the queue is durable. Raises `QueueFull`."""
        import pika
        from pika.exceptions import NackError

        with explained(self._settings):
            try:
                self.channel.basic_publish(
                    exchange="",
                    routing_key=self._settings.queue_name,
                    body=body,
                    properties=pika.BasicProperties(
                        content_type="application/json",
                        content_encoding="utf-8",
                        delivery_mode=pika.DeliveryMode.Persistent,
                    ),
                    mandatory=True,  # a queue that was removed meanwhile is an error, not silence
                )
            except NackError as error:
                raise QueueFull(f"queue {self._settings.queue_name!r} is full") from error

    def pulse(self) -> None:
        """Keep the connection alive while there is nothing to send."""
        with explained(self._settings):
            self._connection.process_data_events(0)


@contextmanager
def open_broker(settings: StatusSettings) -> Iterator[Broker]:
    """Connect, switch confirms on and find the queue, which is made, durable, where it is not there.

    What its owner has made it (durable or not, limited or not) is not asked about and not changed.
    """
    import pika

    # Without a handler Python prints pika's own errors, several lines each, beside the one that we say.
    logging.getLogger("pika").addHandler(logging.NullHandler())
    with explained(settings):
        connection: Any = pika.BlockingConnection(_parameters(settings))
    try:
        with explained(settings):
            broker = Broker(settings, connection, connection.channel())
            _find_queue(settings, connection, broker)
            broker.channel.confirm_delivery()
        yield broker
    finally:
        _hang_up(connection)


def _hang_up(connection: Any) -> None:
    """Close, but not wait without end for a broker that says nothing."""

    def close() -> None:
        with suppress(Exception):  # it may be gone, which is all that is wanted
            connection.close()

    closing = threading.Thread(target=close, name="hanging up", daemon=True)
    closing.start()
    closing.join(CLOSE_S)


def _parameters(settings: StatusSettings) -> Any:
    import pika

    address = settings.address
    tls = None
    if address.tls:
        try:
            context = ssl.create_default_context(cafile=settings.message_ca)
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "strerror", None) or "no certificates in it"
            raise BrokerError(f"message_ca: {settings.message_ca}: cannot be used ({why})") from error
        tls = pika.SSLOptions(context, address.host)
    return pika.ConnectionParameters(
        host=address.host,
        port=address.port,
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(settings.message_id, settings.password),
        ssl_options=tls,
        heartbeat=HEARTBEAT_S,
        blocked_connection_timeout=BLOCKED_S,
        socket_timeout=CONNECT_S,
        stack_timeout=2 * CONNECT_S,
        connection_attempts=1,
    )


def _find_queue(settings: StatusSettings, connection: Any, broker: Broker) -> None:
    from pika.exceptions import ChannelClosedByBroker

    try:
        broker.channel.queue_declare(settings.queue_name, passive=True)
    except ChannelClosedByBroker as error:
        if error.reply_code != 404:
            raise
        broker.channel = connection.channel()
        broker.channel.queue_declare(settings.queue_name, durable=True)
        broker.made_queue = True


@contextmanager
def explained(settings: StatusSettings) -> Iterator[None]:
    """Turn whatever pika and the network raise into `BrokerError` and `BrokerTrouble`, a line each."""
    try:
        yield
    except CoppiceError:
        raise
    except Exception as error:  # pika has many, and some come through that are not its own
        refused = _refusal(error, settings)
        if refused:
            raise BrokerError(f"{settings.address} {refused}") from error
        raise BrokerTrouble(f"{settings.address} {_trouble(error)}") from error


def _refusal(error: Exception, settings: StatusSettings) -> str | None:
    """What is wrong with the settings or the user's rights, None for what may pass."""
    from pika.exceptions import (
        AuthenticationError,
        ChannelClosedByBroker,
        ProbableAccessDeniedError,
        ProbableAuthenticationError,
    )

    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            "shows a certificate that is not trusted; name its authority's file in message_ca "
            f"({error.verify_message})"
        )
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "does not speak TLS; write amqp://, or give the port for TLS (5671)"
    # A broker that goes down at that very moment looks much the same, but for what it says.
    if isinstance(error, AuthenticationError | ProbableAuthenticationError) and "ACCESS_REFUSED" in text:
        return (
            f"refuses user {settings.message_id!r} or the password; "
            f"correct message_id, message_pw or {PASSWORD_VARIABLE}"
        )
    if isinstance(error, ProbableAccessDeniedError) and "NOT_ALLOWED" in text and "is down" not in text:
        return f"has no vhost {settings.address.vhost!r} for user {settings.message_id!r}"
    if isinstance(error, ChannelClosedByBroker) and error.reply_code in (403, 405, 406):
        return f"refuses queue {settings.queue_name!r}: {printable(error.reply_text, ' ')[:200]}"
    return None


def _trouble(error: Exception) -> str:
    from pika.exceptions import (
        ChannelClosedByBroker,
        ConnectionBlockedTimeout,
        ConnectionClosedByBroker,
        IncompatibleProtocolError,
        UnroutableError,
    )

    cause: Any = error
    while cause is not None and not isinstance(cause, OSError):  # pika wraps them, in more than one way
        cause = next(
            (
                each
                for each in (getattr(cause, "exception", None), *cause.args)
                if isinstance(each, Exception)
            ),
            None,
        )
    if isinstance(cause, socket.gaierror):
        return "is no host name that is known here"
    if isinstance(cause, ConnectionRefusedError):
        return "refuses the connection"
    if isinstance(cause, TimeoutError):
        return "does not answer"
    if isinstance(error, IncompatibleProtocolError):
        return "hangs up at once; is it RabbitMQ's port (5672, TLS 5671)?"
    if isinstance(error, ConnectionBlockedTimeout):
        return "takes nothing: its memory or disk is full"
    if isinstance(error, UnroutableError):
        return "has lost the queue"
    if isinstance(error, ConnectionClosedByBroker | ChannelClosedByBroker):
        return f"hangs up ({printable(error.reply_text, ' ')[:200]})"
    if isinstance(cause, OSError) and cause.strerror:
        return f"cannot be reached ({cause.strerror})"
    return f"was lost ({type(error).__name__})"
