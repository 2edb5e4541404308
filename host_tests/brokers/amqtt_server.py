# mypy: ignore-errors
# Run by the Python that has aMQTT, and no other.
"""aMQTT over mutual TLS, with its sessions in SQLite: amqtt_server.py OPTIONS (JSON)."""

import asyncio
import json
import signal
import ssl
import sys

from amqtt.broker import Broker


class MutualBroker(Broker):
    """Its own asks for a client's certificate, and serves those that have none."""

    @staticmethod
    def _create_ssl_context(listener):
        context = Broker._create_ssl_context(listener)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


async def main(options):
    listener = {
        "type": "tcp",
        "bind": f"127.0.0.1:{options['port']}",
        "ssl": True,
        "cafile": options["ca"],
        "certfile": options["certificate"],
        "keyfile": options["key"],
    }
    plugins = {
        "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True},
        "amqtt.contrib.persistence.SessionDBPlugin": {
            "connection": f"sqlite+aiosqlite:///{options['folder']}/sessions.db",
            "clear_on_shutdown": False,
        },
    }
    broker = MutualBroker({"listeners": {"default": listener}, "plugins": plugins})
    await broker.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await broker.shutdown()


asyncio.run(main(json.loads(sys.argv[1])))
