//! The format and the file. What a process does with them is in `client/tests/disk.rs`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use prost::Message as _;
use tempfile::TempDir;

use super::file::{MAX_COPY_BYTES, Unused, Whose};
use super::format::{self, Head, Resource, Unreadable};
use super::kept::{Entry, Good, Kept};
use super::{CopyFile, Serving, moment};
use crate::bootstrap::{Bootstrap, BootstrapBuilder, Profile};
use crate::node::Node;
use crate::resource::ResourceKind;

fn whose() -> Vec<String> {
    vec!["node n".into(), "server \"\" a:1".into()]
}

fn kept() -> Kept {
    let good = |bytes: &[u8], ends| Entry {
        server: "a:1".into(),
        good: Some(Good {
            version: "v1".into(),
            bytes: bytes.to_vec().into(),
            told: 100,
            ends,
        }),
    };
    let none = Entry {
        server: "a:1".into(),
        good: None,
    };
    let mut listed = [false; ResourceKind::COUNT];
    listed[ResourceKind::Cluster.index()] = true;
    Kept {
        written: 200,
        listed,
        entries: [
            ((ResourceKind::Listener, "t".into()), good(b"listener", None)),
            ((ResourceKind::Cluster, "c".into()), good(b"", Some(300))),
            ((ResourceKind::Endpoints, "gone".into()), none),
        ]
        .into(),
    }
}

fn bytes() -> Vec<u8> {
    format::write(&kept(), &whose(), MAX_COPY_BYTES).unwrap()
}

#[test]
fn what_was_written_is_read() {
    assert_eq!(format::read(&bytes(), &whose()), Ok(kept()));
    let empty = Kept::default();
    let bytes = format::write(&empty, &[], MAX_COPY_BYTES).unwrap();
    assert_eq!(format::read(&bytes, &[]), Ok(empty));
}

#[test]
fn no_byte_can_be_another_one_and_no_length_another_one() {
    let good = bytes();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(format::read(&bad, &whose()).is_err(), "byte {at}, bit {bit}");
        }
        assert!(format::read(&good[..at], &whose()).is_err(), "cut at {at}");
    }
    let longer = [&good[..], &[0]].concat();
    assert_eq!(format::read(&longer, &whose()), Err(Unreadable::Length));
}

#[test]
fn what_is_not_ours_is_told_apart() {
    let (good, mut later) = (bytes(), bytes());
    later[11] = 2;
    assert_eq!(format::read(&later, &whose()), Err(Unreadable::Version(2)));
    assert_eq!(format::read(b"", &whose()), Err(Unreadable::NoCopy));
    assert_eq!(format::read(b"\x89PNG and so on", &whose()), Err(Unreadable::NoCopy));
    for other in [vec![], vec!["node m".into(), whose()[1].clone()], whose()[..1].to_vec()] {
        assert_eq!(format::read(&good, &other), Err(Unreadable::Foreign), "{other:?}");
    }
    let torn = format::seal(&Head::default().encode_length_delimited_to_vec()[..0]);
    assert!(matches!(format::read(&torn, &[]), Err(Unreadable::Body(_))));
}

#[test]
fn a_type_that_is_not_known_is_not_read_and_a_secret_never_is() {
    let mut body = Head::default().encode_length_delimited_to_vec();
    for type_url in [
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "type.googleapis.com/from.the.Future",
        ResourceKind::Route.type_url(),
    ] {
        let resource = Resource {
            type_url: type_url.into(),
            name: "n".into(),
            value: Some(b"x".to_vec()),
            ..Resource::default()
        };
        resource.encode_length_delimited(&mut body).unwrap();
    }
    let read = format::read(&format::seal(&body), &[]).unwrap();
    let kinds: Vec<ResourceKind> = read.entries.keys().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [ResourceKind::Route]);
}

#[test]
fn cp_5_what_would_grow_too_large_is_not_decoded() {
    // A text of nothing is two bytes in the file, and 24 as a value.
    let head = [0x0a, 0].repeat(1 << 20);
    let mut body = Vec::new();
    prost::encode_length_delimiter(head.len(), &mut body).unwrap();
    body.extend(head);
    let refused = format::read(&format::seal(&body), &[]);
    assert!(
        matches!(&refused, Err(Unreadable::Body(why)) if why.contains("more than 1 MiB of memory")),
        "{refused:?}"
    );
}

