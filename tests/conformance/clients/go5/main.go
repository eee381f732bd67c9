// Scenarios with Paho for Go, in 5: HOST PORT
package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

func check(good bool, what any) {
	if !good {
		fmt.Println("FAIL paho go 5:", what)
		os.Exit(1)
	}
}

func soon() context.Context {
	ctx, _ := context.WithTimeout(context.Background(), 15*time.Second)
	return ctx
}

type peer struct {
	client *paho.Client
	conn   net.Conn
	got    chan *paho.Publish
	ack    *paho.Connack
}

func open(id string, expiry uint32, will *paho.WillMessage) *peer {
	conn, err := net.Dial("tcp", os.Args[1]+":"+os.Args[2])
	check(err == nil, err)
	p := &peer{conn: conn, got: make(chan *paho.Publish, 1000)}
	p.client = paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: []func(paho.PublishReceived) (bool, error){
		func(r paho.PublishReceived) (bool, error) { p.got <- r.Packet; return true, nil },
	}})
	connect := &paho.Connect{ClientID: id, CleanStart: expiry == 0, KeepAlive: 30, WillMessage: will}
	connect.Properties = &paho.ConnectProperties{SessionExpiryInterval: &expiry}
	p.ack, err = p.client.Connect(soon(), connect)
	check(err == nil, err)
	return p
}

func (p *peer) subscribe(filter string, qos byte, identifier int) {
	subscribe := &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: qos}}}
	subscribe.Properties = &paho.SubscribeProperties{SubscriptionIdentifier: &identifier}
	_, err := p.client.Subscribe(soon(), subscribe)
	check(err == nil, err)
}

func (p *peer) publish(topic string, qos byte, retain bool, payload []byte) {
	message := &paho.Publish{Topic: topic, QoS: qos, Retain: retain, Payload: payload}
	message.Properties = &paho.PublishProperties{ContentType: "text", User: paho.UserProperties{{Key: "k", Value: "v"}}}
	_, err := p.client.Publish(soon(), message)
	check(err == nil, err)
}

func (p *peer) next() *paho.Publish {
	select {
	case message := <-p.got:
		return message
	case <-time.After(15 * time.Second):
		check(false, "nothing came")
		return nil
	}
}

func main() {
	reader, writer := open("paho-go5-r", 0, nil), open("paho-go5-w", 0, nil)
	reader.subscribe("paho-go5/#", 2, 7)
	for qos := byte(0); qos < 3; qos++ {
		for _, size := range []int{0, 200, 1000000} {
			payload := bytes.Repeat([]byte{qos}, size)
			writer.publish("paho-go5/x", qos, false, payload)
			got := reader.next()
			check(bytes.Equal(got.Payload, payload) && got.QoS == qos, "payload and qos")
			check(got.Properties.ContentType == "text" && got.Properties.User.Get("k") == "v", "properties")
			check(got.Properties.SubscriptionIdentifier != nil && *got.Properties.SubscriptionIdentifier == 7, "identifier")
		}
	}
	for n := 0; n < 300; n++ {
		writer.publish("paho-go5/order", 1, false, []byte(fmt.Sprint(n)))
	}
	for n := 0; n < 300; n++ {
		check(string(reader.next().Payload) == fmt.Sprint(n), "order")
	}
	writer.publish("paho-go5-retained", 1, true, []byte("kept"))
	reader.subscribe("paho-go5-retained", 1, 8)
	check(reader.next().Retain, "retained")
	writer.publish("paho-go5-retained", 1, true, nil)
	reader.next()
	mortal := open("paho-go5-m", 0, &paho.WillMessage{Topic: "paho-go5/will", QoS: 1, Payload: []byte("gone")})
	mortal.conn.Close()
	check(string(reader.next().Payload) == "gone", "will")
	away := open("paho-go5-a", 3600, nil)
	check(!away.ack.SessionPresent, "no session yet")
	away.subscribe("paho-go5-away", 2, 9)
	away.client.Disconnect(&paho.Disconnect{})
	writer.publish("paho-go5-away", 1, false, []byte("later"))
	writer.publish("paho-go5-away", 2, false, []byte("and later"))
	away = open("paho-go5-a", 3600, nil)
	check(away.ack.SessionPresent, "session present")
	check(string(away.next().Payload) == "later" && string(away.next().Payload) == "and later", "kept session")
	away.client.Disconnect(&paho.Disconnect{})
	fmt.Println("ok paho go, MQTT 5")
}
