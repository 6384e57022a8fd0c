"""A real HDFS on this machine: NameNode, DataNode and HttpFS as ordinary processes on loopback.

To play with it: `python -m tests.hdfs.cluster`; Ctrl-C ends it and removes its data.
"""

from __future__ import annotations

import argparse
import atexit
import getpass
import json
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from xml.sax.saxutils import escape

from tests.hdfs.jars import HadoopMissing, hadoop_jars, require
from tests.hdfs.service import Service, until
from tests.support.ports import Ports

_NAMENODE = "org.apache.hadoop.hdfs.server.namenode.NameNode"
_DATANODE = "org.apache.hadoop.hdfs.server.datanode.DataNode"
_HTTPFS = "org.apache.hadoop.fs.http.server.HttpFSServerWebServer"
_SHELL = "org.apache.hadoop.fs.FsShell"
_ADMIN = "org.apache.hadoop.hdfs.tools.DFSAdmin"
_LOG4J = """log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n
"""


class HdfsCluster:
    """A real HDFS. Its servers keep ports and data when stopped, killed and started again.

    `tuned` sets dfs.client.block.write.locateFollowingBlock.initial.delay.ms to 10 in the DataNode; untouched
    ones (400) take 400 ms and more for every other small file. `safemode_extension_ms` is how long a NameNode
    that was restarted stays in safe mode. The user that runs this process is the superuser.
    """

    def __init__(
        self,
        tuned: bool = True,
        httpfs: bool = True,
        heap_mb: int = 256,
        safemode_extension_ms: int = 0,
    ) -> None:
        self._jars = hadoop_jars()
        self.folder = Path(tempfile.mkdtemp(prefix="coppice-hdfs-"))
        atexit.register(self.stop)
        self._heap_mb = heap_mb
        self.user = getpass.getuser()
        self._reserved = Ports(self._port_names())
        self._ports = self._reserved.numbers
        self._configure(tuned, safemode_extension_ms)
        self.namenode = Service("namenode", self._java(_NAMENODE), self.folder)
        self.datanode = Service("datanode", self._java(_DATANODE), self.folder)
        self.httpfs = Service("httpfs", self._java(_HTTPFS), self.folder) if httpfs else None

    @property
    def webhdfs_url(self) -> str:
        """The root folder over WebHDFS, as `open_store` takes it, without a closing slash."""
        return f"webhdfs://127.0.0.1:{self._ports['http']}"

    @property
    def httpfs_url(self) -> str:
        """The root folder over HttpFS, as `open_store` takes it, without a closing slash."""
        return f"webhdfs://127.0.0.1:{self._ports['httpfs']}"

    @property
    def datanode_host(self) -> str:
        """host:port to which WebHDFS sends whoever reads or writes content."""
        return f"127.0.0.1:{self._ports['data_http']}"

    @property
    def in_safe_mode(self) -> bool:
        """Whether the NameNode answers, and lets nobody write."""
        return self._bean("http", "NameNode,name=FSNamesystemState").get("FSState") == "safeMode"

    def start(self) -> Self:
        """Format, start everything and wait until files can be written."""
        self._tool(_NAMENODE, "-format", "-nonInteractive", "-force")
        self.namenode.start()
        self.datanode.start()
        if self.httpfs is not None:
            self.httpfs.start()
        self.wait_until_ready()
        return self

    def wait_until_ready(self, patience_s: float = 60.0) -> None:
        """Wait until every server that is running answers and files can be written."""
        try:
            until(self._hdfs_is_ready, patience_s, "the NameNode or its DataNode was not ready")
            if self.httpfs is not None and self.httpfs.running:
                until(self._httpfs_is_ready, patience_s, "HttpFS was not ready")
        except RuntimeError as error:
            logs = "\n".join(each.tail() for each in self._services())
            raise RuntimeError(f"{error}\n{logs}") from error

    def stop(self) -> None:
        """Kill everything and remove the data; may be called twice."""
        for service in reversed(self._services()):
            service.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._reserved.give_back()
        atexit.unregister(self.stop)

    def fs(self, *arguments: str) -> str:
        """Run `hdfs dfs ARGUMENTS`; what it printed. RuntimeError if it failed."""
        return self._tool(_SHELL, *arguments)

    def admin(self, *arguments: str) -> str:
        """Run `hdfs dfsadmin ARGUMENTS`; what it printed. RuntimeError if it failed."""
        return self._tool(_ADMIN, *arguments)

    def shell_line(self, tool: str = _SHELL) -> str:
        """The command line that stands for `hdfs dfs` here."""
        return " ".join(self._java(tool, heap_mb=128))

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

    def _services(self) -> list[Service]:
        return [each for each in (self.namenode, self.datanode, self.httpfs) if each is not None]

    def _port_names(self) -> tuple[str, ...]:
        return ("rpc", "http", "data", "data_http", "data_ipc", "httpfs")

    def _tool(self, tool: str, *arguments: str) -> str:
        command = self._java(tool, *arguments, heap_mb=128)
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if outcome.returncode != 0:
            raise RuntimeError(f"{' '.join(arguments)}: {outcome.stdout}{outcome.stderr[-3000:]}")
        return outcome.stdout

    def _java(self, main: str, *arguments: str, heap_mb: int | None = None) -> list[str]:
        options = [f"-Xmx{heap_mb or self._heap_mb}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        options += ["--add-opens=java.base/java.lang=ALL-UNNAMED", f"-Djava.io.tmpdir={self.folder / 'tmp'}"]
        options += [
            f"-Dhttpfs.{each}.dir={self.folder / 'conf'}" for each in ("home", "config", "log", "temp")
        ]
        return [require("java"), *options, "-cp", f"{self.folder / 'conf'}:{self._jars}/*", main, *arguments]

    def _configure(self, tuned: bool, safemode_extension_ms: int) -> None:
        conf, ports = self.folder / "conf", self._ports
        for each in ("tmp", "conf/webapps/hdfs", "conf/webapps/datanode"):  # the jars lack these two
            (self.folder / each).mkdir(parents=True)
        (conf / "log4j.properties").write_text(_LOG4J)
        (conf / "httpfs-signature.secret").write_text("only-for-tests")
        namenode_core, namenode_hdfs = self._namenode_settings()
        core = {
            **namenode_core,
            "hadoop.tmp.dir": str(self.folder / "tmp"),
            f"hadoop.proxyuser.{self.user}.hosts": "*",
            f"hadoop.proxyuser.{self.user}.groups": "*",
        }
        hdfs = {
            **namenode_hdfs,
            "dfs.replication": "1",
            "dfs.datanode.data.dir": f"file://{self.folder / 'data'}",
            "dfs.datanode.address": f"127.0.0.1:{ports['data']}",
            "dfs.datanode.http.address": f"127.0.0.1:{ports['data_http']}",
            "dfs.datanode.ipc.address": f"127.0.0.1:{ports['data_ipc']}",
            "dfs.datanode.hostname": "127.0.0.1",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.namenode.safemode.extension": str(safemode_extension_ms),
            "dfs.heartbeat.interval": "1",  # a restarted NameNode hears of its DataNode at once
        }
        if tuned:
            hdfs["dfs.client.block.write.locateFollowingBlock.initial.delay.ms"] = "10"
        for name, settings in (("core", core), ("hdfs", hdfs), ("httpfs", self._httpfs_settings())):
            (conf / f"{name}-site.xml").write_text(_site(settings))

    def _namenode_settings(self) -> tuple[dict[str, str], dict[str, str]]:
        """What core-site and hdfs-site say about where the NameNode is."""
        ports = self._ports
        return {"fs.defaultFS": f"hdfs://127.0.0.1:{ports['rpc']}"}, {
            "dfs.namenode.name.dir": f"file://{self.folder / 'name'}",
            "dfs.namenode.rpc-address": f"127.0.0.1:{ports['rpc']}",
            "dfs.namenode.http-address": f"127.0.0.1:{ports['http']}",
        }

    def _httpfs_settings(self) -> dict[str, str]:
        return {"httpfs.http.port": str(self._ports["httpfs"]), "httpfs.http.hostname": "127.0.0.1"}

    def _hdfs_is_ready(self) -> bool:
        if not (self.namenode.running and self.datanode.running):
            raise RuntimeError("the NameNode or the DataNode ended")
        state = self._bean("http", "NameNode,name=FSNamesystemState")
        # The NameNode believes in a killed DataNode for minutes: the new one itself must say it is known.
        return (
            state.get("NumLiveDataNodes") == 1
            and state.get("FSState") == "Operational"
            and any(actor.get("ActorState") == "RUNNING" for actor in self._datanode_actors())
        )

    def _datanode_actors(self) -> list[dict[str, object]]:
        """What the DataNode says of each NameNode that it reports to."""
        said = self._bean("data_http", "DataNode,name=DataNodeInfo").get("BPServiceActorInfo", "[]")
        actors: list[dict[str, object]] = json.loads(str(said))
        return actors

    def _bean(self, port: str, name: str) -> dict[str, object]:
        """One of a server's management beans; empty while it is not there."""
        said = _get(f"http://127.0.0.1:{self._ports[port]}/jmx?qry=Hadoop:service={name}")
        beans: list[dict[str, object]] = json.loads(said or b"{}").get("beans", [])
        return beans[0] if beans else {}

    def _httpfs_is_ready(self) -> bool:
        query = f"/webhdfs/v1/?op=GETFILESTATUS&user.name={self.user}"
        return bool(_get(f"http://127.0.0.1:{self._ports['httpfs']}{query}"))


def _get(url: str) -> bytes:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as reply:
            return bytes(reply.read())
    except (urllib.error.URLError, OSError):
        return b""


def _site(settings: Mapping[str, str]) -> str:
    properties = "".join(
        f"<property><name>{escape(name)}</name><value>{escape(value)}</value></property>\n"
        for name, value in settings.items()
    )
    return f'<?xml version="1.0"?>\n<configuration>\n{properties}</configuration>\n'


def main() -> None:
    """Start an HDFS to play with, and keep it until Ctrl-C."""
    parser = argparse.ArgumentParser(
        description="A real HDFS on this machine, until Ctrl-C.",
        epilog="example: python -m tests.hdfs.cluster --untouched",
    )
    parser.add_argument("--untouched", action="store_true", help="leave the DataNode's slow default settings")
    parser.add_argument("--no-httpfs", action="store_true", help="start no HttpFS")
    options = parser.parse_args()
    try:
        cluster = HdfsCluster(tuned=not options.untouched, httpfs=not options.no_httpfs)
    except HadoopMissing as error:
        raise SystemExit(str(error)) from None
    print("starting ...", flush=True)
    with cluster:
        print(f"WebHDFS:   {cluster.webhdfs_url}/shared/work")
        if cluster.httpfs is not None:
            print(f"HttpFS:    {cluster.httpfs_url}/shared/work")
        print(f"hdfs dfs:  alias hdfs-dfs='{cluster.shell_line()}'   then: hdfs-dfs -ls -R /")
        print(f"logs:      {cluster.folder}\nCtrl-C ends it and removes its data.", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping ...", flush=True)


if __name__ == "__main__":
    main()