#[test]
fn a_copy_has_a_bound_when_it_is_written_and_when_it_is_read() {
    let size = bytes().len();
    assert_eq!(format::write(&kept(), &whose(), size).unwrap().len(), size);
    assert_eq!(
        format::write(&kept(), &whose(), size - 1),
        Err(Unreadable::TooLarge(size - 1))
    );
    let folder = Folder::new();
    folder.file(size).save(&kept()).unwrap();
    assert_eq!(folder.file(size).load().unwrap(), Some(kept()));
    let refused = folder.file(size - 1).load().unwrap_err();
    assert!(
        matches!(refused, Unused::Unreadable(Unreadable::TooLarge(_))),
        "{refused}"
    );
    let refused = folder.file(size - 1).save(&kept()).unwrap_err();
    assert_eq!(refused.to_string(), format!("it is larger than {} bytes", size - 1));
    // Written before that, it would have been the older one that stays.
    assert!(folder.names().iter().all(|name| !name.ends_with(".tmp")));
}

#[test]
fn a_resource_lives_no_longer_than_it_had_left() {
    let (kept, good) = (kept(), |ends| Good {
        version: "".into(),
        bytes: Vec::new().into(),
        told: 0,
        ends,
    });
    for (ends, now, left) in [
        (None, None, Some(None)),
        (Some(300), Some(200), Some(Some(100))),
        (Some(300), Some(299), Some(Some(1))),
        (Some(300), Some(300), None),
        (Some(300), Some(900), None),
        // The clock was set back.
        (Some(300), Some(10), Some(Some(100))),
        (Some(150), Some(10), None),
        (Some(300), None, None),
        (Some(u64::MAX), Some(200), Some(Some(u64::MAX - 200))),
    ] {
        let expected = left.map(|left| left.map(Duration::from_secs));
        assert_eq!(kept.lives(&good(ends), now), expected, "{ends:?} at {now:?}");
    }
    assert_eq!(moment(u64::MAX), None, "and nothing panics");
}

