//! Names, ids, error codes and placement: what every tier agrees on. No dependencies.

mod error_code;
mod ids;
mod placement;
mod planted;
mod topics;
mod xxh3;

pub use error_code::{ErrorCode, Remedy};
pub use ids::{GatewayEpoch, Position, SessionId, ShardId};
pub use placement::{Kind, place};
pub use planted::planted_by_name;
pub use topics::{
    NameError, TOPIC_BYTES_MAX, filter_matches, validate_client_id, validate_filter,
    validate_queue_name, validate_topic,
};
pub use xxh3::xxh3_64 as hash64;
