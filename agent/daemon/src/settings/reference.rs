//! `docs/configuration.md`, rendered from the table.

use super::table::{Effect, Setting, TABLE};
use std::fmt::Write as _;

const HEAD: &str = "\
# Configuration

Generated from `agent/daemon/src/settings/table.rs` with `cutover check-config --markdown`; do not edit.

Every setting is looked for in these places; the first valid value wins, and `cutover check-config` says which one did:

1. the environment: `FELIX_<name>`, in any case;
2. the file given with `-c`, else `/etc/calico/felix.cfg`: `Name = value` or `Name: value`, names in any case, sections ignored, `#` and `;` begin comments;
3. the FelixConfiguration resource `node.<host name>`;
4. the FelixConfiguration resource `default`;
5. the built-in default.

In a FelixConfiguration, names begin with a small letter and times are durations such as `30s` or `1m30s`; an annotation
`config.projectcalico.org/<name>` of the same resource wins over its spec and is written as in the file.

An invalid value is reported and the next place counts, except where the table says that it stops the start. An empty value is
ignored. `none` means nothing, or zero. Whole numbers may be written as in Go: `0x200`, `0o1000`, `01000`. An elevated priority
that is not lower than the normal one of its family stops the start with exit 78; in a running agent such a change is refused and the settings
before stay in force.

`CutoverReadyCommand` is described in [configure.md](configure.md#waiting-for-something-else-on-the-host).

*Local*: only in the environment and the file. *Changes*: `at once`, or at the next start of the agent.

";

const COMPATIBILITY: &str = "
## Read and checked, without effect

So that a configuration of Felix can be kept as it is. Each row says what the setting is for in Felix, and why it is for nothing here.
Names that are not on this page are ignored with a notice.

";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    let (unused, used): (Vec<_>, Vec<_>) = TABLE.iter().partition(|setting| setting.effect == Effect::Never);
    page.push_str("| name | values | default | local | changes | meaning |\n|---|---|---|---|---|---|\n");
    for setting in used {
        let changes = if setting.effect == Effect::Live { "at once" } else { "at start" };
        row(&mut page, setting, Some(changes));
    }
    page.push_str(COMPATIBILITY);
    page.push_str(
        "| name | values | default | local | what for, and why not here |\n|---|---|---|---|---|\n",
    );
    for setting in unused {
        row(&mut page, setting, None);
    }
    page
}

fn row(page: &mut String, setting: &Setting, changes: Option<&str>) {
    let default =
        if setting.default.is_empty() { "–".to_owned() } else { format!("`{}`", setting.default) };
    let local = if setting.rules.local { "yes" } else { "" };
    let changes = changes.map(|changes| format!("{changes} | ")).unwrap_or_default();
    let fatal = if setting.rules.fatal { " An invalid value stops the start." } else { "" };
    let (name, values, meaning) = (setting.name, (setting.values)(), setting.meaning);
    let _ = writeln!(page, "| `{name}` | {values} | {default} | {local} | {changes}{meaning}{fatal} |");
}
