//! What the pages in `docs/` tell people to type, run as it stands there, and compared with what they say comes of it.

use cutover_tests::pages::{self, Block};
use cutover_tests::scene::{Node, SOURCE, TARGET};
use cutover_tests::{Lab, Port, agent, wait};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// LIMIT: of all commands of a page together, on a busy machine.
const SCRIPT: &str = "120";

/// The shell with the program of this build first in its path, and none of this process's settings.
fn shell(script: &str) -> Command {
    let program = agent::binary();
    let folder = program.parent().expect("a folder").display().to_string();
    let mut command = Command::new("timeout");
    command.args([SCRIPT, "bash", "-euo", "pipefail", "-c", script]);
    command
        .env_clear()
        .env("PATH", format!("{folder}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
    command
}

/// What a program printed.
fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn commands(blocks: &[Block]) -> String {
    let commands = blocks.iter().filter(|block| block.language == "sh");
    commands.map(|block| block.text.as_str()).collect()
}

/// A line without what differs from run to run: numbers, and how wide columns are.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for word in line.split_whitespace() {
        shape.push_str(if word.chars().all(|c| c.is_ascii_digit()) { "N" } else { word });
        shape.push(' ');
    }
    shape
}

/// The page's own clean-up, when its commands have stopped on the way to it.
struct Undone<'a> {
    lab: &'a Lab,
    configuration: PathBuf,
}

impl Drop for Undone<'_> {
    fn drop(&mut self) {
        let prefix = self.lab.prefix();
        let configuration = self.configuration.display();
        let script = format!(
            "nsenter --net=/run/netns/{prefix}host cutover cleanup -c {configuration}\n\
             ip netns delete {prefix}host; ip netns delete {prefix}vm"
        );
        if Path::new("/run/netns").join(format!("{prefix}host")).exists() {
            let _ = shell(&format!("set +e\n{script}")).output();
        }
    }
}

#[test]
fn the_quick_start_works() {
    let lab = Lab::new();
    let blocks = pages::blocks("quick-start.md", "the_quick_start_works");
    let folder = lab.folder().join("try");
    let here = |text: &str| {
        text.replace("/run/cutover-try", &folder.display().to_string())
            .replace("/sys/fs/bpf/cutover-try", &lab.pin_path("try").display().to_string())
            .replace("cutover-host", &format!("{}host", lab.prefix()))
            .replace("cutover-vm", &format!("{}vm", lab.prefix()))
    };
    let _undone = Undone { lab: &lab, configuration: folder.join("felix.cfg") };
    // The agent goes with the shell that has started it, whatever becomes of the commands.
    let script = format!("trap 'kill %1 2> /dev/null || true' EXIT\n{}", here(&commands(&blocks)));
    let output = shell(&script).output().expect("bash");
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let said = text(&output);
    assert!(output.status.success(), "{}\n{said}\n{log}", output.status);
    let shapes: Vec<String> = said.lines().map(shape).collect();
    for line in blocks.iter().filter(|block| block.language == "text").flat_map(|block| block.text.lines()) {
        let is_said = shapes.iter().any(|said| said.starts_with(shape(line).as_str()));
        assert!(is_said, "the page has {line:?}, and this was said:\n{said}");
    }
    for network in ["host", "vm"] {
        let path = Path::new("/run/netns").join(format!("{}{network}", lab.prefix()));
        assert!(!path.exists(), "{} is left", path.display());
    }
    assert!(!folder.exists() && !lab.pin_path("try").exists(), "{said}");
}

/// Runs the commands of a page with a folder in the place of the daemon's.
fn with_folder(lab: &Lab, daemons: &str, commands: &str) {
    let folder = lab.folder().join("daemon");
    fs::create_dir(&folder).expect("space on the disk");
    // By another file: the page moves the one that is checked.
    let output = shell(&commands.replace(daemons, &folder.display().to_string())).output().expect("bash");
    assert!(output.status.success(), "{}\n{}\n{commands}", output.status, text(&output));
    let mut files = fs::read_dir(folder).expect("a folder").flatten();
    assert!(files.all(|file| file.metadata().is_ok_and(|it| it.len() > 1000)), "{commands}");
}

