//! What is asked of every place in which snapshots are kept: a directory, and buckets of real servers.

use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::tests::servers::{Buckets, NO_SERVER, Speaks};

#[test]
fn a_store_has_a_name_and_an_absolute_place() {
    for good in [
        "b=file:///mnt/b",
        "b-2=file:///",
        "b=s3://bucket",
        "b=s3://my.bucket-2/a/b_c",
        "b=az://bucket/a",
        "b=gs://bucket/a",
    ] {
        assert_eq!(good.parse::<StoreAt>().unwrap().to_string(), good);
    }
    for bad in [
        "file:///mnt/b",
        "=file:///b",
        "B=file:///b",
        "../b=file:///b",
        "b=/mnt/b",
        "b=file://host/b",
        "b=file:///a%20b",
        "b=s3://",
        "b=s3:///prefix",
        "b=s3://Bucket/b",
        "b=s3://user:password@bucket/b",
        "b=s3://bucket:9000/b",
        "b=s3://bucket/",
        "b=s3://bucket/a//b",
        "b=s3://bucket/../b",
        "b=s3://bucket/b?versions",
        "b=gcs://bucket/b",
        "b=az://user@bucket/b",
        "b=https://bucket.s3.amazonaws.com/b",
    ] {
        assert!(bad.parse::<StoreAt>().is_err(), "{bad}");
    }
}

/// Of the kind that a node has: whoever waits does not drive it.
fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

fn bucket(variables: &[(String, String)], url: &str) -> Place {
    let at = BucketAt::parse(url).unwrap();
    let variables = variables.iter().cloned().collect();
    Place::Bucket(Bucket::open(&at, &variables).unwrap().into())
}

/// Checks something with a server of buckets.
fn with_server(speaks: Speaks, check: impl FnOnce(Speaks, Buckets)) {
    let Some(server) = Buckets::start(speaks, 0, None) else {
        println!("SKIPPED: {NO_SERVER}");
        return;
    };
    let runtime = runtime();
    let _entered = runtime.enter();
    check(speaks, server);
}

macro_rules! with_servers {
    ($($test:ident: $speaks:ident, $check:ident;)*) => {$(
        #[test]
        fn $test() {
            with_server(Speaks::$speaks, $check);
        }
    )*};
}

with_servers! {
    s3_keeps_what_is_put_into_it: S3, keeps_in_prefixes;
    azure_keeps_what_is_put_into_it: Azure, keeps_in_prefixes;
    google_keeps_what_is_put_into_it: Google, keeps_in_prefixes;
    what_s3_says_no_to_is_told: S3, says_why;
    what_azure_says_no_to_is_told: Azure, says_why;
    what_google_says_no_to_is_told: Google, says_why;
    a_list_of_s3_that_comes_in_parts_is_read_to_its_end: S3, lists_all;
    a_list_of_google_that_comes_in_parts_is_read_to_its_end: Google, lists_all;
}

