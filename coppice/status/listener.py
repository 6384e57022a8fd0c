"""The other side: takes the messages off a queue and keeps account of where each training stands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from coppice.status.broker import Broker, BrokerTrouble, explained, open_broker
from coppice.status.messages import BadMessage, Message
from coppice.status.sender import FIRST_WAIT_S, LONGEST_WAIT_S
from coppice.status.settings import Kind, StatusSettings

LOOK_S = 0.25
"""How often who listens is called, whether anything came or not."""
AT_ONCE = 100
"""Messages that the broker hands over before the first of them is acknowledged."""
MAX_STANDINGS = 1000
"""Trainings that are remembered; of more, those that were silent for longest are forgotten."""

Key = tuple[Kind, int | str, int | str]


def listen(
    settings: StatusSettings,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Message | BadMessage | None]:
    """The messages of the queue as they come; None every `LOOK_S` in which none does. Ends by being closed.

    A message is off the queue once the next one is asked for, so one that was not dealt with comes again. An
    outage is said and outlasted. Raises `BrokerError`, and `BrokerTrouble` if not even the first try finds
    the broker.
    """
    heard, wait_s, troubled = False, FIRST_WAIT_S, False
    while True:
        try:
            with open_broker(settings) as broker:
                if broker.made_queue:
                    say(f"queue {settings.queue_name!r} was not there; made it")
                elif troubled:
                    say(f"{settings.address} answers again")
                heard, wait_s, troubled = True, FIRST_WAIT_S, False
                yield from _take(settings, broker)
        except BrokerTrouble as error:
            if not heard:
                raise
            if not troubled:
                troubled = True
                say(f"{error}; trying again")
            sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
            yield None


def _take(settings: StatusSettings, broker: Broker) -> Iterator[Message | BadMessage | None]:
    channel = broker.channel
    with explained(settings):
        channel.basic_qos(prefetch_count=AT_ONCE)
        incoming = channel.consume(settings.queue_name, inactivity_timeout=LOOK_S)
    while True:
        with explained(settings):
            method, _, body = next(incoming, (None, None, b""))
        if method is None or method.delivery_tag is None:
            if body == b"":  # the queue was removed, and with it the consumer
                raise BrokerTrouble(f"{settings.address} has lost the queue")
            yield None
            continue
        try:
            yield Message.from_bytes(bytes(body or b""))
        except BadMessage as error:
            yield error
        with explained(settings):
            channel.basic_ack(method.delivery_tag)


@dataclass(slots=True)
class Board:
    """Where every training and validation stands, by the messages so far. Takes them as the platform does."""

    standings: dict[Key, Message] = field(default_factory=dict)
    """The last message that counts of each; who was heard of last stands last."""
    last: Message | None = None
    """The last message that counts of all."""

    def take(self, message: Message) -> None:
        """One more message. After an error nothing counts any more."""
        key = (message.kind, message.project_key, message.id)
        before = self.standings.get(key)
        if before is not None and before.state == "error":
            return
        self.standings.pop(key, None)
        self.standings[key] = self.last = message
        while len(self.standings) > MAX_STANDINGS:
            del self.standings[next(iter(self.standings))]

    @property
    def settled(self) -> bool:
        """Whether something was heard, and all that was heard of has ended."""
        return bool(self.standings) and all(each.final for each in self.standings.values())