#[test]
fn bird_takes_what_its_page_prints() {
    let blocks = pages::blocks("bgp-bird.md", "bird_takes_what_its_page_prints");
    let check = "bird -p -c /etc/bird/bird.conf.new\n";
    with_folder(&Lab::new(), "/etc/bird", &format!("{}{check}", commands(&blocks)));
}

#[test]
fn frr_takes_what_its_page_prints() {
    let blocks = pages::blocks("bgp-frr.md", "frr_takes_what_its_page_prints");
    let check = "vtysh -C -f /etc/frr/frr.conf.new\n";
    with_folder(&Lab::new(), "/etc/frr", &format!("{}{check}", commands(&blocks)));
}

#[test]
fn bird_takes_the_snippet_of_the_page() {
    let blocks = pages::blocks("bgp.md", "bird_takes_the_snippet_of_the_page");
    let check = "echo 'protocol device {}' > /etc/bird/bird.conf\n\
                 echo 'include \"cutover.conf\";' >> /etc/bird/bird.conf\nbird -p -c /etc/bird/bird.conf\n\
                 rm /etc/bird/bird.conf\n";
    with_folder(&Lab::new(), "/etc/bird", &format!("{}{check}", commands(&blocks)));
}

/// A VM that is moving here, as the page has it.
#[test]
fn the_resources_of_the_page_make_a_target() {
    let blocks = pages::blocks("configure.md", "the_resources_of_the_page_make_a_target");
    let lab = Lab::new();
    let directory = lab.directory();
    let mut node = Node::new(&lab, TARGET, &directory, &Port::new(1));
    fs::write(directory.path().join("vm1.yaml"), &blocks[0].text).expect("space on the disk");
    assert!(blocks[0].text.contains(TARGET) && blocks[0].text.contains(SOURCE));
    node.agent.start();
    wait::until(wait::SOON, "the endpoint of the page is a target", || {
        let status = node.agent.status();
        let endpoint = &status["endpoints"][0];
        endpoint["role"] == "TARGET" && endpoint["state"] == "Target" && endpoint["ifindex"].is_number()
    });
    assert_eq!(node.agent.status()["quarantine"].as_object().map(serde_json::Map::len), Some(0));
}

/// `.ci/run` is what continuous integration starts.
#[test]
fn continuous_integration_runs_the_test_command() {
    let blocks = pages::blocks("../README.md", "continuous_integration_runs_the_test_command");
    let run = fs::read_to_string(pages::folder().join("../.ci/run")).expect(".ci/run");
    let command = blocks[0].text.split('#').next().unwrap_or_default().trim();
    assert!(command.starts_with("cargo xtask test") && run.contains(command), "{command}");
}

/// Every page, with its name.
fn all() -> Vec<(String, String)> {
    let root = pages::folder().join("..");
    let folders = [pages::folder(), root];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder").flatten());
    let paths =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "md"));
    let pages = paths.map(|path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).expect("text"))
    });
    // What is past does not have to exist any more.
    let pages: Vec<_> = pages.filter(|(name, _)| name != "CHANGELOG.md").collect();
    assert!(pages.len() > 20, "{}", pages.len());
    pages
}

/// What pages write as a command of the program: its words up to what is the shell's.
fn invocations(page: &str) -> Vec<Vec<String>> {
    let joined = page.replace("\\\n", " ");
    let blocks = pages::parse(&joined);
    let of_blocks = blocks.iter().filter(|block| block.language == "sh").flat_map(|block| block.text.lines());
    let of_text = joined.split('`').filter(|text| text.starts_with("cutover ") && !text.contains('\n'));
    let mut found = Vec::new();
    for line in of_blocks.chain(of_text) {
        for command in line.replace(" | ", ";").split([';', '&', '>', '#', '(']) {
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            let Some(at) = words.iter().position(|word| word == "cutover") else { continue };
            // `apt-get purge cutover`, `journalctl -u cutover`: nothing of the program's.
            if at == 0 || words[0] == "nsenter" || words[0] == "ssh" || words[0] == "until" {
                found.push(words[at + 1..].to_vec());
            }
        }
    }
    found
}

