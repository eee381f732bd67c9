//! What the state tells those who ask: consumers, readers, administration, other shards.

mod shard;

use fluxmq_commands::command::queue::{
    Arguments, Enqueue, Options, QueueCommand, Sharing, Stays, Verdict,
};
use fluxmq_commands::command::{Command, Wanted};
use fluxmq_commands::{Appending, Outcome};
use fluxmq_names::ErrorCode;
use logd_broker::limits::SESSION_QUEUES_MAX;
use logd_broker::{Broker, Wants};
use shard::{GATEWAY, Shard};

const INVALID: (u8, bool) = (0x8F, false);
const QUOTA: (u8, bool) = (0x97, false);

fn join(shard: &mut Shard, queue: u64, consumer: u64, stays: Stays) -> u64 {
    let (group, priority) = (queue, 0);
    match shard.queue(QueueCommand::GroupJoin { queue, group, consumer, priority, stays }) {
        Outcome::Joined { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

fn subscribe(
    shard: &mut Shard,
    (session, epoch): (u64, u64),
    filters: &[(&str, u8)],
) -> Vec<(u8, bool)> {
    let filters = filters.iter().map(|(filter, options)| Wanted {
        options: *options,
        identifier: 3,
        filter,
        more: "",
    });
    let (mut outcomes, _) =
        shard.apply(&[Command::Subscribe { session, epoch, filters: filters.collect() }]);
    match outcomes.remove(0) {
        Outcome::Subscribed(codes) => codes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_is_open_until_it_is_settled_and_browsed_until_it_is_gone() {
    let mut shard = Shard::new();
    let arguments = Arguments { backoff_ms: 500, ..Arguments::default() };
    let queue = shard.declare("q", arguments);
    shard.fill(queue, 5, Options::default());
    shard.say(queue, Verdict::Ack, 1, 2);
    let open: Vec<u64> = (0..7).filter(|o| shard.broker.is_open(queue, queue, *o)).collect();
    assert_eq!(open, [0, 3, 4]);
    let offsets = |shard: &Shard, from, max| -> Vec<u64> {
        shard.broker.browse(queue, from, max).iter().map(|m| m.offset).collect()
    };
    assert_eq!(offsets(&shard, 0, 10), [0, 3, 4], "what is settled by all is gone");
    assert_eq!(offsets(&shard, 1, 1), [3]);
    assert_eq!(offsets(&shard, 5, 10), [0; 0]);
    shard.say(queue, Verdict::Ack, 0, 1);
    assert_eq!(shard.broker.queue_bounds(queue), Some((3, 5)));
    assert_eq!(shard.broker.next_return(queue, queue), None);
    shard.say(queue, Verdict::ReturnLater, 3, 1);
    assert_eq!(shard.broker.next_return(queue, queue), Some(shard.now_ms + 500));
    assert_eq!(shard.stats(queue).groups[0].returned, 1);
    let nobody = shard.broker.browse(queue + 1, 0, 10);
    assert!(nobody.is_empty() && shard.broker.queue_bounds(queue + 1).is_none());
}

#[test]
fn a_group_says_who_is_in_it_and_who_is_active() {
    let mut shard = Shard::new();
    let sharing = Sharing::SingleActive;
    let queue = shard.declare("q", Arguments { sharing, ..Arguments::default() });
    shard.fill(queue, 2, Options::default());
    let first = join(&mut shard, queue, 1, Stays::WithGateway);
    let second = join(&mut shard, queue, 2, Stays::UntilItLeaves);
    let view = shard.broker.group_view(queue, queue).expect("it is there");
    assert_eq!((view.sharing, view.active, view.next), (sharing, Some(first), 2));
    assert!(shard.broker.has_member(queue, queue, second));
    shard.lead(&Command::GatewayEnded { epoch: GATEWAY });
    let members: Vec<u64> = shard.broker.members(queue, queue).map(|(token, _)| token).collect();
    assert_eq!(members, [second], "it stays until it leaves");
    let after = shard.broker.group_view(queue, queue).expect("it is there");
    assert_eq!(after.active, Some(second));
    assert!(after.epoch > view.epoch, "who was active is fenced");
    assert!(!shard.broker.has_member(queue, queue, first));
    assert_eq!(shard.broker.group_view(queue, queue + 1), None);
}

#[test]
fn a_session_joins_once_and_leaves_when_it_ends() {
    let mut shard = Shard::new();
    let queue = shard.declare("q", Arguments::default());
    let session = shard.connect("c", 0);
    let stays = Stays::WithSession(0);
    let token = join(&mut shard, queue, session.0, stays);
    assert_eq!(join(&mut shard, queue, session.0, stays), token, "said again");
    let other = join(&mut shard, queue, session.0 + 1, stays);
    assert_ne!(other, token);
    shard.lead(&Command::GatewayEnded { epoch: GATEWAY });
    shard.settle_down();
    let members: Vec<u64> = shard.broker.members(queue, queue).map(|(token, _)| token).collect();
    assert_eq!(members, [other], "the session ended with its gateway, and with it its membership");
}

#[test]
fn queues_are_listed_by_name_and_their_bindings_are_wanted() {
    let mut shard = Shard::new();
    let arguments = Arguments { delivery_limit: 7, ..Arguments::default() };
    let [b, a] = ["b", "a"].map(|name| shard.declare(name, arguments));
    let names: Vec<_> = shard.broker.queues().map(|(_, name, id)| (name.to_owned(), id)).collect();
    assert_eq!(names, [("a".to_owned(), a), ("b".to_owned(), b)]);
    let after: Vec<_> = shard.broker.queues_after("/", "a").collect();
    assert_eq!(after, [("b", b)]);
    assert_eq!(shard.broker.queues_after("/elsewhere", "").count(), 0);
    assert_eq!(shard.broker.queue_arguments(a).map(|a| a.delivery_limit), Some(7));
    for (queue, filter) in [(a, "x/+"), (a, "y"), (b, "y")] {
        shard.queue(QueueCommand::Bind { queue, filter, bound: true });
    }
    let of_a: Vec<_> = shard.broker.bindings_of(a).collect();
    assert_eq!(of_a, ["x/+", "y"]);
    let all: Vec<_> = shard.broker.bindings().collect();
    assert_eq!(all, [("/", "x/+"), ("/", "y")], "each once");
    let session = shard.connect("c", 60);
    assert_eq!(subscribe(&mut shard, session, &[("z", 1)]), [(1, true)]);
    assert_eq!(shard.broker.wanted("/", "y"), Some(Wants::Every));
    assert_eq!(shard.broker.wanted("/", "z"), Some(Wants::Acknowledged));
    assert_eq!(shard.broker.wanted("/", "nobody"), None);
    shard.queue(QueueCommand::Bind { queue: b, filter: "y", bound: false });
    assert_eq!(shard.broker.wanted("/", "y"), Some(Wants::Every), "the other is bound still");
    assert_eq!(shard.broker.bindings_of(b).count(), 0);
}

#[test]
fn scheduled_messages_are_seen_in_the_order_of_their_times_and_cancelled_once() {
    let mut shard = Shard::new();
    let queue = shard.declare("q", Arguments::default());
    let mut ids = Vec::new();
    for deliver_at_ms in [3_000, 1_000, 2_000] {
        let options = Options { deliver_at_ms, ..Options::default() };
        let queues = &queue.to_le_bytes();
        let outcome =
            shard.queue(QueueCommand::Enqueue(Enqueue { queues, options, ..Enqueue::default() }));
        let Outcome::Appended { offset, how: Appending::Scheduled, .. } = outcome else {
            panic!("{outcome:?}")
        };
        ids.push(offset);
    }
    let seen = shard.broker.scheduled(queue, 2);
    assert_eq!(seen, [(1_000, ids[1]), (2_000, ids[2])]);
    let cancel = |shard: &mut Shard, queue, ids: &[u64]| {
        shard.queue(QueueCommand::CancelScheduled { queue, ids: ids.to_vec() })
    };
    assert_eq!(cancel(&mut shard, queue, &ids[1..]), Outcome::Number(2));
    assert_eq!(cancel(&mut shard, queue, &ids), Outcome::Number(1), "two are cancelled already");
    assert_eq!(cancel(&mut shard, queue + 1, &ids), Outcome::refused(ErrorCode::NotFound));
    assert_eq!(shard.broker.scheduled(queue, 2), []);
}

#[test]
fn a_session_remembers_the_queues_it_consumes_up_to_a_limit() {
    let mut shard = Shard::new();
    let session = shard.connect("c", 60);
    let wrong = ["$share/a", "$share//x", "$share/+/x", "$share/g/x#", "$queue/#/x"];
    for filter in wrong {
        assert_eq!(subscribe(&mut shard, session, &[(filter, 1)]), [INVALID], "{filter}");
    }
    assert_eq!(subscribe(&mut shard, session, &[("$queue/x", 3)]), [INVALID], "no such QoS");
    assert_eq!(
        subscribe(&mut shard, session, &[("$share/g/x/+", 1), ("$queue/x", 2), ("$queue/x", 1)]),
        [(1, true), (2, true), (1, false)]
    );
    let names: Vec<String> = (2..SESSION_QUEUES_MAX).map(|n| format!("$queue/n{n}")).collect();
    for name in &names {
        assert_eq!(subscribe(&mut shard, session, &[(name, 1)]), [(1, true)]);
    }
    assert_eq!(subscribe(&mut shard, session, &[("$queue/one-more", 1)]), [QUOTA]);
    assert_eq!(
        subscribe(&mut shard, session, &[("$queue/x", 2)]),
        [(2, false)],
        "known ones go on"
    );
}

#[test]
fn who_registers_again_ends_who_had_the_name_also_after_a_restart() {
    let mut shard = Shard::new();
    let register = |shard: &mut Shard, name, address| {
        let (outcomes, _) = shard.lead(&Command::GatewayRegister { name, address });
        match outcomes[..] {
            [Outcome::Gateway { epoch }] => epoch,
            ref other => panic!("{other:?}"),
        }
    };
    let first = register(&mut shard, "g", "one");
    let other = register(&mut shard, "h", "two");
    let second = register(&mut shard, "g", "three");
    let ended = |broker: &Broker| [first, other, second].map(|e| broker.gateway_has_ended(e));
    assert_eq!(ended(&shard.broker), [true, false, false]);
    let again = Broker::restore(&shard.broker.snapshot().encode()).expect("a snapshot");
    assert_eq!(ended(&again), [true, false, false]);
    let known: Vec<_> = again.gateways().collect();
    assert_eq!(known, [("g", second, "three"), ("h", other, "two")]);
    assert_eq!(again.sessions(), 0);
}
