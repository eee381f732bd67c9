//! One thing after the other, each on purpose.

use std::sync::Arc;
use std::time::Duration;

use logd_broker::Broker;
use logd_log::Priority;
use logd_log::io::{Crash, SimulatedIo};
use logd_raft::{Formation, SubmitError};
use parking_lot::Mutex;

use crate::client::{Client, History, Shared};
use crate::cluster::Cluster;
use crate::network::Weather;
use crate::node::NODES;
use crate::random::Random;
use crate::simulate;

async fn cluster(seed: u64) -> (Cluster, Client, Shared) {
    let mut random = Random(seed);
    let cluster = Cluster::form(random.fork()).await;
    let history: Shared = Arc::new(Mutex::new(History::default()));
    let mut client = Client::new(1, &cluster, history.clone(), random.fork());
    client.subscribe().await;
    (cluster, client, history)
}

fn leader(cluster: &Cluster) -> u64 {
    let says_so =
        |(id, node): (&u64, &crate::node::Node)| (node.group.leader() == Some(*id)).then_some(*id);
    cluster.nodes.iter().find_map(says_so).expect("somebody leads")
}

fn follower(cluster: &Cluster) -> u64 {
    let leader = leader(cluster);
    NODES.into_iter().find(|id| *id != leader).expect("there are three")
}

async fn publish(client: &mut Client, batches: usize) {
    for _ in 0..batches {
        client.publish().await;
    }
}

#[test]
fn a_leader_that_is_killed_is_replaced_and_nothing_is_lost() {
    simulate(async {
        let (mut cluster, mut client, history) = cluster(1).await;
        publish(&mut client, 20).await;
        let old = leader(&cluster);
        cluster.crash(old);
        publish(&mut client, 20).await;
        assert_ne!(leader(&cluster), old);
        cluster.restart(old).await;
        cluster.agree().await;
        cluster.check(&history);
    });
}

#[test]
fn a_follower_catches_up_from_the_log() {
    simulate(async {
        let (mut cluster, mut client, history) = cluster(2).await;
        let away = follower(&cluster);
        cluster.crash(away);
        publish(&mut client, 20).await;
        cluster.restart(away).await;
        cluster.agree().await;
        assert_eq!(cluster.nodes[&away].group.log().purged(), None, "no snapshot was needed");
        cluster.check(&history);
    });
}

/// It gets the state, and the payloads that are live in it, at their places in its log; it can lead with them, and
/// restart with them.
#[test]
fn a_follower_catches_up_by_snapshot_with_the_live_entries() {
    simulate(async {
        let (mut cluster, mut client, history) = cluster(3).await;
        publish(&mut client, 20).await;
        let away = follower(&cluster);
        cluster.crash(away);
        for round in 0..12 {
            publish(&mut client, 15).await;
            client.settle().await;
            // Longer than a leader waits for a voter that does not answer.
            tokio::time::sleep(Duration::from_millis(3_100)).await;
            for (id, node) in &cluster.nodes {
                node.group.compact().await.unwrap_or_else(|e| panic!("{id} in {round}: {e}"));
            }
        }
        let purged = cluster.nodes[&leader(&cluster)].group.log().purged();
        cluster.restart(away).await;
        cluster.agree().await;
        let installed = cluster.nodes[&away].group.log().purged();
        assert!(installed.is_some() && installed >= purged, "{installed:?} after {purged:?}");
        cluster.check(&history);
        cluster.crash(away);
        cluster.restart(away).await;
        cluster.agree().await;
        cluster.check(&history);
        // The others go, one after the other: what was transferred is all there is of it.
        let mut others: Vec<_> = NODES.into_iter().filter(|id| *id != away).collect();
        let last = others.pop().expect("three nodes");
        cluster.crash(others[0]);
        publish(&mut client, 3).await;
        cluster.restart(others[0]).await;
        cluster.crash(last);
        publish(&mut client, 3).await;
        cluster.restart(last).await;
        cluster.agree().await;
        cluster.check(&history);
    });
}

/// A follower whose disk is full acknowledges nothing more and lives; the others go on, and it has all of it when there
/// is room again.
#[test]
fn a_follower_with_a_full_disk_waits_for_room() {
    simulate(async {
        let (mut cluster, mut client, history) = cluster(11).await;
        publish(&mut client, 5).await;
        let full = follower(&cluster);
        let (io, log) = (cluster.nodes[&full].io.clone(), cluster.nodes[&full].group.log().clone());
        io.set_capacity(io.used());
        let mut published = 0;
        while log.admit(1, Priority::Freeing).is_ok() {
            publish(&mut client, 5).await;
            published += 5;
            assert!(published < 2_000, "its disk never filled");
        }
        publish(&mut client, 30).await;
        let leader = leader(&cluster);
        let applied = |id: u64| cluster.nodes[&id].group.with_state(Broker::applied);
        assert_ne!(leader, full);
        assert!(applied(leader) > applied(full), "it has not what it cannot keep");
        io.set_capacity(1 << 40);
        cluster.agree().await;
        cluster.check(&history);
        cluster.crash(full);
        cluster.restart(full).await;
        cluster.agree().await;
        cluster.check(&history);
    });
}

