//! Names, ports and secrets that do not fit, and whoever else knocks at a node's port.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::support::cluster::Cluster;
use super::support::node::Node;
use super::support::sandbox::{PROGRAM, Sandbox, run};
use super::support::wait_until;

/// An attempt to connect ends within 5 s; a busy machine may be late.
const REFUSED_WITHIN: Duration = Duration::from_secs(8);

fn cookie(sandbox: &Sandbox, name: &str, secret: &str, mode: u32) -> PathBuf {
    let path = sandbox.path(name);
    fs::write(&path, secret).expect("a cookie file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in ASCII")
}

/// Connects in vain; why not.
#[track_caller]
fn refused(node: &Node, peer: &str) -> String {
    let asked = Instant::now();
    let refused = node.ask(&format!("connect {peer}"));
    assert!(refused.starts_with("error: "), "{refused}");
    assert!(
        asked.elapsed() < REFUSED_WITHIN,
        "after {:?}: {refused}",
        asked.elapsed()
    );
    refused
}

#[test]
fn the_name_of_a_living_node_is_in_use() {
    let cluster = Cluster::empty(Sandbox::calm());
    let a = cluster.add("a");
    assert_eq!(a.view().state, "alone");
    let ended = cluster.sandbox.run(&["a"], "");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("error: a node called a@") && ended.stderr.contains("another name"),
        "{ended:?}"
    );
    assert_eq!(ended.stdout, "");
    a.kill9();
    let ended = cluster.sandbox.run(&["a"], "nodes");
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), "(none)\n"),
        "the name is free again: {ended:?}"
    );
}

#[test]
fn a_port_in_use_is_refused() {
    let sandbox = Sandbox::calm();
    let taken = TcpListener::bind(sandbox.addr(21_500)).expect("a free port");
    let addr = taken.local_addr().expect("its address").to_string();
    for addr in [addr.as_str(), "192.0.2.1:21500"] {
        let ended = sandbox.run(&["a", "--listen", addr], "");
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(
            ended
                .stderr
                .contains(&format!("error: cannot listen on {addr}")),
            "{ended:?}"
        );
        assert!(ended.stderr.contains("--listen"), "{ended:?}");
    }
}

#[test]
fn a_cookie_file_that_others_can_read_is_refused() {
    let sandbox = Sandbox::calm();
    for mode in [0o644, 0o640, 0o606] {
        let file = cookie(&sandbox, "cookie", "secret", mode);
        let ended = sandbox.run(&["a", "--cookie-file", text(&file)], "");
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("chmod 600"), "{ended:?}");
    }
    let file = cookie(&sandbox, "cookie", "", 0o600);
    let ended = sandbox.run(&["a", "--cookie-file", text(&file)], "");
    assert!(
        ended.code == Some(1) && ended.stderr.contains("empty"),
        "{ended:?}"
    );
    let missing = sandbox.path("missing");
    let ended = sandbox.run(&["a", "--cookie-file", text(&missing)], "");
    assert!(
        ended.code == Some(1) && ended.stderr.contains(text(&missing)),
        "{ended:?}"
    );
}

#[test]
fn the_cookie_is_made_at_the_first_start_for_its_user_alone() {
    let sandbox = Sandbox::calm();
    let file = sandbox.path("home").join(".statekeeper.cookie");
    assert!(!file.exists());
    assert_eq!(sandbox.run(&["a"], "").code, Some(0));
    let made = fs::metadata(&file).expect("a cookie file");
    assert_eq!(made.permissions().mode() & 0o777, 0o600);
    let secret = fs::read(&file).expect("its content");
    assert_eq!(sandbox.run(&["a"], "").code, Some(0));
    assert_eq!(
        fs::read(&file).expect("its content"),
        secret,
        "the second start takes what the first made"
    );
}

