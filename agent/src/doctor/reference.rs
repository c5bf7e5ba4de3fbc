//! `docs/doctor.md`, rendered from the checks.

use super::checks;
use std::fmt::Write as _;

const HEAD: &str = "\
# What `cutover doctor` checks

Generated from `agent/src/doctor` with `cutover doctor --markdown`; do not edit.

Each finding has the name of its check, a level (`ok`, `notice`, `warning`, `error`), what was seen, why it matters, and the change to
make. A `notice` is also what a check says that could not tell. One check can have several findings: one for each file, interface or
member of a cluster.

Exit codes: 0 without a finding of level `error`; 1 with one; 78 if the agent would not start with these settings; 77 if there is
no error as far as could be seen, but not everything could be seen without root. With `--json`:
`{\"host\", \"errors\", \"warnings\", \"notices\", \"findings\": [{\"check\", \"level\", \"what\", \"why\", \"change\"}]}`, the worst first.

| check | what has to be so | why |
|---|---|---|
";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for check in checks() {
        let _ = writeln!(page, "| `{}` | {} | {} |", check.id(), check.wants, check.why);
    }
    page
}