/// The power goes at any point of an installation: the next start makes it good.
#[test]
fn an_installation_that_is_cut_off_is_finished_at_the_next_start() {
    for cut in 0..40 {
        simulate(async {
            let (mut cluster, mut client, history) = cluster(5).await;
            publish(&mut client, 10).await;
            let away = follower(&cluster);
            cluster.crash(away);
            for _ in 0..4 {
                publish(&mut client, 15).await;
                client.settle().await;
                tokio::time::sleep(Duration::from_millis(3_100)).await;
                for node in cluster.nodes.values() {
                    node.group.compact().await.expect("a snapshot");
                }
            }
            cluster.restart(away).await;
            let started = cluster.nodes[&away].io.ops();
            // The moments from the first chunk on, operation by operation of the disk.
            while cluster.nodes[&away].io.ops() < started + cut {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            cluster.crash(away);
            cluster.restart(away).await;
            cluster.agree().await;
            cluster.check(&history);
        });
    }
}

#[test]
fn a_leader_without_a_majority_confirms_nothing_and_acknowledges_nothing() {
    simulate(async {
        let (mut cluster, mut client, history) = cluster(6).await;
        publish(&mut client, 5).await;
        let old = leader(&cluster);
        let group = cluster.nodes[&old].group.clone();
        group.confirm().await.expect("a majority answers");
        for other in NODES.into_iter().filter(|id| *id != old) {
            cluster.network.change(|w| w.cut.extend([(old, other), (other, old)]));
        }
        assert!(matches!(group.confirm().await, Err(SubmitError::NotLeader { .. })));
        let applied = group.with_state(Broker::applied);
        publish(&mut client, 10).await;
        assert_ne!(leader(&cluster), old, "the others elected one of them");
        assert_eq!(group.with_state(Broker::applied), applied);
        cluster.network.change(|weather| *weather = Weather::default());
        cluster.agree().await;
        cluster.check(&history);
    });
}

/// Many that ask at once are answered by one question to the others.
#[test]
fn confirmations_are_asked_for_together() {
    simulate(async {
        let (cluster, mut client, _) = cluster(7).await;
        publish(&mut client, 1).await;
        let group = cluster.nodes[&leader(&cluster)].group.clone();
        let before = cluster.network.frames().0;
        let asked = (0..1_000).map(|_| {
            let group = group.clone();
            tokio::spawn(async move { group.confirm().await })
        });
        for asked in asked.collect::<Vec<_>>() {
            asked.await.expect("no panic").expect("a majority answers");
        }
        let frames = cluster.network.frames().0 - before;
        assert!(frames < 20, "{frames} frames for 1,000 confirmations");
    });
}

/// For one election timeout after its start a voter elects nobody (S11).
#[test]
fn a_restarted_voter_grants_no_vote_at_first() {
    simulate(async {
        let (mut cluster, mut client, _) = cluster(8).await;
        publish(&mut client, 3).await;
        let old = leader(&cluster);
        for id in NODES {
            cluster.crash(id);
        }
        let begun = tokio::time::Instant::now();
        for id in NODES.into_iter().filter(|id| *id != old) {
            cluster.restart(id).await;
        }
        let mut watch = cluster.nodes.values().next().expect("two nodes").group.watch_leader();
        let another = watch.wait_for(|now| now.is_some_and(|id| id != old));
        let another = tokio::time::timeout(Duration::from_secs(60), another).await;
        another.expect("one of them is elected").expect("the group lives");
        assert!(begun.elapsed() >= Duration::from_secs(2), "elected after {:?}", begun.elapsed());
    });
}

/// A voter whose disk was lost must not come back as if it had promised nothing.
#[test]
fn a_voter_that_lost_its_log_does_not_start() {
    simulate(async {
        let (mut cluster, mut client, _) = cluster(9).await;
        publish(&mut client, 3).await;
        let away = follower(&cluster);
        let node = cluster.nodes.remove(&away).expect("it runs");
        drop(node.crash(Crash::Lost));
        let started = cluster.try_start(away, SimulatedIo::new(1), Formation::Existing).await;
        let error =
            started.map(|node| node.id).expect_err("it lost what it acknowledged").to_string();
        assert!(error.contains("must not vote"), "{error}");
    });
}

/// A clock that goes wrong costs its node the lead, and its time does not get into the state (S7).
#[test]
fn a_node_whose_clock_is_off_leads_nothing() {
    simulate(async {
        let (mut cluster, mut client, history) = cluster(10).await;
        publish(&mut client, 3).await;
        let off = leader(&cluster);
        cluster.common.ahead_ms.lock().insert(off, 10_000);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_ne!(leader(&cluster), off, "it handed over");
        // Another comes and goes: the one that is off is not elected instead.
        for _ in 0..3 {
            let now = leader(&cluster);
            assert_ne!(now, off);
            cluster.crash(now);
            publish(&mut client, 3).await;
            cluster.restart(now).await;
            cluster.agree().await;
        }
        cluster.check(&history);
        // What it had stamped before it noticed counts until the others' clocks have passed it.
        let now = cluster.nodes[&leader(&cluster)].group.with_state(Broker::now_ms);
        assert!(now <= cluster.common.now_ms() + 2_000, "{now}");
    });
}

#[test]
fn a_leader_hands_over_when_it_is_asked_to() {
    simulate(async {
        let (mut cluster, mut client, history) = cluster(11).await;
        publish(&mut client, 3).await;
        let (old, to) = (leader(&cluster), follower(&cluster));
        cluster.nodes[&old].group.hand_over(to).await;
        publish(&mut client, 3).await;
        cluster.agree().await;
        assert_eq!(leader(&cluster), to);
        cluster.check(&history);
    });
}
