import java.util.Arrays;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** Scenarios with Paho for Java, in 3.1.1 and 5: HOST PORT. */
public class Scenarios {
    static void check(boolean good, String what) {
        if (!good) {
            System.out.println("FAIL paho java: " + what);
            System.exit(1);
        }
    }

    static void old(String url) throws Exception {
        BlockingQueue<org.eclipse.paho.client.mqttv3.MqttMessage> got = new LinkedBlockingQueue<>();
        var options = new org.eclipse.paho.client.mqttv3.MqttConnectOptions();
        options.setMqttVersion(4);
        var reader = new org.eclipse.paho.client.mqttv3.MqttClient(url, "paho-java-r", null);
        var writer = new org.eclipse.paho.client.mqttv3.MqttClient(url, "paho-java-w", null);
        reader.connect(options);
        writer.connect(options);
        reader.subscribe("paho-java/#", 2, (topic, message) -> got.add(message));
        for (int qos = 0; qos < 3; qos++) {
            for (int size : new int[] {0, 200, 500_000}) {
                byte[] payload = new byte[size];
                Arrays.fill(payload, (byte) qos);
                writer.publish("paho-java/x", payload, qos, false);
                var message = got.poll(15, TimeUnit.SECONDS);
                check(message != null && Arrays.equals(message.getPayload(), payload) && message.getQos() == qos, "3.1.1, qos " + qos);
            }
        }
        reader.disconnect();
        writer.disconnect();
        System.out.println("ok paho java, MQTT 3.1.1");
    }

    static void five(String url) throws Exception {
        BlockingQueue<org.eclipse.paho.mqttv5.common.MqttMessage> got = new LinkedBlockingQueue<>();
        var reader = new org.eclipse.paho.mqttv5.client.MqttClient(url, "paho-java5-r", null);
        var writer = new org.eclipse.paho.mqttv5.client.MqttClient(url, "paho-java5-w", null);
        reader.setCallback(new org.eclipse.paho.mqttv5.client.MqttCallback() {
            public void messageArrived(String topic, org.eclipse.paho.mqttv5.common.MqttMessage message) { got.add(message); }
            public void disconnected(org.eclipse.paho.mqttv5.client.MqttDisconnectResponse response) {}
            public void mqttErrorOccurred(org.eclipse.paho.mqttv5.common.MqttException error) {}
            public void deliveryComplete(org.eclipse.paho.mqttv5.client.IMqttToken token) {}
            public void connectComplete(boolean again, String server) {}
            public void authPacketArrived(int code, org.eclipse.paho.mqttv5.common.packet.MqttProperties properties) {}
        });
        reader.connect();
        writer.connect();
        reader.subscribe("paho-java5/#", 2);
        for (int qos = 0; qos < 3; qos++) {
            for (int size : new int[] {0, 200, 500_000}) {
                byte[] payload = new byte[size];
                Arrays.fill(payload, (byte) qos);
                writer.publish("paho-java5/x", payload, qos, false);
                var message = got.poll(15, TimeUnit.SECONDS);
                check(message != null && Arrays.equals(message.getPayload(), payload) && message.getQos() == qos, "5, qos " + qos);
            }
        }
        reader.disconnect();
        writer.disconnect();
        System.out.println("ok paho java, MQTT 5");
    }

    public static void main(String[] arguments) throws Exception {
        String url = "tcp://" + arguments[0] + ":" + arguments[1];
        old(url);
        five(url);
        System.exit(0);
    }
}
