"""Sends status messages from a thread of its own: whoever trains never waits for the broker."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable

from coppice.status.broker import Broker, BrokerError, BrokerTrouble, QueueFull, open_broker
from coppice.status.messages import Message
from coppice.status.settings import StatusSettings

BUFFER = 1000
"""Messages that wait for the broker; of more, the oldest that only tell of progress are dropped."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
"""Between two tries to connect."""
LAST_WAIT_S = 1.0
"""The longest of these waits once the process wants to end."""
PULSE_S = 5.0
"""How often a connection with nothing to do is looked after: heartbeats."""


class Sender:
    """Delivers messages in order, each at least once: every one is confirmed by the broker before the next.

    `say` is called with one line when the broker is first in trouble, and one when it answers again. A fault
    that trying again will not mend is said once, and then nothing more is sent. Threads: `send` and `close`
    from anywhere.
    """

    def __init__(
        self,
        settings: StatusSettings,
        say: Callable[[str], None],
        *,
        buffer: int = BUFFER,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        self._settings = settings
        self._say = say
        self._buffer = buffer
        self._first_wait_s = self._wait_s = first_wait_s
        self._changed = threading.Condition()
        self._waiting: deque[Message] = deque()
        self._in_hand: Message | None = None
        """Taken off the buffer and not yet confirmed."""
        self._ended = False
        """A final message was given; nothing may follow it."""
        self._given_up = False
        self._deadline: float | None = None
        """Set when the process wants to end: by time.monotonic()."""
        self._hurry_at = float("inf")
        """From then on only the last word is sent: a long queue of progress before it must not cost it."""
        self._in_trouble = False
        """The user was told, and has not been told that it is over."""
        self._full = False
        self._lost = False
        """Something was given and will not be delivered, for a fault that stays."""
        self._thread: threading.Thread | None = None

    def send(self, message: Message) -> None:
        """Have it sent soon. Never waits; after a final message, and after `close`, does nothing."""
        with self._changed:
            if self._ended or self._given_up or self._deadline is not None:
                return
            self._ended = message.final
            if len(self._waiting) >= self._buffer and not message.final:
                self._waiting.popleft()  # no final one: that would be the last
            self._waiting.append(message)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="status messages", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Messages that are not confirmed yet."""
        with self._changed:
            return len(self._waiting) + (self._in_hand is not None)

    def close(self, wait_s: float) -> bool:
        """Wait at most so long until all that was given is confirmed; True: it is. The end of sending."""
        with self._changed:
            if self._given_up:
                return not (self._lost or self._in_hand or self._waiting)
            thread = self._thread
            now = time.monotonic()
            self._deadline, self._hurry_at = now + wait_s, now + wait_s / 2
            self._changed.notify_all()
        if thread is not None:
            thread.join(wait_s)
        with self._changed:
            left = [each for each in (self._in_hand, *self._waiting) if each is not None]
            told = self._given_up or self._in_trouble
            self._given_up = True
        if any(each.final for each in left) and not told:
            self._say(
                f"status messages: {self._settings.address} did not confirm the last one in {wait_s:g} s; "
                "the platform may not know of the end"
            )
        return not (left or self._lost)

    # The thread

    def _run(self) -> None:
        while True:
            try:
                with open_broker(self._settings) as broker:
                    if broker.made_queue:
                        self._tell(f"queue {self._settings.queue_name!r} was not there; made it")
                    self._serve(broker)
                return
            except BrokerError as error:
                self._give_up(str(error))
                return
            except BrokerTrouble as error:
                self._note_trouble(str(error))
            if not self._pause():
                return

    def _serve(self, broker: Broker) -> None:
        """Send until the process wants to end and nothing is left."""
        while True:
            message = self._take()
            if message is None:
                if self._over():
                    return
                broker.pulse()
                continue
            try:
                broker.publish(message.to_bytes())
            except QueueFull as error:
                if not self._full:
                    self._full = True
                    self._tell(f"{error}; some are dropped")
                if not message.final:
                    self._confirmed()  # the next one will say more
                elif not self._pause():
                    return
                continue
            self._confirmed()
            self._wait_s = self._first_wait_s
            if self._in_trouble:
                self._in_trouble = False
                self._tell(f"{self._settings.address} answers again")

    def _take(self) -> Message | None:
        """What is to be sent next, kept in hand until it is confirmed; None if nothing came for a while."""
        with self._changed:
            if self._in_hand is None and not self._waiting and self._deadline is None:
                self._changed.wait(PULSE_S)
            while self._waiting and not self._waiting[0].final and time.monotonic() >= self._hurry_at:
                self._waiting.popleft()
            if self._in_hand is None and self._waiting and not self._given_up:
                self._in_hand = self._waiting.popleft()
            return self._in_hand

    def _confirmed(self) -> None:
        with self._changed:
            self._in_hand = None

    def _over(self) -> bool:
        with self._changed:
            return self._deadline is not None or self._given_up

    def _pause(self) -> bool:
        """Wait before the next try, less long once the process wants to end; False: no more tries."""
        wait_s = self._wait_s * random.uniform(0.5, 1.0)  # senders that lost one broker come back apart
        self._wait_s = min(LONGEST_WAIT_S, 2 * self._wait_s)
        with self._changed:
            if self._deadline is None:
                self._changed.wait_for(lambda: self._deadline is not None, wait_s)
                if self._deadline is not None:
                    self._wait_s = self._first_wait_s  # one more try at once: this was the last chance
            elif time.monotonic() < self._deadline:
                self._changed.wait(min(wait_s, LAST_WAIT_S))
            left = self._in_hand is not None or bool(self._waiting)
            if self._deadline is None:
                return True
            return left and not self._given_up and time.monotonic() < self._deadline

    def _note_trouble(self, what: str) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self._tell(f"{what}; trying again, the work goes on without them")

    def _give_up(self, what: str) -> None:
        self._tell(f"{what}; none are sent")
        with self._changed:
            self._given_up = self._lost = True
            self._waiting.clear()
            self._in_hand = None

    def _tell(self, what: str) -> None:
        """One line for the user, unless `close` has had the last word."""
        with self._changed:
            if not self._given_up:
                self._say(f"status messages: {what}")