#[test]
fn a_peer_with_another_cookie_is_refused_with_the_reason_on_both_sides() {
    let cluster = Cluster::empty(Sandbox::calm());
    let other = cookie(&cluster.sandbox, "other", "another secret", 0o600);
    let a = cluster.add("a");
    let spec = cluster.spec("b").option("--cookie-file", text(&other));
    let b = cluster.add_as(spec);
    assert_eq!(b.view().state, "alone", "it is up");
    assert!(refused(&a, "b").contains("cookie"));
    wait_until("b logs the reason", || {
        cluster.sandbox.log("b").contains("cookie")
    });
    assert!(refused(&b, "a").contains("cookie"));
    for node in [a, b] {
        assert_eq!(node.view().state, "alone");
    }
}

#[test]
fn a_peer_that_cannot_be_reached_is_refused_within_five_seconds() {
    let cluster = Cluster::empty(Sandbox::calm());
    let a = cluster.add("a");
    assert!(refused(&a, "nobody").contains("no node nobody has run on this machine"));
    // Nobody listens there.
    let free = cluster.sandbox.addr(21_600);
    assert!(refused(&a, &format!("b@{free}")).contains("cannot reach"));
    // Somebody listens there, and never says a word.
    let silent = TcpListener::bind(cluster.sandbox.addr(21_601)).expect("a free port");
    let addr = silent.local_addr().expect("its address");
    assert!(refused(&a, &format!("b@{addr}")).contains("cannot reach"));
    // Somebody answers there, and is no node.
    let server = TcpListener::bind(cluster.sandbox.addr(21_602)).expect("a free port");
    let addr = server.local_addr().expect("its address");
    let stranger = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        // It may hang up at the first byte.
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        let _ = stream.read(&mut [0; 1024]);
    });
    assert!(refused(&a, &format!("b@{addr}")).contains("no statekeeper node"));
    stranger.join().expect("the stranger ends");
    // A node is there, of another name.
    let b = cluster.add("b");
    assert_eq!(b.view().state, "alone");
    assert!(refused(&a, &format!("c@{}", b.addr())).contains("is called b@"));
    assert_eq!(a.view().state, "alone");
}

#[test]
fn garbage_and_oversized_frames_do_not_disturb_a_node() {
    let cluster = Cluster::calm(2);
    let (a, b) = (cluster.node("a"), cluster.node("b"));
    assert_eq!(a.reward("player1", 5), "5");
    let garbage: Vec<u8> = (0..1 << 20_u32)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let messages: [&[u8]; 7] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0; 4096],
        &[0xff; 4096],
        // Lengths that no frame has, as 32 and as 64 bits.
        &[0x7f, 0xff, 0xff, 0xff, 1, 2, 3],
        &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3],
        &garbage,
    ];
    let mut open = Vec::new();
    for _ in 0..5 {
        for message in messages {
            let mut stream = TcpStream::connect(a.addr()).expect("a connection");
            stream
                .set_write_timeout(Some(Duration::from_secs(5)))
                .expect("a timeout");
            // It hangs up as soon as it knows enough.
            let _ = stream.write_all(message);
            open.push(stream);
        }
    }
    // While these are open, the node goes on, also with newcomers.
    assert_eq!(a.reward("player1", 1), "6");
    assert_eq!(b.reward("player1", 1), "7");
    let c = cluster.add("c");
    assert_eq!(c.ask("connect a"), "true");
    cluster.wait_serving();
    drop(open);
    assert_eq!(c.reward("player1", 1), "8");
}

#[test]
fn a_second_node_of_the_same_name_is_not_taken_in() {
    let cluster = Cluster::calm(2);
    let sandbox = &cluster.sandbox;
    // The registry keeps such nodes apart on one machine: this one has another.
    let mut command = sandbox.command(PROGRAM);
    let addr = sandbox.addr(21_800);
    command.args([
        "b",
        "--listen",
        &addr.to_string(),
        "--connect",
        &format!("a@{}", cluster.node("a").addr()),
    ]);
    command.env("STATEKEEPER_RUNTIME_DIR", sandbox.path("elsewhere"));
    let ended = run(command, "reward_player player1 5\n");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("name"), "{ended:?}");
    assert!(
        ended.stdout.starts_with("error: this node is alone"),
        "{ended:?}"
    );
    cluster.wait_serving();
    assert_eq!(cluster.node("b").reward("player1", 1), "1");
}
