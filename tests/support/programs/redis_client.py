"""A caller of a Redis server; prints what it saw as one JSON line."""

import argparse
import json
import os
import sys

import redis

from tests.support.programs.peers import list_peers

_TIMEOUT = 10.0
_LARGE = 1 << 20


def hear(client: redis.Redis) -> str:
    """Subscribe on a connection of its own, publish on another, and give what came."""
    with client.pubsub() as subscription:  # type: ignore[no-untyped-call]
        subscription.subscribe("news")
        while (message := subscription.get_message(timeout=_TIMEOUT)) and message["type"] != "message":
            client.publish("news", "heard")
        return message["data"].decode() if message else ""


def main() -> int:
    """Store and fetch, count in a transaction, subscribe."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("host")
    arguments.add_argument("port", type=int)
    given = arguments.parse_args()
    value = os.urandom(_LARGE)
    with redis.Redis(given.host, given.port, socket_timeout=_TIMEOUT) as client:
        client.flushall()
        client.set("blob", value)
        fetched = client.get("blob") == value
        with client.pipeline(transaction=True) as pipeline:
            for _ in range(100):
                pipeline.incr("count")
            counted = pipeline.execute()[-1]
        heard = hear(client)
        print(json.dumps({"fetched": fetched, "counted": counted, "heard": heard, "peers": list_peers()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
