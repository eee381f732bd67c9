// Scenarios with Paho for Go, in 3.1.1: HOST PORT
package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

func must(token mqtt.Token) {
	if !token.WaitTimeout(15*time.Second) || token.Error() != nil {
		fmt.Println("FAIL paho go:", token.Error())
		os.Exit(1)
	}
}

func next(got chan mqtt.Message) mqtt.Message {
	select {
	case message := <-got:
		return message
	case <-time.After(15 * time.Second):
		fmt.Println("FAIL paho go: nothing came")
		os.Exit(1)
	}
	return nil
}

func check(good bool, what string) {
	if !good {
		fmt.Println("FAIL paho go:", what)
		os.Exit(1)
	}
}

func connect(id string, clean bool, got chan mqtt.Message) mqtt.Client {
	options := mqtt.NewClientOptions().AddBroker("tcp://" + os.Args[1] + ":" + os.Args[2])
	options.SetClientID(id).SetCleanSession(clean).SetProtocolVersion(4).SetAutoReconnect(false)
	options.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { got <- m })
	client := mqtt.NewClient(options)
	must(client.Connect())
	return client
}

func main() {
	got := make(chan mqtt.Message, 1000)
	reader, writer := connect("paho-go-r", true, got), connect("paho-go-w", true, nil)
	must(reader.Subscribe("paho-go/#", 2, nil))
	for qos := byte(0); qos < 3; qos++ {
		for _, size := range []int{0, 200, 1000000} {
			payload := bytes.Repeat([]byte{qos}, size)
			must(writer.Publish("paho-go/x", qos, false, payload))
			message := next(got)
			check(bytes.Equal(message.Payload(), payload) && message.Qos() == qos, "payload and qos")
		}
	}
	for n := 0; n < 300; n++ {
		writer.Publish("paho-go/order", 1, false, fmt.Sprint(n))
	}
	for n := 0; n < 300; n++ {
		check(string(next(got).Payload()) == fmt.Sprint(n), "order")
	}
	must(writer.Publish("paho-go-retained", 1, true, "kept"))
	must(reader.Subscribe("paho-go-retained", 1, nil))
	check(next(got).Retained(), "retained")
	must(writer.Publish("paho-go-retained", 1, true, ""))
	away := connect("paho-go-a", false, got)
	must(away.Subscribe("paho-go-away", 1, nil))
	away.Disconnect(250)
	must(writer.Publish("paho-go-away", 1, false, "later"))
	next(got)
	away = connect("paho-go-a", false, got)
	check(string(next(got).Payload()) == "later", "kept session")
	away.Disconnect(250)
	fmt.Println("ok paho go, MQTT 3.1.1")
}