/// What a store must do.
fn keeps(place: &Place) {
    let [one, other] = [
        ProcessId::from_bytes([1; 16]),
        ProcessId::from_bytes([2; 16]),
    ];
    assert_eq!(place.processes().unwrap(), []);
    let (folder, beside) = (place.folder(one), place.folder(other));
    assert_eq!(folder.list().unwrap(), [""; 0]);
    assert_eq!(folder.get("pack-1").unwrap(), None);
    folder.remove("pack-1").unwrap();

    let pack: Vec<u8> = (0..3 << 20).map(|at: u32| (at / 7) as u8).collect();
    for (name, bytes) in [("pack-2", &pack[..]), ("pack-1", b""), ("program", b"code")] {
        folder.put(name, bytes).unwrap();
    }
    beside.put("program", b"others").unwrap();
    assert_eq!(folder.list().unwrap(), ["pack-1", "pack-2", "program"]);
    assert_eq!(folder.get("pack-1").unwrap().unwrap(), b"");
    assert!(folder.get("pack-2").unwrap().unwrap() == pack);
    // Again, as after an answer that was lost.
    folder.put("pack-2", &pack).unwrap();
    assert!(folder.get("pack-2").unwrap().unwrap() == pack);
    for name in ["", "..", "a/b", "A"] {
        let refused = [
            folder.put(name, b"").unwrap_err(),
            folder.get(name).unwrap_err(),
            folder.remove(name).unwrap_err(),
        ];
        let is_name = |error: &ShelfError| matches!(error, ShelfError::Name(_));
        assert!(refused.iter().all(is_name), "{refused:?}");
    }
    folder.remove("pack-1").unwrap();
    folder.remove("pack-1").unwrap();
    assert_eq!(folder.list().unwrap(), ["pack-2", "program"]);

    let mut processes = place.processes().unwrap();
    processes.sort_unstable();
    assert_eq!(processes, [one, other]);
    place.clear(one).unwrap();
    place.clear(one).unwrap();
    assert_eq!(folder.list().unwrap(), [""; 0]);
    assert_eq!(place.processes().unwrap(), [other]);
    assert_eq!(beside.get("program").unwrap().unwrap(), b"others");
}

#[test]
fn a_directory_keeps_what_is_put_into_it() {
    let directory = tempfile::tempdir().unwrap();
    keeps(&Place::Directory(directory.path().join("not-yet")));
}

fn keeps_in_prefixes(speaks: Speaks, server: Buckets) {
    let (variables, url) = (server.environment(), speaks.url());
    keeps(&bucket(&variables, &format!("{url}/clusters/one")));
    // What one prefix has is nothing to another, nor to all.
    keeps(&bucket(&variables, &format!("{url}/clusters/two")));
    keeps(&bucket(&variables, url));
}

#[test]
fn azure_takes_a_token_for_a_key() {
    with_server(Speaks::Azure, |_, server| {
        let mut variables = server.environment();
        variables.retain(|(name, _)| name != "AZURE_STORAGE_ACCOUNT_KEY");
        let token = fs::read_to_string(server.given.path().join("token")).unwrap();
        variables.push(("AZURE_STORAGE_SAS_TOKEN".into(), token));
        keeps(&bucket(&variables, "az://bucket/one"));
    });
}

fn lists_all(speaks: Speaks, server: Buckets) {
    let place = bucket(&server.environment(), &format!("{}/many", speaks.url()));
    let folder = place.folder(ProcessId::from_bytes([1; 16]));
    let names: Vec<String> = (0..1001).map(|at| format!("pack-{at:04}")).collect();
    for name in &names {
        folder.put(name, b"").unwrap();
    }
    assert_eq!(folder.list().unwrap(), names);
    place.clear(ProcessId::from_bytes([1; 16])).unwrap();
    assert_eq!(place.processes().unwrap(), []);
}

fn says_why(speaks: Speaks, server: Buckets) {
    let variables = server.environment();
    let other = format!("{}/one", speaks.url().replace("bucket", "other"));
    let own = format!("{}/one", speaks.url());
    let told = |place: &Place| place.processes().unwrap_err().to_string();
    let (wrong, no_bucket, no_rights) = match speaks {
        Speaks::S3 => {
            let wrong = ("AWS_SECRET_ACCESS_KEY", "another-secret".into());
            (wrong, "NoSuchBucket", "SignatureDoesNotMatch")
        }
        Speaks::Azure => {
            let wrong = ("AZURE_STORAGE_ACCOUNT_KEY", "YW5vdGhlcg==".into());
            (wrong, "ContainerNotFound", "AuthorizationFailure")
        }
        Speaks::Google => {
            let key = fs::read_to_string(server.given.path().join("credentials.json")).unwrap();
            let others = server.given.path().join("others.json");
            fs::write(&others, key.replace("node@", "other@")).unwrap();
            let others = others.to_str().unwrap().to_owned();
            let wrong = ("GOOGLE_APPLICATION_CREDENTIALS", others);
            (wrong, "NoSuchBucket", "AuthenticationRequired")
        }
    };
    let expected = format!("could not list {other}: {no_bucket}");
    assert_eq!(told(&bucket(&variables, &other)), expected);
    let mut strangers = variables.clone();
    strangers.push((wrong.0.to_owned(), wrong.1));
    let expected = format!("could not list {own}: {no_rights}");
    assert_eq!(told(&bucket(&strangers, &own)), expected);
    let place = bucket(&variables, &own);
    drop(server);
    let dead = told(&place);
    let expected = format!("could not list {own}: ");
    assert!(
        dead.starts_with(&expected) && dead.contains("Connection refused"),
        "{dead}"
    );
}

