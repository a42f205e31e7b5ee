//! How the program and its script start and end: arguments, exit codes, and what goes where.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::support::sandbox::{Ended, Killed, PROGRAM, Sandbox, is_running, run};
use super::support::{cluster::Cluster, wait_for, wait_until};

/// A directory for start.sh in which the program of this test is the one that is built.
fn start_sh(sandbox: &Sandbox) -> Command {
    let release = sandbox.path("target").join("release");
    fs::create_dir_all(&release).expect("a directory");
    std::os::unix::fs::symlink(PROGRAM, release.join("statekeeper")).expect("a link");
    fs::write(release.join(".statekeeper-built"), "").expect("a stamp, newer than all sources");
    let mut command = sandbox.command(Path::new(env!("CARGO_MANIFEST_DIR")).join("start.sh"));
    command.env("CARGO_TARGET_DIR", sandbox.path("target"));
    command
}

fn assert_usage(ended: &Ended) {
    assert_eq!(ended.code, Some(65), "{ended:?}");
    assert!(
        ended.stderr.contains("Usage: start.sh NODE_NAME"),
        "{ended:?}"
    );
    assert_eq!(ended.stdout, "", "an error goes to stderr alone");
}

#[test]
fn start_sh_without_arguments_prints_its_usage_and_exits_65() {
    let sandbox = Sandbox::calm();
    let ended = run(start_sh(&sandbox), "");
    assert_usage(&ended);
    assert!(
        ended.stderr.starts_with("Usage: start.sh NODE_NAME"),
        "{ended:?}"
    );
}

#[test]
fn start_sh_passes_its_arguments_on() {
    let sandbox = Sandbox::calm();
    let mut bad = start_sh(&sandbox);
    bad.args(["a", "--no-such-option"]);
    assert_usage(&run(bad, ""));

    let mut node = sandbox.command(Path::new(env!("CARGO_MANIFEST_DIR")).join("start.sh"));
    node.env("CARGO_TARGET_DIR", sandbox.path("target"))
        .args(["a b", "c"]);
    assert_usage(&run(node, ""));

    let mut node = sandbox.command(Path::new(env!("CARGO_MANIFEST_DIR")).join("start.sh"));
    node.env("CARGO_TARGET_DIR", sandbox.path("target"))
        .args(["a"]);
    let ended = run(node, "nodes\n");
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), "(none)\n"),
        "{ended:?}"
    );
}

#[test]
fn bad_arguments_print_the_usage_and_exit_65() {
    let sandbox = Sandbox::calm();
    for arguments in [
        &[][..],
        &["a", "b"],
        &["--cluster", "1"],
        &["--cluster", "10"],
        &["a", "--cluster", "3"],
        &["a", "--backups", "0"],
        &["a", "--backups", "x"],
        &["a", "--listen", "nowhere"],
        &["a", "--log", "loud"],
        &["a", "--heartbeat", "0"],
        &["a", "--lease", "100"],
        &["a", "--suspicion", "1"],
        &["a", "--unknown"],
        &[""],
        &["no name"],
        &["a/b"],
        &["a@"],
        &["a@host:21500"],
    ] {
        let ended = sandbox.run(arguments, "");
        assert_eq!(ended.code, Some(65), "{arguments:?}: {ended:?}");
        assert_usage(&ended);
    }
}

/// As `start.sh --help | head -1` does.
#[test]
fn help_for_a_reader_that_has_gone_is_no_crash() {
    let sandbox = Sandbox::calm();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = sandbox.command(PROGRAM);
    let ended = command.arg("--help").stdout(writer).output();
    let ended = ended.expect("it starts");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), &*said), (Some(0), ""));
}

