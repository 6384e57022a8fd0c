"""The jars of a real Hadoop, fetched once from Maven Central into a folder that git ignores."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HADOOP_VERSION = "3.4.2"
_REPOSITORY = Path(__file__).resolve().parents[2]
_CACHE = _REPOSITORY / ".cache" / f"hadoop-{HADOOP_VERSION}"
_POM = Path(__file__).with_name("pom.xml")
_DONE = "complete"
_LOCK = _CACHE.with_name("hadoop.lock")


class HadoopMissing(RuntimeError):
    """The real HDFS cannot be started here; the message says what to install."""


def require(program: str) -> str:
    """Full path of `java` or `mvn`, or `HadoopMissing`."""
    found = shutil.which(program)
    if found is None:
        raise HadoopMissing(
            f"{program} is not installed, which the real HDFS of the tests needs: "
            "apt-get install openjdk-17-jre-headless maven"
        )
    return found


def hadoop_jars() -> Path:
    """The folder with the jars; fetched (some 65 MB, 20 s) if it is not complete."""
    require("java")
    _CACHE.parent.mkdir(exist_ok=True)
    with _LOCK.open("w") as lock:  # processes of one test run ask at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_complete():
            _fetch()
    return _CACHE


def _is_complete() -> bool:
    marker = _CACHE / _DONE
    return marker.is_file() and sorted(jar.name for jar in _CACHE.glob("*.jar")) == marker.read_text().split()


def _fetch() -> None:
    maven = require("mvn")
    with tempfile.TemporaryDirectory(dir=_CACHE.parent) as unfinished:
        command = [maven, "--quiet", "--batch-mode", "--file", str(_POM), "dependency:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={unfinished}/jars"]
        outcome = subprocess.run(command, capture_output=True, text=True)
        jars = Path(unfinished, "jars")
        names = sorted(each.name for each in jars.glob("*.jar"))
        if outcome.returncode != 0 or not any(name.startswith("hadoop-hdfs-httpfs") for name in names):
            raise HadoopMissing(
                f"maven could not fetch Hadoop: {outcome.stdout[-2000:]}{outcome.stderr[-2000:]}"
            )
        (jars / _DONE).write_text("\n".join(names))
        shutil.rmtree(_CACHE, ignore_errors=True)
        jars.rename(_CACHE)


if __name__ == "__main__":
    try:
        hadoop_jars()
    except HadoopMissing as error:
        sys.exit(f"tests: {error}")
