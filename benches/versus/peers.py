"""Starts and ends one broker at a time, each with the configuration that lies in configs/."""
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("VERSUS_CACHE") or pathlib.Path.home() / ".cache/fluxmq-versus")

# What a peer does with a message before it acknowledges it, in the transient and in the durable rows: columns.
DURABILITY = {
    "floor": ("nothing is stored", "no such rows"),
    "fluxmq": ("nothing is stored", "synced before the acknowledgement, group commit"),
    "other": ("as fluxmq", "as fluxmq"),
    "two-tier": ("nothing is stored", "synced before the acknowledgement, group commit; logd and mqtt-gateway apart"),
    "mosquitto": ("nothing is stored", "in memory; the file is written each 30 minutes, not synced"),
    "nats": ("QoS 0 not; QoS 1, 2 in JetStream files, not synced", "JetStream files, synced each 2 minutes (default)"),
    "nats-sync": ("no such rows", "JetStream files, synced at each message (sync_interval: always)"),
    "rabbitmq": ("non-durable queues, nothing synced", "durable queues; confirmed after a sync, which is batched; quorum where named"),
    "artemis": ("QoS 0, 1, 2 in non-durable queues, nothing synced", "journal, fdatasync before the acknowledgement, batched by a time-out"),
    "rumqttd": ("memory only", "memory only: nothing survives the process"),
    "fluxmq-go": ("memory", "badger, as its configuration says"),
}
ORDER = list(DURABILITY)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def find(binaries):
    """Peers this machine can run: name to the paths of their programs. `binaries` holds our release binaries."""
    nats = [os.environ.get("NATS_SERVER"), CACHE / "bin/nats-server", shutil.which("nats-server")]
    places = {
        "floor": [[binaries / "floor"]],
        "fluxmq": [[os.environ.get("FLUXMQ_BIN") or binaries / "fluxmq"]],
        "other": [[os.environ.get("OTHER_BIN")]],
        "two-tier": [[binaries / "logd"], [binaries / "mqtt-gateway"]],
        "mosquitto": [[shutil.which("mosquitto"), "/usr/sbin/mosquitto"]],
        "nats": [nats],
        "nats-sync": [nats],
        "rabbitmq": [["/usr/lib/rabbitmq/bin/rabbitmq-server"], [shutil.which("epmd")]],
        "artemis": [[CACHE / "artemis/bin/artemis"], [shutil.which("java")]],
        "rumqttd": [[CACHE / "bin/rumqttd", shutil.which("rumqttd")]],
        "fluxmq-go": [[os.environ.get("FLUXMQ_GO_BIN")]],
    }
    found = {}
    for name, programs in places.items():
        paths = [next((str(p) for p in of if p and os.access(p, os.X_OK)), None) for of in programs]
        if all(paths):
            found[name] = paths
    return found


def parents():
    """Every process and its parent."""
    known = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            known[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
    return known


class Peer:
    """A broker under way on free ports of 127.0.0.1, its files in `directory`."""

    def __init__(self, name, paths, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True)
        self.port, self.native_port = free_port(), free_port()
        # Their page of metrics says what the disk cannot: commit rounds of this broker alone. METRICS=yes.
        self.admin_port = free_port() if os.environ.get("METRICS") and name in ("fluxmq", "other", "two-tier") else None
        # Ours read their settings from FLUXMQ_*, and refuse what is none.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("FLUXMQ_")}
        self.beside, self.processes = [], []
        self.log = open(self.directory / "output", "wb")
        try:
            recipe = {"other": "fluxmq", "nats-sync": "nats"}.get(name, name).replace("-", "_")
            for command in getattr(self, recipe)(name, *paths):
                self.start(command)
            self.wait_until_ready(self.port)
        except BaseException:
            self.end()
            raise

    # How each is started: the commands of its processes.

    def floor(self, _, path):
        return [[path, f"127.0.0.1:{self.port}"]]

    def fluxmq(self, _, path):
        command = [path, "--data-dir", str(self.directory / "data"), "--mqtt", f"127.0.0.1:{self.port}"]
        for other in ("mqtt-ws", "amqp", "http", "coap", "grpc"):
            command += [f"--{other}", "off"]
        return [command + ["--admin", self.admin()]]

    def two_tier(self, _, logd, gateway):
        data, grpc = str(self.directory / "data"), f"127.0.0.1:{self.native_port}"
        self.start([logd, "--data-dir", data, "--grpc", grpc, "--admin", self.admin()])
        self.wait_until_ready(self.native_port)
        mqtt = ["--mqtt", f"127.0.0.1:{self.port}", "--mqtt-ws", "off"]
        return [[gateway, "--logd", f"http://{grpc}", *mqtt, "--admin", "off"]]

    def admin(self):
        return f"127.0.0.1:{self.admin_port}" if self.admin_port else "off"

    def mosquitto(self, _, path):
        return [[path, "-c", self.config("mosquitto.conf")]]

    def nats(self, name, path):
        sync = "always" if name == "nats-sync" else "2m"
        return [[path, "-c", self.config("nats.conf", SYNC=sync)]]

    def rumqttd(self, _, path):
        return [[path, "-c", self.config("rumqttd.toml")]]

    def rabbitmq(self, _, path, epmd):
        # Its name service would stay as a daemon: ours runs beside it and ends with it.
        epmd_port = free_port()
        self.beside.append(subprocess.Popen([epmd, "-address", "127.0.0.1", "-port", str(epmd_port)]))
        self.environment |= {
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
        return [[path]]

    def artemis(self, _, path, java):
        instance = self.directory / "instance"
        make = [path, "create", str(instance), "--silent", "--user", "bench", "--password", "bench", "--allow-anonymous"]
        make += ["--no-web", "--no-autotune", "--nio"]
        subprocess.run(make, stdout=self.log, stderr=self.log, check=True, timeout=60)
        shutil.copy(self.config("artemis.xml"), instance / "etc/broker.xml")
        return [[str(instance / "bin/artemis"), "run"]]

    def fluxmq_go(self, _, path):
        return [[path, "-config", self.config("fluxmq-go.yaml")]]

    def config(self, name, **more):
        text = (HERE / "configs" / name).read_text()
        values = {"PORT": self.port, "PORT2": self.native_port, "PORT3": free_port(), "DIR": self.directory, **more}
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def start(self, command):
        # A session of its own: what the broker starts ends with it.
        self.processes.append(
            subprocess.Popen(
                command, env=self.environment, stdout=self.log, stderr=self.log, start_new_session=True
            )
        )

    def wait_until_ready(self, port, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end and all(p.poll() is None for p in self.processes):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                time.sleep(0.5)
                return
            except OSError:
                time.sleep(0.1)
        text = (self.directory / "output").read_text(errors="replace")
        raise RuntimeError(f"the broker did not start: {text[-500:]}")

    def alive(self):
        return all(p.poll() is None for p in self.processes)

    def pids(self):
        """The processes and all they started."""
        known = parents()
        ours = {p.pid for p in self.processes}
        while True:
            more = {p for p, parent in known.items() if parent in ours} - ours
            if not more:
                return sorted(ours)
            ours |= more

    def end(self):
        for process in reversed(self.processes):
            for sign in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, sign)
                    process.wait(10)
                    break
                except ProcessLookupError:
                    process.poll()
                    break
                except subprocess.TimeoutExpired:
                    continue
        for process in self.beside:
            process.terminate()
            process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