/// A directory that does not exist yet.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("a/b")
    }

    fn file(&self, limit: usize) -> CopyFile {
        CopyFile::new(&self.path(), Whose(whose()), limit)
    }

    fn usual(&self) -> CopyFile {
        self.file(MAX_COPY_BYTES)
    }

    fn names(&self) -> Vec<String> {
        let files = fs::read_dir(self.path()).unwrap();
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

#[test]
fn a_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it() {
    let folder = Folder::new();
    assert_eq!(folder.usual().load().unwrap(), None, "nothing is there");
    folder.usual().save(&Kept::default()).unwrap();
    folder.usual().save(&kept()).unwrap();
    assert_eq!(folder.usual().load().unwrap(), Some(kept()));
    assert_eq!(folder.names().len(), 1);
    // What a crash left is removed, what is another's is not.
    let crashed = format!("{}.77-0.tmp", folder.usual().path().display());
    let others = folder.path().join("xds-other.copy.77-0.tmp");
    fs::write(&crashed, "half").unwrap();
    fs::write(&others, "half").unwrap();
    assert_eq!(folder.usual().load().unwrap(), Some(kept()));
    assert_eq!(folder.names().len(), 2);
    assert!(others.exists());
}

#[test]
fn a_file_that_cannot_be_used_is_put_aside_and_the_next_good_one_takes_its_place() {
    let good = bytes();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let foreign = format::write(&kept(), &["node m".into()], MAX_COPY_BYTES).unwrap();
    for (content, why) in [
        (&flipped[..], "damaged"),
        (&good[..good.len() - 1], "cut off"),
        (&foreign[..], "another node"),
        (b"", "no copy"),
    ] {
        let folder = Folder::new();
        folder.usual().save(&kept()).unwrap();
        fs::write(folder.usual().path(), content).unwrap();
        let refused = folder.usual().load().unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
        let aside = folder.usual().path().with_extension("copy.bad");
        assert_eq!(fs::read(aside).unwrap(), content);
        assert_eq!(folder.usual().load().unwrap(), None);
        folder.usual().save(&kept()).unwrap();
        assert_eq!(folder.usual().load().unwrap(), Some(kept()));
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_others_may_write_is_nobodys_word() {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    let folder = Folder::new();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    folder.usual().save(&kept()).unwrap();
    assert_eq!(
        (mode(folder.usual().path().into()), mode(folder.path())),
        (0o600, 0o700)
    );
    for (mode, is_used) in [
        (0o600, true),
        (0o644, true),
        (0o620, false),
        (0o602, false),
        (0o666, false),
    ] {
        folder.usual().save(&kept()).unwrap();
        fs::set_permissions(folder.usual().path(), fs::Permissions::from_mode(mode)).unwrap();
        let loaded = folder.usual().load();
        assert_eq!(loaded.is_ok(), is_used, "{mode:o}: {loaded:?}");
    }
    // A name that leads elsewhere, or to something that is no file, is not followed.
    let elsewhere = folder.path().join("elsewhere");
    folder.usual().save(&kept()).unwrap();
    fs::rename(folder.usual().path(), &elsewhere).unwrap();
    symlink(&elsewhere, folder.usual().path()).unwrap();
    assert!(matches!(folder.usual().load(), Err(Unused::NoFile)));
    fs::remove_file(folder.usual().path()).unwrap();
    fs::create_dir(folder.usual().path()).unwrap();
    assert!(matches!(folder.usual().load(), Err(Unused::NoFile)));
}

#[cfg(unix)]
#[test]
fn only_the_processs_own_user_is_believed() {
    use super::file::{judge, user};
    use std::os::unix::fs::MetadataExt as _;
    let folder = Folder::new();
    folder.usual().save(&kept()).unwrap();
    assert_eq!(user().unwrap(), fs::metadata(folder.usual().path()).unwrap().uid());
    assert!(matches!(judge(1, 1, 0o100_600), Ok(())));
    assert!(matches!(judge(0, 1, 0o100_600), Err(Unused::Owner(0))));
    assert!(matches!(judge(1, 1, 0o100_660), Err(Unused::Writable(0o660))));
}

#[test]
fn two_processes_that_are_told_different_things_have_different_files() {
    let base = || Bootstrap::builder(Node::default()).cache_directory("d");
    let named = |id: &str| Node {
        id: id.into(),
        ..Node::default()
    };
    let of = |bootstrap: BootstrapBuilder| {
        let file = super::of(&bootstrap.build().unwrap()).unwrap();
        file.path().to_owned()
    };
    let paths = [
        of(base().insecure("a:1")),
        of(base().insecure("a:2")),
        of(base().insecure("a:1").insecure("a:2")),
        of(base().insecure("a:2").insecure("a:1")),
        of(base().insecure("a:1").profile(Profile::Envoy)),
        of(Bootstrap::builder(named("x")).cache_directory("d").insecure("a:1")),
    ];
    for (index, path) in paths.iter().enumerate() {
        assert!(!paths[..index].contains(path), "{}", path.display());
        assert!(path.starts_with("d"));
    }
    assert_eq!(of(base().insecure("a:1")), paths[0], "and the same one again");
    let none = Bootstrap::builder(Node::default()).insecure("a:1").build().unwrap();
    assert!(super::of(&none).is_none());
}

#[test]
fn the_age_of_a_copy_is_by_the_wall_clock() {
    let at = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let serving = Serving {
        since: at(50),
        written: at(10),
    };
    assert_eq!(serving.age(at(70).unwrap()), Some(Duration::from_secs(60)));
    assert_eq!(serving.age(at(5).unwrap()), None, "the clock was set back");
}

proptest! {
    #[test]
    fn whatever_is_kept_is_read_as_it_was(
        entries in prop::collection::btree_map(
            (0..ResourceKind::COUNT, ".{0,8}"),
            (".{0,4}", prop::option::of((".{0,4}", prop::collection::vec(any::<u8>(), 0..40), any::<u64>(), any::<Option<u64>>()))),
            0..6,
        ),
        written: u64,
        listed: [bool; ResourceKind::COUNT],
    ) {
        let entries = entries.into_iter().map(|((kind, name), (server, good))| {
            let good = good.map(|(version, bytes, told, ends)| Good {
                version: version.into(),
                bytes: bytes.into(),
                told,
                ends,
            });
            ((ResourceKind::ALL[kind], Arc::from(name)), Entry { server: server.into(), good })
        });
        let kept = Kept { written, listed, entries: entries.collect() };
        let bytes = format::write(&kept, &whose(), MAX_COPY_BYTES).unwrap();
        prop_assert_eq!(format::read(&bytes, &whose()), Ok(kept));
    }
}
