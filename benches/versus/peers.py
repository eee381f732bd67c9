"""Starts and ends one broker at a time, each with the configuration that lies in configs/."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent

# What a peer does with a message of a clean session before it acknowledges it: a column of the table.
DURABILITY = {
    "floor": "nothing is stored",
    "fluxmq": "transient messages are not stored; the log is on disk",
    "mosquitto": "memory only, nothing synced",
    "nats": "QoS 0 not stored; QoS 1, 2 in JetStream files, synced every 2 minutes",
    "rabbitmq": "non-durable queues, nothing synced",
}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def find(binaries):
    """Peers this machine can run: name to path. `binaries` holds our own release binaries."""
    found = {"floor": str(binaries / "floor")}
    places = {
        "mosquitto": [shutil.which("mosquitto"), "/usr/sbin/mosquitto"],
        "nats": [os.environ.get("NATS_SERVER"), shutil.which("nats-server")],
        "rabbitmq": ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
        "fluxmq": [os.environ.get("FLUXMQ_BIN") or str(binaries / "fluxmq")],
    }
    for name, paths in places.items():
        path = next((p for p in paths if p and os.access(p, os.X_OK)), None)
        if path:
            found[name] = path
    return found


class Peer:
    """A broker under way on a free port of 127.0.0.1, its files in `directory`."""

    def __init__(self, name, path, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True)
        self.port = free_port()
        self.beside = []
        environment = dict(os.environ)
        if name == "floor":
            command = [path, f"127.0.0.1:{self.port}"]
        elif name == "fluxmq":
            command = [path, "--data-dir", str(self.directory / "data"), "--mqtt", f"127.0.0.1:{self.port}"]
            for other in ("mqtt-ws", "amqp", "http", "coap", "grpc", "admin"):
                command += [f"--{other}", "off"]
        elif name == "mosquitto":
            command = [path, "-c", self.config("mosquitto.conf")]
        elif name == "nats":
            command = [path, "-c", self.config("nats.conf")]
        else:
            command = [path]
            environment |= self.rabbitmq()
        self.log = open(self.directory / "output", "wb")
        # A session of its own: what the broker starts ends with it.
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        self.wait_until_ready()

    def config(self, name):
        text = (HERE / "configs" / name).read_text()
        text = text.replace("@PORT@", str(self.port)).replace("@PORT2@", str(free_port()))
        path = self.directory / name
        path.write_text(text.replace("@DIR@", str(self.directory)))
        return str(path)

    def rabbitmq(self):
        # Its name service would stay as a daemon: ours runs beside it and ends with it.
        epmd_port = free_port()
        epmd = shutil.which("epmd")
        self.beside.append(subprocess.Popen([epmd, "-address", "127.0.0.1", "-port", str(epmd_port)]))
        return {
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(epmd_port),
            "RABBITMQ_NODENAME": f"versus{os.getpid()}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": self.config("rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(HERE / "configs" / "rabbitmq-plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
        }

    def wait_until_ready(self, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                time.sleep(0.5)
                return
            except OSError:
                time.sleep(0.1)
        text = (self.directory / "output").read_text(errors="replace")
        self.end()
        raise RuntimeError(f"the broker did not start: {text[-2000:]}")

    def pids(self):
        """The process and all it started."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
                except OSError:
                    continue
                parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
        ours = {self.process.pid}
        while True:
            more = {p for p, parent in parents.items() if parent in ours} - ours
            if not more:
                return sorted(ours)
            ours |= more

    def end(self):
        for sign in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sign)
                self.process.wait(10)
                break
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        for process in self.beside:
            process.terminate()
            process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