/// Options that help does not show: they write the generated pages.
const HIDDEN: [&str; 1] = ["--markdown"];

/// Commands and options that a page names are those that the program has.
#[test]
fn commands_of_the_pages_are_those_of_the_program() {
    let mut seen = BTreeSet::new();
    for (name, page) in all() {
        for words in invocations(&page) {
            let is_name = |word: &&String| {
                word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '|')
            };
            let is_command = |word: &&String| !word.starts_with('-') && is_name(word);
            let commands: Vec<String> = words.iter().take_while(is_command).cloned().collect();
            for command in alternatives(&commands) {
                let options =
                    words.iter().filter(|word| word.starts_with("--") && !HIDDEN.contains(&word.as_str()));
                let options = options
                    .map(|word| word.split(['=', '[', ']', '|']).next().unwrap_or_default().to_owned());
                for option in options.map(Some).chain([None]) {
                    if !seen.insert((command.clone(), option.clone())) {
                        continue;
                    }
                    let help =
                        Command::new(agent::binary()).args(&command).arg("--help").output().expect("it runs");
                    let help = text(&help);
                    assert!(help.contains("Usage: cutover"), "{name}: cutover {}: {help}", command.join(" "));
                    if let Some(option) = option.filter(|option| !option.is_empty()) {
                        let is_there =
                            help.split(|c: char| c.is_whitespace() || c == ',').any(|word| word == option);
                        assert!(is_there, "{name}: cutover {} has no {option}", command.join(" "));
                    }
                }
            }
        }
    }
    assert!(seen.len() > 30, "{seen:?}");
}

/// `bgp bird|frr` is two commands. What is behind a command and is none, such as `UID`, is not asked for.
fn alternatives(words: &[String]) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    for word in words {
        let ends = |command: &Vec<String>| {
            matches!(command.first().map(String::as_str), Some("timeline" | "release"))
        };
        all = all
            .into_iter()
            .flat_map(|before: Vec<String>| {
                let ended = ends(&before);
                word.split('|')
                    .map(move |word| {
                        let mut command = before.clone();
                        if !ended {
                            command.push(word.to_owned());
                        }
                        command
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    all
}

/// Settings in a page are taken without a word, and what looks like a file of settings is one.
#[test]
fn settings_of_the_pages_are_taken() {
    let folder = tempfile::tempdir().expect("space on the disk");
    let mut count = 0;
    for (name, page) in all() {
        for block in pages::parse(&page).iter().filter(|block| block.language == "ini") {
            let file = folder.path().join("felix.cfg");
            // Its own words only: what the file says of certificates is about files of the reader's.
            let text: String = block
                .text
                .lines()
                .filter(|line| !line.starts_with("Etcd"))
                .map(|line| format!("{line}\n"))
                .collect();
            fs::write(&file, &text).expect("space on the disk");
            let mut check = Command::new(agent::binary());
            check
                .env_clear()
                .env("FELIX_DATASTORETYPE", "dir")
                .args(["check-config", "--json", "-c"])
                .arg(&file);
            let output = check.output().expect("it runs");
            let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert!(output.status.success(), "{name}: {}", block.text);
            let problems = answer["problems"].as_array().expect("a list");
            let about =
                |problem: &&serde_json::Value| !problem.to_string().contains("cannot list the directory");
            assert_eq!(problems.iter().filter(about).count(), 0, "{name}: {}\n{answer:#}", block.text);
            count += 1;
        }
    }
    assert!(count >= 4, "{count}");
}
