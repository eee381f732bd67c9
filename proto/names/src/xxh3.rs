//! XXH3-64 with seed 0 and the default secret (Y. Collet, xxHash specification, "XXH3").
//! Placement must never change, so it does not hang on a library's version.

const P32_1: u64 = 0x9E37_79B1;
const P32_2: u64 = 0x85EB_CA77;
const P32_3: u64 = 0xC2B2_AE3D;
const P64_1: u64 = 0x9E37_79B1_85EB_CA87;
const P64_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P64_3: u64 = 0x1656_67B1_9E37_79F9;
const P64_4: u64 = 0x85EB_CA77_C2B2_AE63;
const P64_5: u64 = 0x27D4_EB2F_1656_67C5;

const SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk::<4>().map_or(0, |b| u64::from(u32::from_le_bytes(*b)))
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

fn avalanche(mut h: u64) -> u64 {
    h ^= h >> 37;
    h = h.wrapping_mul(0x1656_6791_9E37_79F9);
    h ^ (h >> 32)
}

fn avalanche_xxh64(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(P64_2);
    h ^= h >> 29;
    h = h.wrapping_mul(P64_3);
    h ^ (h >> 32)
}

/// XXH3-64 of `input`, seed 0.
pub fn xxh3_64(input: &[u8]) -> u64 {
    match input.len() {
        0 => avalanche_xxh64(u64_at(&SECRET, 56) ^ u64_at(&SECRET, 64)),
        1..=3 => short(input),
        4..=8 => middle(input),
        9..=16 => sixteen(input),
        17..=128 => up_to_128(input),
        129..=240 => up_to_240(input),
        _ => long(input),
    }
}

fn short(input: &[u8]) -> u64 {
    let len = input.len();
    let (first, mid, last) = (input[0], input[len / 2], input[len - 1]);
    let combined =
        u64::from(first) << 16 | u64::from(mid) << 24 | u64::from(last) | (len as u64) << 8;
    avalanche_xxh64(combined ^ (u32_at(&SECRET, 0) ^ u32_at(&SECRET, 4)))
}

fn middle(input: &[u8]) -> u64 {
    let len = input.len();
    let key = u64_at(&SECRET, 8) ^ u64_at(&SECRET, 16);
    let joined = u32_at(input, len - 4).wrapping_add(u32_at(input, 0) << 32);
    let mut h = joined ^ key;
    h ^= h.rotate_left(49) ^ h.rotate_left(24);
    h = h.wrapping_mul(0x9FB2_1C65_1E98_DF25);
    h ^= (h >> 35).wrapping_add(len as u64);
    h = h.wrapping_mul(0x9FB2_1C65_1E98_DF25);
    h ^ (h >> 28)
}

fn sixteen(input: &[u8]) -> u64 {
    let len = input.len();
    let low = u64_at(input, 0) ^ (u64_at(&SECRET, 24) ^ u64_at(&SECRET, 32));
    let high = u64_at(input, len - 8) ^ (u64_at(&SECRET, 40) ^ u64_at(&SECRET, 48));
    let h = (len as u64)
        .wrapping_add(low.swap_bytes())
        .wrapping_add(high)
        .wrapping_add(fold(low, high));
    avalanche(h)
}

fn mix(input: &[u8], at: usize, secret_at: usize) -> u64 {
    fold(
        u64_at(input, at) ^ u64_at(&SECRET, secret_at),
        u64_at(input, at + 8) ^ u64_at(&SECRET, secret_at + 8),
    )
}

fn up_to_128(input: &[u8]) -> u64 {
    let len = input.len();
    let mut h = (len as u64).wrapping_mul(P64_1);
    let pairs = (len - 1) / 32;
    for i in (0..=pairs).rev() {
        h = h.wrapping_add(mix(input, 16 * i, 32 * i));
        h = h.wrapping_add(mix(input, len - 16 * (i + 1), 32 * i + 16));
    }
    avalanche(h)
}

fn up_to_240(input: &[u8]) -> u64 {
    let len = input.len();
    let mut h = (len as u64).wrapping_mul(P64_1);
    for i in 0..8 {
        h = h.wrapping_add(mix(input, 16 * i, 16 * i));
    }
    h = avalanche(h);
    for i in 8..len / 16 {
        h = h.wrapping_add(mix(input, 16 * i, 16 * (i - 8) + 3));
    }
    avalanche(h.wrapping_add(mix(input, len - 16, 136 - 17)))
}

fn accumulate(acc: &mut [u64; 8], input: &[u8], at: usize, secret_at: usize) {
    for lane in 0..8 {
        let value = u64_at(input, at + 8 * lane);
        let key = value ^ u64_at(&SECRET, secret_at + 8 * lane);
        acc[lane ^ 1] = acc[lane ^ 1].wrapping_add(value);
        acc[lane] = acc[lane].wrapping_add((key & 0xFFFF_FFFF).wrapping_mul(key >> 32));
    }
}

fn long(input: &[u8]) -> u64 {
    const STRIPE: usize = 64;
    const STRIPES_PER_BLOCK: usize = (SECRET.len() - STRIPE) / 8;
    const BLOCK: usize = STRIPE * STRIPES_PER_BLOCK;
    let len = input.len();
    let mut acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1];
    let blocks = (len - 1) / BLOCK;
    for block in 0..blocks {
        for stripe in 0..STRIPES_PER_BLOCK {
            accumulate(&mut acc, input, block * BLOCK + stripe * STRIPE, stripe * 8);
        }
        for (lane, a) in acc.iter_mut().enumerate() {
            let key = u64_at(&SECRET, SECRET.len() - STRIPE + 8 * lane);
            *a = (*a ^ (*a >> 47) ^ key).wrapping_mul(P32_1);
        }
    }
    let stripes = (len - 1 - BLOCK * blocks) / STRIPE;
    for stripe in 0..stripes {
        accumulate(&mut acc, input, blocks * BLOCK + stripe * STRIPE, stripe * 8);
    }
    accumulate(&mut acc, input, len - STRIPE, SECRET.len() - STRIPE - 7);
    let mut h = (len as u64).wrapping_mul(P64_1);
    for i in 0..4 {
        let key = 11 + 16 * i;
        h = h.wrapping_add(fold(
            acc[2 * i] ^ u64_at(&SECRET, key),
            acc[2 * i + 1] ^ u64_at(&SECRET, key + 8),
        ));
    }
    avalanche(h)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_others_compute() {
        let input: Vec<u8> =
            (0..5_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for len in (0..1_200).chain([1_024, 2_048, 4_096, 5_000]) {
            let want = xxhash_rust::xxh3::xxh3_64(&input[..len]);
            assert_eq!(xxh3_64(&input[..len]), want, "{len} bytes");
        }
    }
}
