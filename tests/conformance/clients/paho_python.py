"""Scenarios with Paho for Python, in 3.1.1 and 5: paho_python.py HOST PORT"""
import sys
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST, PORT = sys.argv[1], int(sys.argv[2])
WAIT_S = 15


class Client:
    """A client that keeps what it gets."""

    def __init__(self, name, version, kept=False, will=None):
        self.got, self.news = [], threading.Condition()
        self.events = {"connected": threading.Event(), "subscribed": threading.Event()}
        v5 = version == 5
        arguments = {} if v5 else {"clean_session": not kept}
        self.c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, name,
                             protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311, **arguments)
        self.c.on_connect = self.connected
        self.c.on_subscribe = lambda *a: self.events["subscribed"].set()
        self.c.on_message = self.message
        if will:
            self.c.will_set(*will)
        options = {}
        if v5:
            options["clean_start"] = not kept
            if kept:
                options["properties"] = Properties(PacketTypes.CONNECT)
                options["properties"].SessionExpiryInterval = 3600
        self.c.connect(HOST, PORT, 30, **options)
        self.c.loop_start()
        assert self.events["connected"].wait(WAIT_S), "not connected"

    def connected(self, client, userdata, flags, reason, properties):
        assert reason == 0, reason
        self.present = flags.session_present
        self.events["connected"].set()

    def message(self, client, userdata, message):
        with self.news:
            self.got.append(message)
            self.news.notify_all()

    def subscribe(self, topic, qos):
        self.events["subscribed"].clear()
        self.c.subscribe(topic, qos)
        assert self.events["subscribed"].wait(WAIT_S), "not subscribed"

    def publish(self, topic, payload, qos, retain=False, properties=None):
        self.c.publish(topic, payload, qos, retain, properties).wait_for_publish(WAIT_S)

    def expect(self, count):
        with self.news:
            assert self.news.wait_for(lambda: len(self.got) >= count, WAIT_S), f"{len(self.got)} of {count}"
            got, self.got = self.got, []
        assert len(got) == count, got
        return got

    def end(self):
        self.c.disconnect()
        self.c.loop_stop()

    def lose(self):
        self.c._sock.shutdown(2)
        self.c.on_connect = None
        self.c.loop_stop()


def run(version):
    name = f"paho-python-{version}"
    reader, writer = Client(name + "-r", version), Client(name + "-w", version)
    reader.subscribe(name + "/#", 2)
    for qos in range(3):
        for payload in (b"", b"x" * 100, b"y" * 1_000_000):
            writer.publish(f"{name}/{qos}", payload, qos)
            got = reader.expect(1)[0]
            assert (got.payload, got.qos, got.retain) == (payload, qos, 0)
    for n in range(300):
        writer.publish(f"{name}/order", str(n), 1)
    assert [int(m.payload) for m in reader.expect(300)] == list(range(300))
    writer.publish(name + "-retained", b"kept", 1, True)
    reader.subscribe(name + "-retained", 1)
    assert reader.expect(1)[0].retain
    writer.publish(name + "-retained", b"", 1, True)
    reader.expect(1)
    mortal = Client(name + "-m", version, will=(name + "/will", b"gone", 1))
    mortal.lose()
    assert reader.expect(1)[0].payload == b"gone"
    away = Client(name + "-a", version, kept=True)
    away.subscribe(name + "-away", 2)
    away.end()
    for qos in (1, 2):
        writer.publish(name + "-away", str(qos), qos)
    away = Client(name + "-a", version, kept=True)
    assert away.present and [m.payload for m in away.expect(2)] == [b"1", b"2"]
    if version == 5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("a", "1"), ("a", "2")]
        properties.ResponseTopic, properties.CorrelationData = "back", b"\x00\x01"
        writer.publish(name + "/p", b"x", 1, False, properties)
        got = reader.expect(1)[0].properties
        assert got.UserProperty == [("a", "1"), ("a", "2")] and got.CorrelationData == b"\x00\x01"
    for client in (reader, writer, away):
        client.end()
    Client(name + "-a", version).end()


for version in (4, 5):
    run(version)
    print(f"ok paho python, MQTT {'3.1.1' if version == 4 else '5'}")
