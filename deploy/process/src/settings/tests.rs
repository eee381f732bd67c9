use std::io::Write as _;

use tempfile::NamedTempFile;

use super::*;

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn variables(all: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    all.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let file = file(text);
    let name = format!("{}: ", file.path().display());
    let loaded = Settings::load(Program::Fluxmq, Some(file.path()), variables(environment), |_| ());
    loaded.map_err(|all| all.iter().map(|line| line.replace(&name, "")).collect())
}

fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    load(text, environment).expect_err("it is wrong")
}

#[test]
fn the_nearest_to_the_person_wins() {
    let text = "mqtt:\n  window_max: 10\n  topic_alias_max: 11\n  connect_s_max: 12\n";
    let file = file(text);
    let environment =
        variables(&[("FLUXMQ_MQTT_TOPIC_ALIAS_MAX", "21"), ("FLUXMQ_MQTT_CONNECT_S_MAX", "22")]);
    let settings = Settings::load(Program::Fluxmq, Some(file.path()), environment, |settings| {
        settings.mqtt.connect_s_max = 32;
    })
    .expect("all is well");
    let mqtt = settings.mqtt;
    assert_eq!((mqtt.window_max, mqtt.topic_alias_max, mqtt.connect_s_max), (10, 21, 32));
    assert_eq!(mqtt.keep_alive_s_max, MqttSettings::default().keep_alive_s_max);
}

#[test]
fn an_unknown_key_is_told_with_place_and_nearest() {
    assert_eq!(
        problems("log:\n  level: info\nmqt:\n  listen: off\n", &[]),
        ["unknown key `mqt`, line 3 column 1; did you mean `mqtt`?"]
    );
    assert_eq!(
        problems("mqtt:\n  listen: off\n  windowmax: 3\n", &[]),
        ["unknown key `windowmax`, line 3 column 3; did you mean `window_max`?"]
    );
    assert_eq!(
        problems("admin:\n  zzz: 3\n", &[]),
        ["unknown key `zzz`, line 2 column 3; known are listen"]
    );
}

#[test]
fn an_unknown_variable_is_told_with_the_nearest() {
    assert_eq!(
        problems("", &[("FLUXMQ_MQTT_LISTN", "off")]),
        ["unknown variable `FLUXMQ_MQTT_LISTN`; did you mean `FLUXMQ_MQTT_LISTEN`?"]
    );
    assert_eq!(problems("", &[("FLUXMQ_mqtt_listen", "off")]).len(), 1);
    assert_eq!(problems("", &[("FLUXMQ_", "1"), ("FLUXMQ_QQQ", "1"), ("FLUX", "")]).len(), 2);
}

#[test]
fn variables_of_kubernetes_services_are_nobodys_mistake() {
    let links = [
        ("FLUXMQ_SERVICE_HOST", "10.0.0.1"),
        ("FLUXMQ_SERVICE_PORT_MQTT", "1883"),
        ("FLUXMQ_PORT", "tcp://10.0.0.1:1883"),
        ("FLUXMQ_PORT_1883_TCP_ADDR", "10.0.0.1"),
        ("FLUXMQ_LOGD_PORT_7400_TCP", "tcp://10.0.0.1:7400"),
    ];
    assert!(load("", &links).is_ok());
    assert!(load("", &[("FLUXMQ_MQTT_PORTS", "1")]).is_err());
}

#[test]
fn everything_out_of_bounds_is_told_at_once() {
    let text = "node:\n  shards: 65\nmqtt:\n  keep_alive_s_max: 4\nstorage:\n  segment_bytes_first: 33554432\n  segment_bytes_max: 16384\n";
    assert_eq!(
        problems(text, &[("FLUXMQ_MQTT_WINDOW_MAX", "0"), ("FLUXMQ_LOG_LEVEL", "loud")]),
        [
            "node.shards, line 2: 65 is out of bounds: 1 to 64",
            "mqtt.keep_alive_s_max, line 4: 4 is out of bounds: at least 5",
            "FLUXMQ_LOG_LEVEL: \"loud\" is no level; write error, warn, info, debug, trace or off",
            "FLUXMQ_MQTT_WINDOW_MAX: 0 is out of bounds: 1 to 1000",
            "storage.segment_bytes_first (33554432) is above storage.segment_bytes_max (16384)",
        ]
    );
}

