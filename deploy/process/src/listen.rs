//! Addresses to listen on, and binding all of them before any is served.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use socket2::{Domain, Protocol, Socket, Type};

use crate::program::Program;
use crate::settings::word_or_list;

/// Connections the kernel holds for us until they are accepted.
const BACKLOG: i32 = 4_096;

/// Where a listener listens: `off`, or `HOST:PORT`, several separated by commas (in a file also as a list).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd)]
pub enum ListenAddress {
    /// Not at all.
    Off,
    /// On 127.0.0.1, and on ::1 where the machine has it.
    Loopback(u16),
    /// On these.
    At(Vec<SocketAddr>),
}

// === impl ListenAddress ===

impl ListenAddress {
    fn addresses(&self) -> Vec<SocketAddr> {
        match self {
            Self::Off => Vec::new(),
            Self::Loopback(port) => vec![
                SocketAddr::from((Ipv4Addr::LOCALHOST, *port)),
                SocketAddr::from((Ipv6Addr::LOCALHOST, *port)),
            ],
            Self::At(all) => all.clone(),
        }
    }

    /// The first address others than this machine can reach.
    #[must_use]
    pub fn exposed(&self) -> Option<SocketAddr> {
        self.addresses().into_iter().find(|a| !is_loopback(a.ip()))
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let mut all = Vec::new();
        for word in text.split(',').map(str::trim) {
            // ":1883" is how Go programs write every address of the machine.
            let full = word.strip_prefix(':').map(|port| format!("0.0.0.0:{port}"));
            let found = full.as_deref().unwrap_or(word).to_socket_addrs().map_err(|e| {
                format!("{word:?} is not an address: {e}; write HOST:PORT, for example 127.0.0.1:1883, or off")
            })?;
            all.extend(found);
        }
        Ok(Self::At(all))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            _ => {
                let all: Vec<_> = self.addresses().iter().map(ToString::to_string).collect();
                f.write_str(&all.join(", "))
            }
        }
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word_or_list(deserializer, "HOST:PORT, a list of them, or off")
    }
}

/// Listeners that no flag is for, and the key that says where they are.
const WITHOUT_FLAG: [(&str, &str); 2] =
    [("mqtt-tls", "mqtt_tls.listen"), ("mqtt-wss", "mqtt_tls.listen_ws")];

/// Binds every address of every (flag, address); all failures are told at once.
///
/// # Errors
/// One line for each address that cannot be had, with what to do.
pub fn bind_all(wanted: &[(&str, &ListenAddress)]) -> Result<Vec<Vec<TcpListener>>, Vec<String>> {
    let mut failures = Vec::new();
    let mut bound = Vec::new();
    for (flag, address) in wanted {
        let mut listeners = Vec::new();
        for at in address.addresses() {
            match bind(at) {
                Ok(listener) => listeners.push(listener),
                Err(e) if matches!(address, ListenAddress::Loopback(_)) && is_missing(&e, at) => {}
                Err(e) => failures.push(failure(flag, at, &e)),
            }
        }
        bound.push(listeners);
    }
    if failures.is_empty() { Ok(bound) } else { Err(failures) }
}

/// The machine has no IPv6: nothing is wrong with the default.
fn is_missing(error: &io::Error, at: SocketAddr) -> bool {
    at.is_ipv6()
        && (error.kind() == io::ErrorKind::AddrNotAvailable
            || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()))
}

fn failure(flag: &str, at: SocketAddr, error: &io::Error) -> String {
    let key = WITHOUT_FLAG.iter().find(|(name, _)| *name == flag);
    let (choose, off) = match key {
        Some((_, key)) => (format!("another {key}"), format!("{key}: off")),
        None => (format!("--{flag} ADDR"), format!("--{flag} off")),
    };
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{at} is in use; another broker may be running; choose {choose} or {off}")
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "{at} needs privileges this process does not have; choose {choose} with a port above 1023"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{at} is no address of this machine; choose {choose} or {off}")
        }
        _ => format!("cannot listen on {at}: {error}; choose {choose} or {off}"),
    }
}

fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Refuses an address that others can reach where nobody has to say who he is (design §9).
///
/// # Errors
/// One line that says what to do.
pub fn refuse_exposed(
    program: Program,
    wanted: &[(&str, &ListenAddress)],
) -> Result<(), Vec<String>> {
    let how = program.how_to_allow_anonymous();
    let refused: Vec<_> = wanted
        .iter()
        .filter_map(|(flag, address)| Some((flag, address.exposed()?)))
        .map(|(flag, at)| {
            // Gateways and programs are told by their certificates.
            let add = if *flag == "grpc" { "set grpc.client_authorities" } else { "add users" };
            format!("refusing to serve {at} without authentication; {add} or {how}")
        })
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> ListenAddress {
        text.parse().expect("an address")
    }

    #[test]
    fn every_taken_address_is_told_with_what_to_do() {
        let taken = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let used = at(&taken.local_addr().expect("bound").to_string());
        let failures = bind_all(&[("mqtt", &used), ("http", &ListenAddress::Off), ("grpc", &used)])
            .expect_err("it is taken");
        assert_eq!(failures.len(), 2);
        assert!(failures[0].contains("is in use") && failures[0].contains("--mqtt off"));
        assert!(failures[1].contains("--grpc ADDR"));
        let failures = bind_all(&[("mqtt-tls", &used)]).expect_err("it is taken");
        let hint = "choose another mqtt_tls.listen or mqtt_tls.listen: off";
        assert!(failures[0].ends_with(hint), "there is no such flag: {failures:?}");
    }

    #[test]
    fn only_loopback_is_served_to_everybody() {
        assert_eq!(
            refuse_exposed(Program::Fluxmq, &[("mqtt", &ListenAddress::Loopback(1))]),
            Ok(())
        );
        assert_eq!(
            refuse_exposed(Program::Fluxmq, &[("mqtt", &at("127.0.0.2:1")), ("x", &at("[::1]:1"))]),
            Ok(())
        );
        let refused =
            refuse_exposed(Program::Fluxmq, &[("mqtt", &at(":1883"))]).expect_err("all addresses");
        assert_eq!(
            refused,
            [
                "refusing to serve 0.0.0.0:1883 without authentication; add users or say --allow-anonymous"
            ]
        );
        assert!(refuse_exposed(Program::Fluxmq, &[("mqtt", &at("[::]:1"))]).is_err());
    }

    #[test]
    fn what_is_no_address_is_told() {
        assert_eq!(at("off"), ListenAddress::Off);
        assert_eq!(at("127.0.0.1:1, [::1]:2").to_string(), "127.0.0.1:1, [::1]:2");
        let error = "1883".parse::<ListenAddress>().expect_err("no port");
        assert!(error.contains("HOST:PORT"), "{error}");
    }
}
