//! What `make dist` publishes, packed from the program of the tests: archives, image, checksums, manifests.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::docs::pages::{RunBy, commands};
use crate::harness::watchdog;

const PROGRAM: &str = env!("CARGO_BIN_EXE_hookstream");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs `make dist` for some parts, into a folder of its own.
fn dist(parts: &str) -> PathBuf {
    let folder = watchdog::unique_path("dist");
    let mut command = Command::new("deploy/dist/dist.sh");
    command.env("DIST_BINARY", PROGRAM).env("DIST_DIR", &folder).env("DIST_PARTS", parts);
    let output = expect_success(command.env("DIST_URL", "https://dl.example/v1"));
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.contains(": starts and runs Lua functions") || output.contains(": static, "), "{output}");
    folder
}

fn expect_success(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    output
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn name_of(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn with_suffix(folder: &Path, suffix: &str) -> PathBuf {
    let mut names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names.find(|path| path.display().to_string().ends_with(suffix)).unwrap_or_else(|| panic!("no {suffix}"))
}

#[test]
fn archive_has_program_completions_and_manual() {
    let folder = dist("archives manifests");
    expect_success(Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(&folder));
    let archive = with_suffix(&folder, ".tar.gz");
    let unpacked = folder.join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    expect_success(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked));
    let version = expect_success(Command::new(unpacked.join("hookstream")).args(["version", "--client"]));
    assert!(String::from_utf8_lossy(&version.stdout).contains(VERSION));
    for name in ["LICENSE", "README.md", "completions/hookstream.zsh", "man/hookstream-deliveries-list.1"] {
        assert!(!read(&unpacked.join(name)).is_empty(), "{name}");
    }

    // The commands with which a user checks a release.
    let target = name_of(&archive).replace(&format!("hookstream-{VERSION}-"), "").replace(".tar.gz", "");
    let commands = commands("docs/release.md", RunBy::Release);
    assert_eq!(commands.len(), 2, "{commands:?}");
    for command in commands {
        let command = command.replace("x86_64-unknown-linux-gnu", &target);
        let output = expect_success(Command::new("bash").args(["-ec", &command]).current_dir(&folder));
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.contains(&format!("{}: OK", name_of(&archive))) || output.contains(VERSION),
            "{output}"
        );
    }

    // The manifests name the archive that was built, and no other.
    let sums = read(&folder.join("SHA256SUMS"));
    let name = name_of(&archive);
    let (sum, _) = sums.lines().find(|line| line.ends_with(name)).unwrap().split_once(' ').unwrap();
    let krew: serde_json::Value = serde_saphyr::from_str(&read(&folder.join("krew.yaml"))).unwrap();
    let platforms = krew["spec"]["platforms"].as_array().unwrap();
    assert_eq!(platforms.len(), 1, "{krew}");
    assert_eq!(platforms[0]["sha256"], sum);
    assert_eq!(platforms[0]["uri"], format!("https://dl.example/v1/{name}"));
    let formula = read(&folder.join("hookstream.rb"));
    assert!(formula.contains(sum) && !formula.contains('@'), "{formula}");

    // Two builds of one commit are equal.
    let again = dist("archives");
    assert_eq!(std::fs::read(&archive).unwrap(), std::fs::read(again.join(name)).unwrap());
}

/// The check of `make dist` accepts the program, and finds a program that needs the machine's libraries, does not start, or was
/// linked so that Lua functions break.
#[test]
fn check_rejects_programs_that_users_could_not_run() {
    let folder = watchdog::unique_path("check");
    std::fs::create_dir(&folder).unwrap();
    let script = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let check = |args: &[&str]| Command::new("deploy/dist/check.sh").args(args).output().unwrap();
    assert!(check(&[PROGRAM]).status.success());
    let aborts = script("aborts", r#"[ "$1" = version ] || kill -ABRT $$"#);
    let accepts = script("accepts", "exit 0");
    let is_static = !cfg!(target_env = "gnu");
    for (args, problem) in [
        (vec![PROGRAM, "static"], if is_static { "" } else { "is not static" }),
        (vec!["/bin/false"], "does not start"),
        (vec![aborts.as_str()], "does not run a Lua function"),
        (vec![accepts.as_str()], "reports the error of a Lua function wrongly (0)"),
    ] {
        let output = check(&args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), problem.is_empty(), "{args:?}: {error}");
        assert!(error.contains(problem), "{args:?}: {error}");
    }
}

/// Unpacks the image as a runtime would, and runs its program there, without anything of this machine.
#[test]
#[ignore = "needs Debian's package manager and user namespaces"]
fn needs_debian_image_runs_without_the_machine() {
    let folder = dist("image");
    let (layout, bundle) = (folder.join("layout"), folder.join("bundle"));
    std::fs::create_dir(&layout).unwrap();
    expect_success(
        Command::new("tar").arg("-xf").arg(with_suffix(&folder, ".oci.tar")).arg("-C").arg(&layout),
    );
    let image = format!("{}:latest", layout.display());
    expect_success(Command::new("umoci").args(["unpack", "--rootless", "--image", &image]).arg(&bundle));
    let config: serde_json::Value = serde_json::from_str(&read(&bundle.join("config.json"))).unwrap();
    assert_eq!(config["process"]["args"], serde_json::json!(["/usr/bin/hookstream"]));
    assert_eq!(config["process"]["user"]["uid"], 65532);
    let root = bundle.join("rootfs");
    for absent in ["bin/sh", "usr/bin/apt", "usr/bin/dpkg"] {
        assert!(!root.join(absent).exists(), "the image has {absent}");
    }
    assert!(read(&root.join("etc/ssl/certs/ca-certificates.crt")).matches("BEGIN CERTIFICATE").count() > 50);

    let isolated = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--root"])
            .arg(&root)
            .arg("/usr/bin/hookstream")
            .args(args);
        command
    };
    let version = expect_success(&mut isolated(&["version", "--client"]));
    assert!(String::from_utf8_lossy(&version.stdout).contains(VERSION));
    // Also the sandbox, which is another process of the same program.
    expect_success(&mut isolated(&["sandbox", "--help"]));
}
