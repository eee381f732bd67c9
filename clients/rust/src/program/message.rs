//! Messages as programs write and read them.

use std::time::Duration;

use bytes::Bytes;
use fluxmq_commands::command::queue::{DeadLetter, Enqueue, Options, QueueCommand};
use fluxmq_commands::command::{self, Command};
use fluxmq_proto::message::{EMPTY_HEAD, Field, Head, HeadWriter};

/// A message to be published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it says.
    pub payload: Bytes,
    /// MIME type of the payload; at most 65,535 bytes, as every text here.
    pub content_type: String,
    /// Matches an answer to its question.
    pub correlation_id: Bytes,
    /// Where an answer goes.
    pub reply_to: String,
    /// In the order given; names may repeat.
    pub properties: Vec<(String, String)>,
    /// It is given to nobody after this time.
    pub expires_in: Option<Duration>,
    /// Higher goes first, in a queue with levels.
    pub priority: u8,
    /// Given to nobody before this time, Unix ms; 0 = now.
    pub deliver_at_ms: u64,
    /// Taken once within the queue's window.
    pub message_id: String,
    /// Orders messages in keyed groups; of one key only the newest is kept in compacted queues.
    pub key: Bytes,
    /// Name of the producer and sequence of the message: taken if it is above the last one of that name.
    pub producer: Option<(String, u64)>,
}

// === impl Message ===

impl Message {
    /// A message that says `payload` and nothing else.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }

    pub(super) fn options(&self) -> Options<'_> {
        Options {
            priority: self.priority,
            deliver_at_ms: self.deliver_at_ms,
            message_id: &self.message_id,
            key: &self.key,
            producer: self.producer.as_ref().map(|(name, sequence)| (&**name, *sequence)),
        }
    }

    pub(super) fn expiry_ms(&self) -> Option<u64> {
        let after = u64::try_from(self.expires_in?.as_millis()).unwrap_or(u64::MAX);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ms = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        Some(now_ms.saturating_add(after))
    }

    pub(super) fn enqueue<'a>(&'a self, queue: &'a [u8; 8]) -> Command<'a> {
        Command::Queue(QueueCommand::Enqueue(Enqueue {
            queues: queue,
            expiry_ms: self.expiry_ms(),
            options: self.options(),
            ..Enqueue::default()
        }))
    }

    /// The head of its stored form; the payload goes behind it.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut head = HeadWriter::new(&mut out);
        if !self.content_type.is_empty() {
            head.field(Field::ContentType(&self.content_type));
        }
        if !self.correlation_id.is_empty() {
            head.field(Field::CorrelationId(&self.correlation_id));
        }
        if !self.reply_to.is_empty() {
            head.field(Field::ReplyTo(&self.reply_to));
        }
        for (name, value) in &self.properties {
            head.field(Field::UserProperty(name, value));
        }
        head.finish();
        if out.is_empty() {
            out.extend_from_slice(&EMPTY_HEAD);
        }
        out
    }
}

impl<T: Into<Bytes>> From<T> for Message {
    fn from(payload: T) -> Self {
        Self::new(payload)
    }
}

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Received {
    command: Bytes,
    body: usize,
    payload: usize,
    /// Where it died, when it came from a dead-letter queue.
    pub dead: Option<DeadLetter>,
}

// === impl Received ===

impl Received {
    /// None when the bytes are no message.
    pub(super) fn new(command: Bytes, dead: Option<DeadLetter>) -> Option<Self> {
        let (_, body) = command::decode(&command).ok()?;
        let (_, payload) = Head::split(body)?;
        let (body, payload) = (command.len() - body.len(), command.len() - payload.len());
        Some(Self { command, body, payload, dead })
    }

    /// What it says.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.command.slice(self.payload..)
    }

    fn options(&self) -> Options<'_> {
        match command::decode(&self.command) {
            Ok((Command::Queue(QueueCommand::Enqueue(enqueue)), _)) => enqueue.options,
            Ok((Command::Publish(publish), _)) => publish.options,
            _ => Options::default(),
        }
    }

    /// The topic it was published to; None when it was sent to the queue by name.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match command::decode(&self.command) {
            Ok((Command::Publish(publish), _)) => Some(publish.topic),
            _ => None,
        }
    }

    /// Its key; empty = none.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.options().key
    }

    /// Its message id; empty = none.
    #[must_use]
    pub fn message_id(&self) -> &str {
        self.options().message_id
    }

    /// Its priority.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.options().priority
    }

    /// The fields of its head: content type, correlation id, reply to, properties.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        let head = Head::read(&self.command[self.body..self.payload]);
        head.into_iter().flat_map(|head| head.fields())
    }

    /// The first user property of this name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&str> {
        self.fields().find_map(|field| match field {
            Field::UserProperty(n, value) if n == name => Some(value),
            _ => None,
        })
    }
}
