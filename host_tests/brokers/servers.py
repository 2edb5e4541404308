"""Real MQTT brokers, over mutual TLS only: started, stopped, killed and paused by tests.

`with RabbitMQ(folder) as broker:` makes certificates and settings in the folder and starts it; what
it keeps over a restart is in there, too. `MissingError` if the machine does not have the broker.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from host_tests.brokers import install
from host_tests.mqtt.broker import free_ports
from host_tests.mqtt.certificates import Authority

REPO = Path(__file__).resolve().parents[2]
HERE = REPO / "host_tests/brokers"
LOOPBACK = "127.0.0.1"
_START_S = 60  # Erlang on a loaded machine
_STOP_S = 20


class Broker(ABC):
    """What all have in common; a context manager.

    port: mutual TLS. device, peer: where and how two clients connect, as
    host_tests/mqtt/puppet_device.py takes it.
    """

    name = ""
    versions: tuple[int, ...] = (4, 5)  # of MQTT, as CONNECT has them
    forbidden = ""  # a topic that nobody may subscribe to

    def __init__(self, folder: Path):
        self._folder = folder
        (self.port,) = free_ports(1)
        self._authority = Authority(folder, "ca")
        self._certificate = self._authority.issue("server", "localhost", "localhost", LOOPBACK)
        self.device = self._client_of("device", "dev-0001")
        self.peer = self._client_of("peer", "peer")
        self.log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    def _client_of(self, file_name: str, name: str) -> dict[str, Any]:
        certificate = self._authority.issue(file_name, name)
        return {
            "host": "localhost",
            "port": self.port,
            "certificate": str(certificate),
            "key": str(certificate.with_suffix(".key")),
            "ca": str(self._authority.path),
        }

    @property
    def _tls(self) -> dict[str, str]:
        """Paths for a configuration."""
        return {
            "ca": str(self._authority.path),
            "certificate": str(self._certificate),
            "key": str(self._certificate.with_suffix(".key")),
        }

    @abstractmethod
    def version(self) -> str:
        """The broker's own."""

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it at once, with all that belongs to it."""
        self.kill()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), env=self._environment(), cwd=self._folder, stdout=log, stderr=log
            )
        wait_for(lambda: self._accepts() or self._process_ended(), _START_S)

    def _accepts(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.port), 1).close()
        except OSError:
            return False
        return True

    def _process_ended(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}:\n{tail}")
        return False

    def stop(self) -> None:
        """In good order: what is to be kept is written down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self.resume()
            self._process.send_signal(number)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise
            finally:
                self._process = None

    def pause(self) -> None:
        """The machine still takes what is sent to the broker, and the broker says nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)


class Mosquitto(Broker):
    name = "mosquitto"
    _CONFIGURATION = """
persistence true
persistence_location {folder}/
user root
allow_anonymous true
max_queued_messages 0
max_topic_alias 10
log_type {log}
listener {port} 127.0.0.1
cafile {ca}
certfile {certificate}
keyfile {key}
require_certificate true
"""

    def __init__(self, folder: Path, log: str = "notice"):
        """log: "all" for a line a packet."""
        super().__init__(folder)
        self._program = REPO / ".toolchain/bin/mosquitto"
        if not self._program.exists():
            raise install.MissingError("mosquitto: run `make setup`")
        self._configuration = folder / "mosquitto.conf"
        text = self._CONFIGURATION.format(folder=folder, port=self.port, log=log, **self._tls)
        self._configuration.write_text(text)

    def version(self) -> str:
        return install.version_of([str(self._program), "-h"])

    def _command(self) -> list[str]:
        return [str(self._program), "-c", str(self._configuration)]


class RabbitMQ(Broker):
    name = "RabbitMQ"
    _CONFIGURATION = """
