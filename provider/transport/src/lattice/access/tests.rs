use super::*;

fn of(urls: &str) -> Access {
    Access {
        urls: urls.to_owned(),
        ..Access::default()
    }
}

fn auth(access: &Access) -> Result<Auth, String> {
    let (_, who) = servers(&access.urls).map_err(|e| e.to_string())?;
    access.who(who).map_err(|e| e.to_string())?.auth(b"nonce")
}

#[test]
fn a_url_says_who_connects_and_where() {
    let (found, _) = servers("nats://app:pw@a:4222, b:4223 ,tls://app:pw@[::1]:4224/").unwrap();
    assert_eq!(found, ["nats://a:4222", "nats://b:4223", "tls://[::1]:4224"]);
    let by_password = auth(&of("nats://a%40b:p%3A%2C%25w@h")).unwrap();
    assert_eq!(by_password.username.as_deref(), Some("a@b"));
    assert_eq!(by_password.password.as_deref(), Some("p:,%w"));
    let with_colon = auth(&of("nats://app:p:w@h")).unwrap();
    assert_eq!(with_colon.password.as_deref(), Some("p:w"));
    assert_eq!(auth(&of("nats://t0k3n@h")).unwrap().token.as_deref(), Some("t0k3n"));
    assert_eq!(auth(&of("app:pw@h:1")).unwrap().username.as_deref(), Some("app"));
    assert!(auth(&of("h:1")).unwrap().username.is_none());
    assert_eq!(servers("").unwrap().0, [DEFAULT]);
}

#[test]
fn no_error_and_no_debug_shows_a_secret() {
    for urls in [
        "nats://user:SECRET@a:4222,nats://b:4222",
        "nats://user:SECRET@a:4222,nats://other:SECRET@b:4222",
        "nats://user:a,SECRET@host:4222",
        "nats://user:a,SECRET",
        "http://user:SECRET@host",
        "user:SECRET@host:port",
        "nats://user:SECRET@",
        "nats://user:SECRET@host/path?SECRET",
        "nats://SECRET@host:99999",
        "nats://user:%ff%feSECRET@host",
    ] {
        let mut access = of(urls);
        access.user_seed = "SUASECRET".into();
        access.user_jwt = "SECRET".into();
        let shown = access.options().err().map(|e| format!("{e} {e:?}"));
        let all = format!("{access:?} {} {shown:?}", access.shown());
        assert!(!all.contains("SECRET"), "{urls}: {all}");
        access.login = Login::Token(SecretFrom::Value("SECRET".into()));
        assert!(!format!("{access:?}").contains("SECRET"));
    }
    assert_eq!(
        of("nats://user:SECRET@a:4222,nats://b").shown(),
        "nats://a:4222,nats://b"
    );
}

#[test]
fn files_are_read_and_their_faults_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let user = KeyPair::new_user();
    let seed = user.seed().unwrap();
    let with = |login| Access {
        login,
        ..Access::default()
    };
    let creds = file(
        "app.creds",
        &format!(
            "-----BEGIN NATS USER JWT-----\n eyJ0.x.y \n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        ),
    );
    let by_creds = auth(&with(Login::Credentials(creds))).unwrap();
    assert_eq!(by_creds.jwt.as_deref(), Some("eyJ0.x.y"));
    user.verify(b"nonce", &by_creds.signature.unwrap()).unwrap();
    let by_nkey = auth(&with(Login::Nkey(file("app.nk", &format!("# app\n{seed}\r\n"))))).unwrap();
    assert_eq!(by_nkey.nkey, Some(user.public_key()));
    let password = SecretFrom::File(file("pw", "p w\n"));
    let by_password = auth(&with(Login::Password("app".into(), password))).unwrap();
    assert_eq!(by_password.password.as_deref(), Some("p w"));
    let token = auth(&with(Login::Token(SecretFrom::File(file("t", "t0k\r\n"))))).unwrap();
    assert_eq!(token.token.as_deref(), Some("t0k"));

    let bad = file("bad", &format!("{}X\n", &seed[..57]));
    for login in [
        Login::Credentials(bad.clone()),
        Login::Nkey(bad),
        Login::Nkey(folder.path().join("none")),
        Login::Password("app".into(), SecretFrom::File(folder.path().join("none"))),
    ] {
        let error = with(login).options().err().unwrap().to_string();
        assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
        assert!(!error.contains(&seed[..20]), "{error}");
    }
    let twice = Access {
        user_seed: seed,
        login: Login::Token(SecretFrom::Value("t".into())),
        ..Access::default()
    };
    assert!(twice.options().is_err());
    for prefix in ["", "a..b", "a.*", "a b"] {
        let access = Access {
            inbox_prefix: Some(prefix.into()),
            ..Access::default()
        };
        assert!(access.options().is_err(), "{prefix:?}");
    }
}
