// Scenarios with MQTT.js, in 3.1.1 and 5, over TCP and WebSocket: mqtt_js.js HOST PORT WS_PORT
const mqtt = require('mqtt')
const assert = require('assert')
const [host, port, wsPort] = process.argv.slice(2)

async function connect (url, version, id, more = {}) {
  const client = await mqtt.connectAsync(url, { protocolVersion: version, clientId: id, reconnectPeriod: 0, ...more })
  client.got = []
  client.waiting = []
  client.on('message', (topic, payload, packet) => {
    const one = { topic, payload, packet }
    const next = client.waiting.shift()
    if (next) next(one); else client.got.push(one)
  })
  client.next = () => new Promise((resolve, reject) => {
    if (client.got.length) return resolve(client.got.shift())
    const timer = setTimeout(() => reject(new Error('nothing came to ' + id)), 15000)
    client.waiting.push(one => { clearTimeout(timer); resolve(one) })
  })
  return client
}

async function run (url, version, label) {
  const name = 'mqtt-js-' + label
  const reader = await connect(url, version, name + '-r')
  const writer = await connect(url, version, name + '-w')
  await reader.subscribeAsync(name + '/#', { qos: 2 })
  for (const qos of [0, 1, 2]) {
    for (const payload of [Buffer.alloc(0), Buffer.alloc(200, 1), Buffer.alloc(500000, 2)]) {
      await writer.publishAsync(`${name}/${qos}`, payload, { qos })
      const got = await reader.next()
      assert(got.payload.equals(payload) && got.packet.qos === qos)
    }
  }
  for (let n = 0; n < 300; n++) writer.publish(name + '/order', String(n), { qos: 1 })
  for (let n = 0; n < 300; n++) assert.strictEqual((await reader.next()).payload.toString(), String(n))
  await writer.publishAsync(name + '-retained', 'kept', { qos: 1, retain: true })
  await reader.subscribeAsync(name + '-retained', { qos: 1 })
  assert((await reader.next()).packet.retain)
  await writer.publishAsync(name + '-retained', '', { qos: 1, retain: true })
  await reader.next()
  const mortal = await connect(url, version, name + '-m', { will: { topic: name + '/will', payload: Buffer.from('gone'), qos: 1 } })
  mortal.stream.destroy()
  assert.strictEqual((await reader.next()).payload.toString(), 'gone')
  const kept = { clean: false, ...(version === 5 ? { properties: { sessionExpiryInterval: 3600 } } : {}) }
  const away = await connect(url, version, name + '-a', kept)
  await away.subscribeAsync(name + '-away', { qos: 1 })
  await away.endAsync()
  await writer.publishAsync(name + '-away', 'later', { qos: 1 })
  const again = mqtt.connect(url, { protocolVersion: version, clientId: name + '-a', reconnectPeriod: 0, ...kept })
  const later = await new Promise((resolve, reject) => {
    again.on('message', (topic, payload) => resolve(payload.toString()))
    setTimeout(() => reject(new Error('nothing came later')), 15000).unref()
  })
  assert.strictEqual(later, 'later')
  for (const client of [reader, writer, again]) await client.endAsync()
  console.log('ok mqtt.js,', label)
}

(async () => {
  for (const [version, label] of [[4, '3.1.1'], [5, '5']]) {
    await run(`mqtt://${host}:${port}`, version, 'MQTT ' + label)
    await run(`ws://${host}:${wsPort}/mqtt`, version, 'MQTT ' + label + ' over WebSocket')
  }
  process.exit(0)
})().catch(error => { console.error('FAIL mqtt.js:', error); process.exit(1) })
