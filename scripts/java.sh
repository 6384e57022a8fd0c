#!/bin/sh
# Java and Maven, for the real HDFS that the tests run. Called by make test.
set -eu
if command -v java >/dev/null && command -v mvn >/dev/null; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends openjdk-17-jre-headless maven
else
    echo "tests: the real HDFS needs Java and Maven; as root: apt-get install openjdk-17-jre-headless maven" >&2
    exit 1
fi
