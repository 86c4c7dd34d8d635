//! What is asked of every place in which snapshots are kept: a directory, and a bucket of a real server.

use object_store::aws::AmazonS3Builder;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::tests::s3::{NO_S3, S3};

#[test]
fn a_store_has_a_name_and_an_absolute_place() {
    for good in [
        "b=file:///mnt/b",
        "b-2=file:///",
        "b=s3://bucket",
        "b=s3://my.bucket-2/a/b_c",
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
        "b=gs://bucket/b",
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

/// As an environment says it.
fn settings(variables: &[(String, String)]) -> AmazonS3Builder {
    let with = |settings: AmazonS3Builder, (name, value): &(String, String)| {
        let key = name.to_lowercase().parse().unwrap();
        settings.with_config(key, value)
    };
    variables.iter().fold(AmazonS3Builder::new(), with)
}

fn bucket(variables: &[(String, String)], url: &str) -> Place {
    let at = BucketAt::parse(url).unwrap();
    Place::Bucket(Bucket::with(settings(variables), &at).unwrap().into())
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

#[test]
fn a_bucket_keeps_what_is_put_into_it() {
    let Some(s3) = S3::start(0, None) else {
        println!("SKIPPED: {NO_S3}");
        return;
    };
    let (runtime, variables) = (runtime(), s3.environment());
    let _entered = runtime.enter();
    keeps(&bucket(&variables, "s3://bucket/clusters/one"));
    // What one prefix has is nothing to another, nor to all.
    keeps(&bucket(&variables, "s3://bucket/clusters/two"));
    keeps(&bucket(&variables, "s3://bucket"));
}

#[test]
fn a_list_that_comes_in_parts_is_read_to_its_end() {
    let Some(s3) = S3::start(0, None) else {
        println!("SKIPPED: {NO_S3}");
        return;
    };
    let runtime = runtime();
    let _entered = runtime.enter();
    let place = bucket(&s3.environment(), "s3://bucket/many");
    let folder = place.folder(ProcessId::from_bytes([1; 16]));
    let names: Vec<String> = (0..1001).map(|at| format!("pack-{at:04}")).collect();
    for name in &names {
        folder.put(name, b"").unwrap();
    }
    assert_eq!(folder.list().unwrap(), names);
    place.clear(ProcessId::from_bytes([1; 16])).unwrap();
    assert_eq!(place.processes().unwrap(), []);
}

#[test]
fn what_a_bucket_says_no_to_is_told() {
    let Some(s3) = S3::start(0, None) else {
        println!("SKIPPED: {NO_S3}");
        return;
    };
    let (runtime, variables) = (runtime(), s3.environment());
    let _entered = runtime.enter();
    let told = |variables: &[(String, String)], url| {
        let listed = bucket(variables, url).processes();
        let told = listed.unwrap_err().to_string();
        assert!(!told.contains("secret"), "{told}");
        told
    };
    assert_eq!(
        told(&variables, "s3://other/one"),
        "could not list s3://other/one: NoSuchBucket"
    );
    let mut wrong = variables.clone();
    wrong.push(("AWS_SECRET_ACCESS_KEY".into(), "another-secret".into()));
    assert_eq!(
        told(&wrong, "s3://bucket/one"),
        "could not list s3://bucket/one: SignatureDoesNotMatch"
    );
    drop(s3);
    let dead = told(&variables, "s3://bucket/one");
    assert!(dead.contains("Connection refused"), "{dead}");
}

#[test]
fn what_a_bucket_needs_to_be_told_is_said() {
    let all = [
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "eu-central-1"),
    ];
    let at = BucketAt::parse("s3://bucket/one").unwrap();
    let opened = |variables: &[(&str, &str)]| {
        let owned = variables.iter();
        let owned = owned.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Bucket::with(settings(&owned.collect::<Vec<_>>()), &at)
    };
    opened(&all).unwrap();
    for missing in 0..all.len() {
        let mut rest = all.to_vec();
        let (name, _) = rest.remove(missing);
        let said = opened(&rest).unwrap_err().to_string();
        assert!(said.starts_with(name), "{said}");
    }
    let with = |name, value| {
        let mut variables = all.to_vec();
        variables.push((name, value));
        opened(&variables)
    };
    let plain = with("AWS_ENDPOINT", "http://store:9000").unwrap_err();
    assert!(plain.to_string().contains("AWS_ALLOW_HTTP=true"), "{plain}");
    for good in [
        "https://store",
        "https://store:9000/below",
        "https://[::1]:9000",
    ] {
        with("AWS_ENDPOINT", good).unwrap();
    }
    for bad in [
        "store:9000",
        "https://store:99999",
        "https://user:pass@store",
        "ftp://store",
        "",
    ] {
        let refused = with("AWS_ENDPOINT", bad).unwrap_err();
        assert!(
            matches!(refused, OpenStoreError::Endpoint),
            "{bad}: {refused}"
        );
    }
    let wrong = with("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "perhaps").unwrap_err();
    assert!(matches!(wrong, OpenStoreError::Environment(_)), "{wrong}");
}
