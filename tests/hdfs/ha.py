"""A real HDFS with two NameNodes, of which one is active: failed over by hand, as an operator does.

They share their edits by a folder, and fencing is /bin/true: whoever kills the active one must not bring it
back before the other one is active, or has it wait as a standby.
"""

from __future__ import annotations

from typing import Self

from tests.hdfs.cluster import _NAMENODE, HdfsCluster
from tests.hdfs.service import Service, until

_HA_ADMIN = "org.apache.hadoop.hdfs.tools.DFSHAAdmin"
_NAMESERVICE = "coppice"


class HaCluster(HdfsCluster):
    """Two NameNodes, `namenode` and `standby` at first, and a DataNode that reports to both; no HttpFS."""

    def __init__(self, heap_mb: int = 256) -> None:
        super().__init__(httpfs=False, heap_mb=heap_mb)
        self.namenode = self._namenode_service("nn1")
        self.standby = self._namenode_service("nn2")

    @property
    def webhdfs_url(self) -> str:
        """The root folder over WebHDFS, with both NameNodes, as `open_store` takes it."""
        return f"webhdfs://127.0.0.1:{self._ports['http']},127.0.0.1:{self._ports['http2']}"

    def start(self) -> Self:
        """Format both, start everything, make the first active and wait until files can be written."""
        self._tool(_NAMENODE, "-Ddfs.ha.namenode.id=nn1", "-format", "-nonInteractive", "-force")
        self.namenode.start()
        until(lambda: self.state("nn1") == "standby", 60, "the first NameNode was not there")
        self.activate("nn1")
        self._tool(_NAMENODE, "-Ddfs.ha.namenode.id=nn2", "-bootstrapStandby", "-nonInteractive", "-force")
        self.standby.start()
        self.datanode.start()
        self.wait_until_ready()
        return self

    def state(self, which: str) -> str:
        """ "active" or "standby" of nn1 or nn2; "" where it does not answer."""
        port = {"nn1": "http", "nn2": "http2"}[which]
        return str(self._bean(port, "NameNode,name=NameNodeStatus").get("State", ""))

    def activate(self, which: str) -> None:
        """Make one active where the other is dead, or where none is active."""
        self._tool(_HA_ADMIN, "-transitionToActive", "--forceactive", which)

    def failover(self, old: str, new: str) -> None:
        """Hand over in good order."""
        self._tool(_HA_ADMIN, "-failover", old, new)

    def _namenode_service(self, which: str) -> Service:
        return Service(
            f"namenode-{which}", self._java(_NAMENODE, f"-Ddfs.ha.namenode.id={which}"), self.folder
        )

    def _port_names(self) -> tuple[str, ...]:
        return (*super()._port_names(), "rpc2", "http2")

    def _services(self) -> list[Service]:
        return [self.namenode, self.standby, self.datanode]

    def _namenode_settings(self) -> tuple[dict[str, str], dict[str, str]]:
        ports, name = self._ports, _NAMESERVICE
        core = {"fs.defaultFS": f"hdfs://{name}"}
        hdfs = {
            "dfs.nameservices": name,
            f"dfs.ha.namenodes.{name}": "nn1,nn2",
            f"dfs.client.failover.proxy.provider.{name}": (
                "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider"
            ),
            "dfs.namenode.shared.edits.dir": f"file://{self.folder / 'shared-edits'}",
            "dfs.ha.fencing.methods": "shell(/bin/true)",
            "dfs.ha.tail-edits.period": "1s",
        }
        for which, suffix in (("nn1", ""), ("nn2", "2")):
            hdfs[f"dfs.namenode.rpc-address.{name}.{which}"] = f"127.0.0.1:{ports['rpc' + suffix]}"
            hdfs[f"dfs.namenode.http-address.{name}.{which}"] = f"127.0.0.1:{ports['http' + suffix]}"
            hdfs[f"dfs.namenode.name.dir.{name}.{which}"] = f"file://{self.folder / which}"
        return core, hdfs

    def _hdfs_is_ready(self) -> bool:
        """One active NameNode knows the DataNode, which serves every NameNode that runs."""
        both = (("nn1", self.namenode), ("nn2", self.standby))
        states = {which: self.state(which) for which, each in both if each.running}
        if sorted(states.values()) not in (["active"], ["active", "standby"]):
            return False
        active = next(which for which, state in states.items() if state == "active")
        state = self._bean("http" if active == "nn1" else "http2", "NameNode,name=FSNamesystemState")
        actors = self._datanode_actors()
        return (
            state.get("NumLiveDataNodes") == 1
            and state.get("FSState") == "Operational"
            and sum(actor.get("ActorState") == "RUNNING" for actor in actors) >= len(states)
        )
