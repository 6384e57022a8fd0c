#!/bin/sh
# RabbitMQ, for the status messages that the tests send. Called by make test.
set -eu
if [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && command -v epmd >/dev/null; then
    exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    # The package would start a broker of its own at once; the tests start one where nobody else looks.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends rabbitmq-server
else
    echo "tests: status messages need RabbitMQ; as root: apt-get install rabbitmq-server" >&2
    exit 1
fi
