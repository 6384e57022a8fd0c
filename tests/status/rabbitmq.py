"""A real RabbitMQ on this machine: a node of its own name, folder and ports, on loopback.

To play with it: `python -m tests.status.rabbitmq`; Ctrl-C ends it and removes its data.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pika
from pika.exceptions import AMQPError

from tests.hdfs.service import Service, until
from tests.support.ports import Ports

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Not the one in /usr/sbin, which is for a machine's one broker and switches users."""
USER, PASSWORD = "trainer", "correct horse"


class RabbitMissing(Exception):
    """There is no RabbitMQ on this machine; says how to get it."""


class RabbitMQ:
    """A broker that keeps its ports and its durable queues when it is stopped and started again."""

    def __init__(self) -> None:
        epmd = shutil.which("epmd")
        if not SERVER.exists() or epmd is None:
            raise RabbitMissing("the real RabbitMQ is missing; run: scripts/rabbitmq.sh")
        self.folder = Path(tempfile.mkdtemp(prefix="coppice-rabbitmq-"))
        atexit.register(self.stop)
        self._ports = Ports(("amqp", "tls", "dist", "epmd"))
        self.port = self._ports.numbers["amqp"]
        self.tls_port = self._ports.numbers["tls"]
        numbers = {name: str(number) for name, number in self._ports.numbers.items()}
        # Erlang's port mapper would otherwise be started by the broker, for everybody, and outlive it.
        self._epmd = Service("epmd", [epmd, "-port", numbers["epmd"], "-address", "127.0.0.1"], self.folder)
        folder = str(self.folder)
        environment = {
            "HOME": folder,  # for .erlang.cookie
            "ERL_EPMD_PORT": numbers["epmd"],
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"coppice-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": numbers["dist"],
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/config",
            "RABBITMQ_PID_FILE": f"{folder}/broker.pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1",
            "detached": "1",  # no shell between us and the broker: a signal reaches it
        }
        settings = [f"{name}={value}" for name, value in environment.items()]
        self._broker = Service("rabbitmq", ["env", *settings, str(SERVER)], self.folder)
        self._configure()

    def start(self) -> Self:
        """Start, and wait until it can be used."""
        self._epmd.start()
        self._broker.start()
        try:
            until(self._answers, 120, "RabbitMQ was not ready")
        except RuntimeError as error:
            raise RuntimeError(f"{error}\n{self._broker.tail()}") from error
        return self

    def pause(self) -> None:
        """Stop the broker as an operator would; its ports stay ours, and nobody answers there."""
        self._broker.stop()

    def freeze(self) -> None:
        """It takes connections and says nothing."""
        self._broker.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._broker.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill everything and remove the data; may be called twice."""
        self._broker.kill()
        self._epmd.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._ports.give_back()
        atexit.unregister(self.stop)

    def connect(self) -> pika.BlockingConnection:
        """A plain connection for the test itself."""
        return pika.BlockingConnection(
            pika.ConnectionParameters(
                host="127.0.0.1",
                port=self.port,
                credentials=pika.PlainCredentials(USER, PASSWORD),
                socket_timeout=5,
            )
        )

    def make_queue(self, name: str, **arguments: Any) -> None:
        """As a platform would: durable."""
        connection = self.connect()
        connection.channel().queue_declare(name, durable=True, arguments=arguments or None)
        connection.close()

    def drop_queue(self, name: str) -> None:
        """Remove it with what is in it."""
        connection = self.connect()
        connection.channel().queue_delete(name)
        connection.close()

    def take(self, queue: str) -> list[tuple[bytes, Any]]:
        """All messages that are in a queue by now, with their properties; they are gone then."""
        connection = self.connect()
        channel = connection.channel()
        found: list[tuple[bytes, Any]] = []
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                break
            found.append((bytes(body), properties))
        connection.close()
        return found

    def put(self, queue: str, *bodies: bytes) -> None:
        """Messages of another program."""
        connection = self.connect()
        channel = connection.channel()
        channel.confirm_delivery()
        for body in bodies:
            channel.basic_publish("", queue, body)
        connection.close()

    def log(self) -> str:
        """All that it said."""
        return self._broker.log.read_text(errors="replace")

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _configure(self) -> None:
        import trustme

        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        self.ca_file = self.folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca_file)
        certificate.private_key_pem.write_to_path(self.folder / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(self.folder / "cert.pem")
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
            f"ssl_options.cacertfile = {self.ca_file}",
            f"ssl_options.certfile = {self.folder / 'cert.pem'}",
            f"ssl_options.keyfile = {self.folder / 'key.pem'}",
            f"default_user = {USER}",
            f"default_pass = {PASSWORD}",
            "log.console = true",
            "log.console.level = info",
        ]
        (self.folder / "rabbitmq.conf").write_text("".join(f"{line}\n" for line in lines))
        (self.folder / "enabled_plugins").write_text("[].\n")

    def _answers(self) -> bool:
        if not self._broker.running:
            raise RuntimeError("RabbitMQ ended")
        try:
            self.connect().close()
        except (AMQPError, OSError):
            return False
        return True


def main() -> None:
    """Start a broker to play with, and keep it until Ctrl-C."""
    try:
        broker = RabbitMQ()
    except RabbitMissing as error:
        raise SystemExit(str(error)) from None
    print("starting ...", flush=True)
    with broker:
        print(
            f"amqp://127.0.0.1:{broker.port}, user {USER!r}, password {PASSWORD!r}; Ctrl-C ends it",
            flush=True,
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping ...", flush=True)


if __name__ == "__main__":
    main()