listeners.tcp = none
mqtt.listeners.tcp = none
mqtt.listeners.ssl.1 = 127.0.0.1:{port}
mqtt.max_session_expiry_interval_seconds = 86400
ssl_options.cacertfile = {ca}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
anonymous_login_user = guest
anonymous_login_pass = guest
log.console = true
log.console.level = warning
"""

    def __init__(self, folder: Path):
        super().__init__(folder)
        root = install.rabbitmq()
        self._loader = next(root.glob("usr/lib/*/ld*.so.*"))
        self._erlang = root / "usr/lib/erlang"
        self._programs = next(self._erlang.glob("erts-*/bin"))
        self._home = next(root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*"))
        (folder / "rabbitmq.conf").write_text(
            self._CONFIGURATION.format(port=self.port, **self._tls)
        )
        (folder / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
        self._names_port, self._nodes_port = free_ports(2)
        self._names: subprocess.Popen[bytes] | None = None

    def version(self) -> str:
        return self._home.name.rpartition("-")[2]

    def _environment(self) -> Mapping[str, str]:
        folder = self._folder
        plugins = str(self._home / "plugins")
        return {
            "PATH": os.defpath,
            "HOME": str(folder),
            "ROOTDIR": str(self._erlang),
            "BINDIR": str(self._programs),
            "EMU": "beam",
            "PROGNAME": "erl",
            "ERL_LIBS": plugins,
            "ERL_EPMD_PORT": str(self._names_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP_BYTES": "0",
            "RABBITMQ_HOME": str(self._home),
            "RABBITMQ_PLUGINS_DIR": plugins,
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_DIST_PORT": str(self._nodes_port),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
        }

    def _command(self) -> list[str]:
        # What `erl` and the rabbitmq-server script come to, without their fixed paths; so the
        # process started is the broker itself, and takes the signals.
        return [
            *(str(self._loader), "--library-path", str(self._loader.parent)),
            *(str(self._programs / "beam.smp.elf"), "-W", "w", "--"),
            *("-root", str(self._erlang), "-bindir", str(self._programs), "-progname", "erl"),
            *("--", "-home", str(self._folder), "--", "-noshell", "-noinput"),
            *("-epmd_port", str(self._names_port), "-s", "rabbit", "boot", "-boot", "start_sasl"),
            *("-syslog", "logger", "[]", "-syslog", "syslog_error_logger", "false"),
            *("-kernel", "prevent_overlapping_partitions", "false"),
            *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
        ]

    def start(self) -> None:
        if self._names is None:  # else the broker would start a daemon that outlives it
            self._names = subprocess.Popen([self._programs / "epmd"], env=self._environment())
        super().start()

    def close(self) -> None:
        super().close()
        if self._names is not None:
            self._names.kill()
            self._names.wait()
            self._names = None


class Aedes(Broker):
    name = "Aedes"
    forbidden = "forbidden"
    versions = (4,)

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._modules = install.aedes()

    def version(self) -> str:
        manifest = self._modules / "node_modules/aedes/package.json"
        return str(json.loads(manifest.read_text())["version"])

    def _command(self) -> list[str]:
        options = {"modules": str(self._modules), "folder": str(self._folder / "data")}
        options_text = json.dumps({**options, "port": self.port, **self._tls})
        return ["node", str(HERE / "aedes_server.mjs"), options_text]


class Amqtt(Broker):
    name = "aMQTT"
    versions = (4,)

    def __init__(self, folder: Path):
        super().__init__(folder)
        self._python = install.amqtt()

    def version(self) -> str:
        found = next(self._python.parents[1].glob("lib/python*/site-packages/amqtt-*.dist-info"))
        return str(re.findall(r"-([\d.]+)\.dist", found.name)[0])

    def _command(self) -> list[str]:
        options = json.dumps({"folder": str(self._folder), "port": self.port, **self._tls})
        return [str(self._python), str(HERE / "amqtt_server.py"), options]


BROKERS: tuple[type[Broker], ...] = (Mosquitto, RabbitMQ, Aedes, Amqtt)


def wait_for(condition: Callable[[], object], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing within {timeout_s} s")
        time.sleep(0.02)
