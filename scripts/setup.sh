#!/bin/sh
# Makes .venv with everything pinned in requirements.txt, and Coppice itself in it. Called by make.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-}
for each in python3.11 python3.12 python3.13 python3; do
    [ -n "$python" ] || ! command -v "$each" >/dev/null || python=$each
done
if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: Python 3.11 or newer is needed (on Debian: apt-get install python3 python3-venv)" >&2
    exit 1
fi

if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -q && apt-get install -yq --no-install-recommends python3-venv
    else
        echo "setup: this Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2
        exit 1
    fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
# uv installs in seconds what pip takes a minute for.
[ -x .venv/bin/uv ] || .venv/bin/python -m pip install -q 'uv>=0.4'
VIRTUAL_ENV="$PWD/.venv" .venv/bin/uv pip install -q -r requirements.txt
VIRTUAL_ENV="$PWD/.venv" .venv/bin/uv pip install -q --no-deps -e .
touch .venv/ready
