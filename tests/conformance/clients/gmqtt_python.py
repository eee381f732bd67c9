"""Scenarios with gmqtt, in 3.1.1 and 5: gmqtt_python.py HOST PORT"""
import asyncio
import sys

from gmqtt import Client
from gmqtt.mqtt.constants import MQTTv311, MQTTv50

HOST, PORT = sys.argv[1], int(sys.argv[2])


async def connect(name, version):
    client = Client(name, clean_session=True)
    client.got = asyncio.Queue()
    client.subscribed = asyncio.Event()
    client.on_message = lambda c, topic, payload, qos, properties: c.got.put_nowait((topic, payload, qos, properties)) or 0
    client.on_subscribe = lambda c, *a: c.subscribed.set()
    await client.connect(HOST, PORT, version=version)
    return client


async def run(version, label):
    name = "gmqtt-" + label
    reader, writer = await connect(name + "-r", version), await connect(name + "-w", version)
    reader.subscribe(name + "/#", qos=2)
    await asyncio.wait_for(reader.subscribed.wait(), 15)
    for qos in range(3):
        for payload in (b"x", b"y" * 300_000):
            writer.publish(f"{name}/{qos}", payload, qos=qos)
            topic, got, got_qos, _ = await asyncio.wait_for(reader.got.get(), 15)
            assert (topic, got, got_qos) == (f"{name}/{qos}", payload, qos)
    for n in range(200):
        writer.publish(name + "/order", str(n), qos=1)
    for n in range(200):
        assert (await asyncio.wait_for(reader.got.get(), 15))[1] == str(n).encode()
    if version == MQTTv50:
        writer.publish(name + "/p", b"x", qos=1, user_property=("a", "1"), response_topic="back")
        properties = (await asyncio.wait_for(reader.got.get(), 15))[3]
        assert properties["user_property"] == [("a", "1")] and properties["response_topic"] == ["back"]
    await reader.disconnect()
    await writer.disconnect()
    print("ok gmqtt, MQTT", label)


asyncio.run(run(MQTTv311, "3.1.1"))
asyncio.run(run(MQTTv50, "5"))
