"""The rows: what `fluxmq-bench` is told, and for whom."""

RATE = 40_000
FLOW, BACKLOG, IDLE, AMQP, NATS = "flow", "backlog", "idle", "amqp", "nats"


class Row:
    def __init__(self, title, work, arguments, publishers=1, fan=1, ceiling=None):
        self.title, self.work, self.arguments = title, work, arguments
        # Messages delivered for each one that `--messages` counts.
        self.delivered_each = publishers * fan
        # QoS and fan whose generator costs bound the row, measured against the null server.
        self.ceiling = ceiling


LIVE = {
    "qos0": Row("QoS 0, 2 × 1 → 1", FLOW, ["--qos", "0", "--window", "2000"], 2, 1, (0, 1)),
    "qos1": Row("QoS 1, 2 × 1 → 1, transient", FLOW, ["--qos", "1", "--window", "200"], 2, 1, (1, 1)),
    "qos2": Row("QoS 2, 2 × 1 → 1, transient", FLOW, ["--qos", "2", "--window", "200"], 2, 1, (2, 1)),
    "fanout": Row("QoS 0, 1 → 50", FLOW, ["--qos", "0", "--publishers", "1", "--subscribers", "50", "--window", "500"], 1, 50, (0, 50)),
    "paced": Row(f"QoS 1, 2 × 1 → 1, {RATE:,}/s in all", FLOW, ["--qos", "1", "--rate", str(RATE), "--window", "1000"], 2, 1),
}
DURABLE = {
    "online": Row("persistent session, online: QoS 1, 2 × 1 → 1", FLOW, ["--persistent", "--qos", "1", "--window", "200"], 2, 1),
    "gather": Row("persistent session, offline: QoS 1 gathers, window 1,000", BACKLOG, []),
    "drain": Row("persistent session, offline: then drains", None, []),
}
WORK = {
    "classic": Row("work queue, durable, 2 → 2, confirms + acks, window 200: RabbitMQ classic", AMQP, ["--queue", "classic", "--subscribers", "2"], 2, 1),
    "quorum": Row("the same: RabbitMQ quorum", AMQP, ["--queue", "quorum", "--subscribers", "2"], 2, 1),
    "jetstream": Row("the same: NATS JetStream", NATS, ["--kind", "jetstream", "--shape", "shared", "--subscribers", "2"], 2, 1),
}
IDLE_ROW = {"idle": Row("idle", IDLE, [])}
# Idle first: a broker that has worked has memory to spare, and would show no growth.
ALL = IDLE_ROW | LIVE | DURABLE | WORK

# Rows that only some peers have; and what a peer has not.
ONLY = {"classic": {"rabbitmq"}, "quorum": {"rabbitmq"}, "jetstream": {"nats", "nats-sync"}}
WITHOUT = {"floor": set(DURABLE), "nats-sync": set(LIVE) | set(IDLE_ROW)}


def of(peer):
    """The rows of a peer, in the order in which they run."""
    return [
        name
        for name, row in ALL.items()
        if row.work and peer in ONLY.get(name, {peer}) and name not in WITHOUT.get(peer, ())
    ]
