use super::*;

/// The client's side, for one exchange.
fn answer(
    password: &[u8],
    first_bare: &str,
    server_first: &str,
    header: &str,
) -> (String, Vec<u8>) {
    let field = |k: &str| server_first.split(',').find_map(|f| f.strip_prefix(k)).expect("there");
    let salt = BASE64.decode(field("s=")).expect("base64");
    let credential =
        ScramCredential::derive(password, &salt, field("i=").parse().expect("a number"));
    let without_proof = format!("c={},r={}", BASE64.encode(header), field("r="));
    let auth_message = format!("{first_bare},{server_first},{without_proof}");
    let mut salted = [0; KEY_BYTES];
    let rounds = std::num::NonZeroU32::new(credential.iterations).expect("not 0");
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password, &mut salted);
    let client_key = mac(&salted, b"Client Key");
    let signature = mac(&credential.stored_key, auth_message.as_bytes());
    let proof: Vec<u8> = client_key.iter().zip(signature).map(|(k, s)| k ^ s).collect();
    let verifier = mac(&credential.server_key, auth_message.as_bytes());
    let message = format!("{without_proof},p={}", BASE64.encode(proof));
    (message, format!("v={}", BASE64.encode(verifier)).into_bytes())
}

#[test]
fn the_example_of_rfc_7677() {
    let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
    let credential = ScramCredential::derive(b"pencil", &salt, 4_096);
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let auth_message =
        format!("n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,");
    let exchange = Exchange {
        user: "user".into(),
        credential: Some(credential),
        gs2_header: b"n,,".to_vec(),
        nonce: nonce.into(),
        auth_message,
    };
    let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let (user, verifier) = exchange.finish(last.as_bytes()).expect("the proof is right");
    assert_eq!(user, "user");
    assert_eq!(verifier, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn who_knows_the_password_comes_in_and_others_do_not() {
    let kept = ScramCredential::derive(b"secret", b"salt", 4_096);
    let find = |name: &str| (name == "a,b=c").then(|| kept.clone());
    for (password, user, good) in
        [("secret", "a=2Cb=3Dc", true), ("wrong", "a=2Cb=3Dc", false), ("secret", "nobody", false)]
    {
        let bare = format!("n={user},r=abc");
        let (exchange, first) =
            Exchange::begin(format!("n,,{bare}").as_bytes(), b"key", find).expect("well-formed");
        let first = String::from_utf8(first).expect("text");
        let (last, verifier) = answer(password.as_bytes(), &bare, &first, "n,,");
        let done = exchange.finish(last.as_bytes());
        match good {
            true => assert_eq!(done, Ok(("a,b=c".into(), verifier))),
            false => assert_eq!(done, Err(ScramError::Denied), "{user} {password}"),
        }
    }
}

#[test]
fn a_user_that_does_not_exist_has_the_same_salt_each_time() {
    let salt = || {
        let (_, first) = Exchange::begin(b"n,,n=x,r=1", b"key", |_| None).expect("well-formed");
        String::from_utf8(first).expect("text").split(',').nth(1).map(str::to_owned)
    };
    assert_eq!(salt(), salt());
}

#[test]
fn what_is_malformed_or_not_spoken_is_refused() {
    for (bytes, want) in [
        (&b""[..], ScramError::Malformed),
        (b"n,,", ScramError::Malformed),
        (b"n,,n=,r=x", ScramError::Malformed),
        (b"n,,n=a,r=", ScramError::Malformed),
        (b"n,a=other,n=a,r=x", ScramError::Unsupported),
        (b"p=tls-unique,,n=a,r=x", ScramError::Unsupported),
        (b"n,,m=ext,n=a,r=x", ScramError::Malformed),
        (&[0xFF; 20], ScramError::Malformed),
    ] {
        assert_eq!(Exchange::begin(bytes, b"k", |_| None).map(|_| ()).err(), Some(want));
    }
    let kept = ScramCredential::derive(b"secret", b"salt", 4_096);
    for last in ["", "c=biws,r=x,p=AA==", "c=eSws,r=NONCE,p=AA==", "c=biws,r=NONCE,p=AA==", "p=x"] {
        let (exchange, first) =
            Exchange::begin(b"n,,n=a,r=x", b"k", |_| Some(kept.clone())).expect("well-formed");
        let first = String::from_utf8(first).expect("text");
        let nonce = first[2..].split(',').next().expect("a nonce");
        assert!(exchange.finish(last.replace("NONCE", nonce).as_bytes()).is_err(), "{last}");
    }
}

#[test]
fn credentials_are_written_as_they_are_read() {
    let kept = ScramCredential::derive(b"pencil", b"0123456789abcdef", 5_000);
    assert_eq!(ScramCredential::parse(&kept.encode()), Some(kept));
    for bad in ["", "SCRAM-SHA-256$1:c2FsdA==$AA==:AA==", "SCRAM-SHA-1$4096:c2FsdA==$x:y"] {
        assert_eq!(ScramCredential::parse(bad), None, "{bad}");
    }
}
