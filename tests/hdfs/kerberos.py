r"""A real HDFS that knows its users by Kerberos, and the KDC that vouches for them, all on loopback.

To have a user with a ticket run something on it:

    python -m tests.hdfs.kerberos .venv/bin/coppice doctor '{httpfs}/shared/work?auth=kerberos'
    python -m tests.hdfs.kerberos .venv/bin/coppice simulate jobs/digits.yaml \
        --work '{webhdfs}/shared/work?auth=kerberos'

Wants Debian's krb5-kdc, krb5-admin-server, krb5-user and libkrb5-dev, and then the extra `kerberos`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Self

from tests.hdfs.cluster import HdfsCluster
from tests.hdfs.jars import require
from tests.hdfs.service import Service, until

REALM = "COPPICE.TEST"
HOST = "localhost"
"""Tickets are for names, not for addresses: so servers are asked by this one."""
_SERVERS = ("nn", "dn", "HTTP", "httpfs")


class SecureCluster(HdfsCluster):
    """NameNode, DataNode and HttpFS that let in only whoever has a ticket. `nn` is the superuser."""

    def __init__(self, heap_mb: int = 256) -> None:
        super().__init__(heap_mb=heap_mb)
        settings = [f"{name}={value}" for name, value in self._kdc_settings().items()]
        self.kdc = Service("krb5kdc", ["/usr/bin/env", *settings, require("krb5kdc"), "-n"], self.folder)

    @property
    def webhdfs_url(self) -> str:
        """See `HdfsCluster.webhdfs_url`."""
        return super().webhdfs_url.replace("127.0.0.1", HOST)

    @property
    def httpfs_url(self) -> str:
        """See `HdfsCluster.httpfs_url`."""
        return super().httpfs_url.replace("127.0.0.1", HOST)

    def start(self) -> Self:
        """See `HdfsCluster.start`."""
        master = ("-r", REALM, "-P", "only-for-tests")
        self._kerberos("kdb5_util", "create", "-s", *master)
        for server in _SERVERS:
            self._add(f"{server}/{HOST}", server)
        self.kdc.start()
        until(self._kdc_answers, 20, "the KDC did not start")
        self.environment(f"nn/{HOST}")
        return super().start()

    def add_user(self, name: str) -> None:
        """Somebody who can have tickets."""
        self._add(name, name)

    def environment(self, user: str) -> dict[str, str]:
        """What a process of `user` needs beside its own environment; there is a fresh ticket in it."""
        name = user.partition("/")[0]
        found = {**self._kdc_settings(), "KRB5CCNAME": f"FILE:{self.folder / name}.tickets"}
        self._kerberos("kinit", "-k", "-t", str(self.folder / f"{name}.keytab"), user, **found)
        return found

    def _add(self, principal: str, keytab: str) -> None:
        self._kerberos("kadmin.local", "-q", f"addprinc -randkey {principal}")
        self._kerberos("kadmin.local", "-q", f"ktadd -k {self.folder / keytab}.keytab -norandkey {principal}")

    def _kerberos(self, program: str, *arguments: str, **environment: str) -> None:
        settings = {**os.environ, **self._kdc_settings(), **environment}
        done = subprocess.run([require(program), *arguments], env=settings, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def _kdc_settings(self) -> dict[str, str]:
        return {
            "KRB5_CONFIG": str(self.folder / "krb5.conf"),
            "KRB5_KDC_PROFILE": str(self.folder / "kdc.conf"),
        }

    def _kdc_answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._ports["kdc"]), 1):
            return True
        return False

    def _port_names(self) -> tuple[str, ...]:
        return (*super()._port_names(), "kdc")

    def _services(self) -> list[Service]:
        return [self.kdc, *super()._services()]

    def _java(self, main: str, *arguments: str, heap_mb: int | None = None) -> list[str]:
        java, *rest = super()._java(main, *arguments, heap_mb=heap_mb)
        tickets = f"FILE:{self.folder / 'nn'}.tickets"
        return [
            "/usr/bin/env",
            f"KRB5CCNAME={tickets}",
            java,
            f"-Djava.security.krb5.conf={self.folder / 'krb5.conf'}",
            *rest,
        ]

    def _configure(self, tuned: bool, safemode_extension_ms: int) -> None:
        super()._configure(tuned, safemode_extension_ms)
        port = self._ports["kdc"]
        (self.folder / "krb5.conf").write_text(
            f"[libdefaults]\ndefault_realm = {REALM}\ndns_lookup_kdc = false\ndns_lookup_realm = false\n"
            "dns_canonicalize_hostname = false\nrdns = false\nudp_preference_limit = 1\n"
            f"[realms]\n{REALM} = {{\n kdc = {HOST}:{port}\n}}\n"
        )
        (self.folder / "kdc.conf").write_text(
            f"[kdcdefaults]\nkdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n"
            f"[realms]\n{REALM} = {{\n database_name = {self.folder / 'principal'}\n"
            f" key_stash_file = {self.folder / 'stash'}\n acl_file = {self.folder / 'acl'}\n}}\n"
        )

    def _identity(self, prefix: str, server: str, keytab: str = "keytab.file") -> dict[str, str]:
        return {
            f"{prefix}kerberos.principal": f"{server}/{HOST}@{REALM}",
            f"{prefix}{keytab}": str(self.folder / f"{server}.keytab"),
        }

    def _namenode_settings(self) -> tuple[dict[str, str], dict[str, str]]:
        core, hdfs = super()._namenode_settings()
        core |= {
            "hadoop.security.authentication": "kerberos",
            "hadoop.http.authentication.type": "kerberos",
            **self._identity("hadoop.http.authentication.", "HTTP", "kerberos.keytab"),
            "hadoop.proxyuser.httpfs.hosts": "*",
            "hadoop.proxyuser.httpfs.groups": "*",
        }
        hdfs |= {
            **self._identity("dfs.namenode.", "nn"),
            **self._identity("dfs.datanode.", "dn"),
            **self._identity("dfs.web.authentication.", "HTTP", "kerberos.keytab"),
            "dfs.block.access.token.enable": "true",
            "ignore.secure.ports.for.testing": "true",
        }
        return core, hdfs

    def _httpfs_settings(self) -> dict[str, str]:
        return {
            **super()._httpfs_settings(),
            "httpfs.authentication.type": "kerberos",
            **self._identity("httpfs.authentication.", "HTTP", "kerberos.keytab"),
            "httpfs.hadoop.authentication.type": "kerberos",
            **self._identity("httpfs.hadoop.authentication.", "httpfs", "kerberos.keytab"),
        }

    def _hdfs_is_ready(self) -> bool:
        if not (self.namenode.running and self.datanode.running):
            raise RuntimeError("the NameNode or the DataNode ended")
        with suppress(RuntimeError):  # its web pages want a ticket, too
            return "Live datanodes (1)" in self.admin("-report", "-live")
        return False

    def _httpfs_is_ready(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._ports["httpfs"]), 1):
            return True
        return False


def main() -> int:
    """Run a command as somebody with a ticket; its exit status."""
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    with SecureCluster() as cluster:
        cluster.add_user("anna")
        cluster.fs("-mkdir", "/shared")
        cluster.fs("-chmod", "777", "/shared")
        urls = {"{webhdfs}": cluster.webhdfs_url, "{httpfs}": cluster.httpfs_url}
        command = sys.argv[1:]
        for mark, url in urls.items():
            command = [each.replace(mark, url) for each in command]
        return subprocess.run(command, env={**os.environ, **cluster.environment("anna")}).returncode


if __name__ == "__main__":
    sys.exit(main())