#[test]
fn what_is_of_another_type_is_told_with_its_place() {
    for (text, place) in [
        ("mqtt:\n  window_max: many\n", "line 2 column 15"),
        ("mqtt:\n  window_max: 70000\n", "line 2 column 15"),
        ("mqtt:\n  listen: 1883\n", "line 2 column"),
        ("mqtt:\n  listen:\n", "line 2 column"),
        ("node:\n  data_dir:\n", "line 2 column"),
        ("mqtt:\n  listen: []\n", "line 2 column 11"),
        ("mqtt: 3\n", "line 1 column 7"),
        ("mqtt:\n  listen: off\n  listen: off\n", "line 3 column 3"),
        ("- mqtt\n", "line 1 column 1"),
        ("mqtt: {\n", "line "),
        ("a: b: c\n", "line 1"),
    ] {
        let said = problems(text, &[]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(place) && !said[0].contains('\n'), "{text:?}: {said:?}");
        println!("{text:?}: {}", said[0]);
    }
}

#[test]
fn addresses_are_words_lists_or_off() {
    let text = "mqtt:\n  listen: [127.0.0.1:1, \"[::1]:2\"]\ngrpc:\n  listen: off\namqp:\n  listen: localhost:3\n";
    let settings = load(text, &[("FLUXMQ_HTTP_LISTEN", "127.0.0.1:4,[::1]:5")]).expect("well");
    assert_eq!(settings.mqtt.listen.to_string(), "127.0.0.1:1, [::1]:2");
    assert_eq!(settings.grpc.listen, ListenAddress::Off);
    assert!(settings.amqp.listen.to_string().contains(":3"));
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:4, [::1]:5");
}

#[test]
fn urls_of_logd_have_a_port_and_nothing_behind_it() {
    let text = "logd:\n  urls: [\"http://a:1/\", \"https://[::1]:2\"]\n";
    assert_eq!(load(text, &[]).expect("well").logd.urls.all(), ["http://a:1", "https://[::1]:2"]);
    for url in ["a:1", "http://a", "ftp://a:1", "http://a:1/x", "http://:1", "", "http://a:1,"] {
        assert!(url.parse::<LogdUrls>().is_err(), "{url}");
    }
}

#[test]
fn a_file_may_be_empty_but_not_absent_or_strange() {
    for text in ["", "\n", "# nothing\n", "---\n", "{}\n"] {
        assert_eq!(load(text, &[]), Ok(Settings::defaults(Program::Fluxmq)), "{text:?}");
    }
    let missing = Settings::load(Program::Logd, Some(Path::new("/no/such/file")), [], |_| ());
    let said = missing.expect_err("it is not there");
    assert!(said[0].starts_with("/no/such/file: "), "{said:?}");
    let directory = Settings::load(Program::Logd, Some(Path::new("/")), [], |_| ());
    assert!(directory.is_err());
    let mut binary = NamedTempFile::new().expect("a file");
    binary.write_all(&[0xFF, 0xFE, 0]).expect("written");
    assert!(Settings::load(Program::Logd, Some(binary.path()), [], |_| ()).is_err());
}

#[test]
fn a_gateway_has_an_admin_port_of_its_own() {
    let port = |program| Settings::defaults(program).admin.listen;
    assert_eq!(port(Program::Fluxmq), ListenAddress::Loopback(8081));
    assert_eq!(port(Program::Logd), ListenAddress::Loopback(8081));
    assert_eq!(port(Program::MqttGateway), ListenAddress::Loopback(8091));
}

#[test]
fn levels_are_words_that_the_log_knows() {
    for level in ["warn", "off", "info,logd=debug", "mqtt_gateway=trace"] {
        assert!(level.parse::<LogLevel>().is_ok(), "{level}");
    }
    for level in ["", "loud", "warn,loud", "logd=loud"] {
        assert!(level.parse::<LogLevel>().is_err(), "{level}");
    }
    assert_eq!(load("log:\n  level: off\n", &[]).expect("well").log.level.as_str(), "off");
}

#[test]
fn the_reference_is_written_from_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let wanted = as_markdown();
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        std::fs::write(&path, &wanted).expect("written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == wanted,
        "docs/configuration.md is old; WRITE_REFERENCE=1 cargo test -p fluxmq-process writes it"
    );
}

#[test]
fn every_key_is_a_variable_and_can_be_set_by_it() {
    for variable in reference::variables() {
        // A word that no key takes: each must look at it and say so, but directories take nearly anything.
        let word = if variable == "FLUXMQ_NODE_DATA_DIR" { "" } else { "\u{1}" };
        let said = problems("", &[(&variable, word)]);
        assert!(said[0].starts_with(&format!("{variable}: ")), "{said:?}");
    }
}