fn opened(url: &str, variables: &[(&str, &str)]) -> Result<Bucket, OpenStoreError> {
    let owned = variables.iter();
    let owned = owned.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Bucket::open(&BucketAt::parse(url).unwrap(), &owned.collect())
}

const AWS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "key"),
    ("AWS_SECRET_ACCESS_KEY", "secret"),
    ("AWS_REGION", "eu-central-1"),
];
const AZURE: [(&str, &str); 2] = [
    ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
    ("AZURE_STORAGE_ACCOUNT_KEY", "c2VjcmV0"),
];

#[test]
fn what_a_bucket_needs_to_be_told_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("user.json");
    // What programs of people have: it is good for asking for tokens, which a node does not.
    let user = r#"{"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}"#;
    fs::write(&file, user).unwrap();
    let google = [("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())];
    for (url, all) in [
        ("s3://bucket/one", &AWS[..]),
        ("az://bucket/one", &AZURE),
        ("gs://bucket/one", &google),
    ] {
        for missing in 0..all.len() {
            let mut rest = all.to_vec();
            let (name, _) = rest.remove(missing);
            let said = opened(url, &rest).unwrap_err().to_string();
            assert!(said.starts_with(name), "{said}");
        }
    }
    opened("s3://bucket", &AWS).unwrap();
    opened("az://bucket", &AZURE).unwrap();
    for (url, all, wrong) in [
        (
            "s3://bucket",
            &AWS[..],
            ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "perhaps"),
        ),
        (
            "az://bucket",
            &AZURE,
            ("AZURE_STORAGE_ACCOUNT_KEY", "not base64"),
        ),
        ("gs://bucket", &[], google[0]),
    ] {
        let refused = opened(url, &[all, &[wrong]].concat()).unwrap_err();
        let is_said = matches!(refused, OpenStoreError::Environment { .. });
        assert!(is_said, "{url}: {refused}");
    }
}

#[test]
fn a_server_is_named_by_a_url_with_tls() {
    for (url, all, server, permission) in [
        ("s3://bucket", &AWS[..], "AWS_ENDPOINT", "AWS_ALLOW_HTTP"),
        (
            "az://bucket",
            &AZURE,
            "AZURE_STORAGE_ENDPOINT",
            "AZURE_ALLOW_HTTP",
        ),
    ] {
        let with = |value| opened(url, &[all, &[(server, value)]].concat());
        let plain = with("http://store:9000").unwrap_err().to_string();
        let allowed = format!("{permission}=true");
        assert!(
            plain.starts_with(server) && plain.contains(&allowed),
            "{plain}"
        );
        for good in [
            "https://store",
            "https://store:9000/below",
            "https://[::1]:9000",
        ] {
            with(good).unwrap();
        }
        for bad in [
            "store:9000",
            "https://store:99999",
            "https://user:pass@store",
            "ftp://store",
            "",
        ] {
            let refused = with(bad).unwrap_err();
            let is_said = matches!(refused, OpenStoreError::Endpoint { .. });
            assert!(is_said, "{bad}: {refused}");
        }
    }
}