#[test]
fn help_and_version_go_to_stdout_and_exit_0() {
    let sandbox = Sandbox::calm();
    let help = sandbox.run(&["--help"], "");
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for option in [
        "--cluster",
        "--listen",
        "--connect",
        "--cookie-file",
        "--backups",
        "--no-shell",
        "--log",
    ] {
        assert!(
            help.stdout.contains(option),
            "--help does not explain {option}"
        );
    }
    let version = sandbox.run(&["--version"], "");
    assert_eq!((version.code, version.stderr.as_str()), (Some(0), ""));
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_cluster_with_piped_input_prints_results_alone_and_leaves_no_process() {
    let sandbox = Sandbox::calm();
    let input = "reward_player player1 5\nreward_player player1 a\nreward_player player1 2\n\n# done\nlocal_players";
    let ended = sandbox.run(&["--cluster", "3"], input);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{ended:?}");
    assert_eq!([lines[0], lines[2], lines[3]], ["5", "7", "player1 7"]);
    assert!(lines[1].starts_with("** CRASH "), "{}", lines[1]);

    let processes = sandbox.processes();
    assert_eq!(processes.len(), 3, "three nodes ran");
    assert!(
        !processes.iter().any(|pid| is_running(*pid)),
        "no process is left"
    );
}

#[test]
fn the_nodes_of_a_cluster_end_with_a_parent_that_is_killed() {
    let sandbox = Sandbox::calm();
    let mut command = sandbox.command(PROGRAM);
    let log = fs::File::create(sandbox.log_file("cluster")).expect("a log");
    command
        .args(["--cluster", "3"])
        .stdin(Stdio::piped())
        .stderr(log);
    let mut parent = Killed(
        command
            .stdout(Stdio::null())
            .spawn()
            .expect("the program starts"),
    );
    wait_until("the cluster serves", || {
        sandbox.log("cluster").contains("serve as one cluster")
    });
    let processes = sandbox.processes();
    assert_eq!(processes.len(), 3);
    parent
        .0
        .kill()
        .and_then(|()| parent.0.wait())
        .expect("a child to kill");
    // Whoever adopts them may not wait for them: a zombie has ended, too.
    let state = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = |pid: &u32| !is_running(*pid) || state(pid).contains(") Z ");
    wait_until("no node outlives its parent", || {
        processes.iter().all(ended)
    });
}

#[test]
fn a_node_without_a_shell_runs_until_sigterm_and_leaves_gracefully() {
    let cluster = Cluster::calm(2);
    let mut spec = cluster.spec("c").option("--connect", "a");
    spec.options.push("--no-shell".to_owned());
    let silent = cluster.add_as(spec);
    silent.end_input();
    let a = cluster.node("a");
    wait_until("c has joined", || {
        a.view().members == ["a", "b", "c"] && a.view().state == "serving"
    });
    for number in 0..20 {
        assert_eq!(a.reward(&format!("p{number}"), 5), "5");
    }
    silent.signal(Signal::SIGTERM);
    assert_eq!(silent.wait_for_end().code(), Some(0));
    wait_until("c has left", || a.view().members == ["a", "b"]);
    assert!(!a.view().possible_loss);
    for number in 0..20 {
        assert_eq!(cluster.node("b").points(&format!("p{number}")), 5);
    }
}

#[test]
fn options_come_from_the_environment_too() {
    let cluster = Cluster::calm(2);
    let sandbox = &cluster.sandbox;
    let addr = sandbox.addr(21_700);
    let mut command = sandbox.command(PROGRAM);
    command
        .arg("c")
        .env("STATEKEEPER_LISTEN", addr.to_string())
        .env("STATEKEEPER_CONNECT", "nobody,a")
        .env("STATEKEEPER_NO_SHELL", "1")
        .env("STATEKEEPER_LOG", "info")
        .env("STATEKEEPER_THREADS", "50")
        .stdin(Stdio::null())
        .stderr(fs::File::create(sandbox.log_file("c")).expect("a log"));
    let mut child = Killed(command.spawn().expect("the program starts"));
    let a = cluster.node("a");
    wait_until("c has joined", || a.view().members == ["a", "b", "c"]);
    assert!(
        sandbox.log("c").contains(&format!("listening on {addr}")),
        "{}",
        sandbox.log("c")
    );
    let threads = fs::read_dir(format!("/proc/{}/task", child.0.id())).expect("its threads");
    let threads = threads.count();
    assert!(threads > 50, "the first one, and 50: {threads}");
    let pid = Pid::from_raw(i32::try_from(child.0.id()).expect("a number"));
    signal::kill(pid, Signal::SIGINT).expect("a signal to a child");
    let status = wait_for("c ends", || child.0.try_wait().expect("its status"));
    assert!(status.success(), "{status}");
    wait_until("c has left", || a.view().members == ["a", "b"]);
}

#[test]
fn the_shell_of_a_cluster_goes_on_when_one_of_its_nodes_is_killed() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(PROGRAM);
    command
        .args(["--cluster", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command.stderr(fs::File::create(sandbox.log_file("cluster")).expect("a log"));
    let mut child = Killed(command.spawn().expect("the program starts"));
    let mut stdin = child.0.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(child.0.stdout.take().expect("a pipe")).lines();
    let mut ask = |line: &str| {
        writeln!(stdin, "{line}").expect("a command");
        lines.next().expect("an answer").expect("text")
    };
    assert_eq!(ask("reward_player player1 5"), "5");
    let record = fs::read_to_string(sandbox.record("app_node2")).expect("a record");
    let pid: i32 = record
        .split(' ')
        .next()
        .and_then(|pid| pid.parse().ok())
        .expect("a process");
    signal::kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a node of that cluster");
    assert_eq!(ask("reward_player player1 2"), "7");
    assert_eq!(ask("quit"), "left");
    let status = wait_for("the cluster ends", || {
        child.0.try_wait().expect("its status")
    });
    assert!(status.success(), "{status}");
    assert!(
        !sandbox.processes().iter().any(|pid| is_running(*pid)),
        "no process is left"
    );
}
