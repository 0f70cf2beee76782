//! The man page and the completions, kept in step with the table of options.
//!
//! With `WSLR_REGENERATE=1` the files are written in place of being compared.

use std::fmt::Write;
use std::path::Path;
use std::{env, fs};

use wslr::command::{Flag, OPTIONS, Operand, VERBS, Values, Verb};

#[test]
fn the_man_page_is_in_step() {
    let template = read("man/wslr.1.in");
    let (_, template) = template.split_once('\n').unwrap();
    let mut options = String::new();
    for flag in OPTIONS {
        man_entry(&mut options, flag, &[]);
    }
    options += ".TP\n.B ~\nAs the first word: start in the user's home.\n";
    options += ".TP\n.B \\-\\-\nEnd the options; the rest is the command.\n";
    let mut verbs = String::new();
    for verb in VERBS {
        man_entry(&mut verbs, &verb.flag, verb.operands);
        if !verb.options.is_empty() {
            verbs += ".RS\n";
            for flag in verb.options {
                man_entry(&mut verbs, flag, &[]);
            }
            verbs += ".RE\n";
        }
    }
    let page = template
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@OPTIONS@\n", &options)
        .replace("@VERBS@\n", &verbs);
    in_step("man/wslr.1", &page);
}

#[test]
fn the_bash_completion_is_in_step() {
    let mut cases = String::new();
    for verb in VERBS.iter().filter(|verb| !verb.options.is_empty() || !verb.operands.is_empty()) {
        let words = spellings(verb.options).join(" ");
        writeln!(cases, "        {})", own_spellings(&verb.flag).join("|")).unwrap();
        writeln!(cases, "            words=\"{words}\"").unwrap();
        for (position, values) in operands_of(verb) {
            // The last operand may also follow options.
            let place = if verb.operands.len() > 1 {
                format!("$COMP_CWORD -eq {} && ", position + 2)
            } else {
                String::new()
            };
            writeln!(cases, "            [[ {place}$current != -* ]] && words=\"$({values})\"")
                .unwrap();
        }
        writeln!(cases, "            ;;").unwrap();
    }
    let distribution = own_spellings(&OPTIONS[1]).join("|");
    let mut top = spellings(OPTIONS);
    top.extend(VERBS.iter().flat_map(|verb| own_spellings(&verb.flag)));
    let script = format!(
        "# bash completion for wslr; made from its table of options by a test.\n\
         _wslr() {{\n    \
             local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}\n    \
             local verb=${{COMP_WORDS[1]}} words=\n    \
             case $verb in\n{cases}        \
                 *)\n            \
                     case $previous in\n                \
                         {distribution}) words=\"$({INSTALLED})\" ;;\n                \
                         *) [[ $COMP_CWORD -gt 1 && $current != -* ]] || words=\"{}\" ;;\n            \
                     esac\n            \
                     ;;\n    \
             esac\n    \
             case $verb$previous in\n        \
                 --install--from-file|--install-f|--install--location|--install-l) words= ;;\n    \
             esac\n    \
             mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$current\")\n\
         }}\n\
         complete -o default -F _wslr wslr\n",
        top.join(" ")
    );
    in_step("completions/wslr.bash", &script);
}

#[test]
fn the_zsh_completion_is_in_step() {
    let describe = |flag: &Flag, text: &mut String| {
        for spelling in own_spellings(flag) {
            writeln!(text, "        '{spelling}:{}'", zsh(flag.help)).unwrap();
        }
    };
    let mut top = String::new();
    for flag in OPTIONS.iter().chain(VERBS.iter().map(|verb| &verb.flag)) {
        describe(flag, &mut top);
    }
    let mut cases = String::new();
    for verb in VERBS.iter().filter(|verb| !verb.options.is_empty() || !verb.operands.is_empty()) {
        writeln!(cases, "        {})", own_spellings(&verb.flag).join("|")).unwrap();
        if !verb.options.is_empty() {
            let mut options = String::new();
            verb.options.iter().for_each(|flag| describe(flag, &mut options));
            writeln!(cases, "            list=(\n{options}            )").unwrap();
        }
        for (position, values) in operands_of(verb) {
            let place = if verb.operands.len() > 1 {
                format!("[[ $CURRENT -eq {} ]] && ", position + 3)
            } else {
                String::new()
            };
            writeln!(cases, "            {place}names=(${{(f)\"$({values})\"}})").unwrap();
        }
        writeln!(cases, "            ;;").unwrap();
    }
    let distribution = own_spellings(&OPTIONS[1]).join("|");
    let script = format!(
        "#compdef wslr\n\
         # zsh completion for wslr; made from its table of options by a test.\n\
         local -a list names\n\
         if [[ $CURRENT -gt 2 ]]; then\n    \
             case $words[2] in\n{cases}    \
             esac\n    \
             case $words[CURRENT-1] in\n        \
                 {distribution}) [[ $words[2] == --install ]] || names=(${{(f)\"$({INSTALLED})\"}}) ;;\n        \
                 --from-file|-f|--location) _files; return ;;\n    \
             esac\n\
         else\n    list=(\n{top}    )\nfi\n\
         _describe option list\n\
         (( $#names )) && compadd -a names\n"
    );
    in_step("completions/_wslr", &script);
}

#[test]
fn the_fish_completion_is_in_step() {
    let mut script = "# fish completion for wslr; made from its table of options by a test.\n\
        complete -c wslr -f\n"
        .to_owned();
    let line = |script: &mut String, condition: &str, flag: &Flag, names: Option<&str>| {
        write!(script, "complete -c wslr -n '{condition}'").unwrap();
        write!(script, " -l {}", flag.long.trim_start_matches('-')).unwrap();
        if let Some(short) = flag.short {
            write!(script, " -s {short}").unwrap();
        }
        match (flag.value, names) {
            (_, Some(names)) => write!(script, " -x -a '({names})'").unwrap(),
            (Some("FILE" | "DIR"), None) => script.push_str(" -r -F"),
            (Some(_), None) => script.push_str(" -x"),
            (None, None) => {}
        }
        writeln!(script, " -d '{}'", flag.help.replace('\'', "\\'")).unwrap();
    };
    for flag in OPTIONS {
        let names = (flag.long == "--distribution").then_some(INSTALLED);
        line(&mut script, "test (count (commandline -opc)) -ge 1", flag, names);
    }
    for verb in VERBS {
        let first = operands_of(verb).next().map(|(_, values)| values);
        line(&mut script, "test (count (commandline -opc)) -eq 1", &verb.flag, first);
        for (position, values) in operands_of(verb).skip(1) {
            let given = own_spellings(&verb.flag).join(" ");
            writeln!(
                script,
                "complete -c wslr -n 'contains -- (commandline -opc)[2] {given}; and test (count \
                 (commandline -opc)) -eq {}' -x -a '({values})'",
                position + 2
            )
            .unwrap();
        }
        for flag in verb.options {
            let given = own_spellings(&verb.flag).join(" ");
            let condition = format!("contains -- (commandline -opc)[2] {given}");
            line(&mut script, &condition, flag, None);
        }
    }
    in_step("completions/wslr.fish", &script);
}

const INSTALLED: &str = "wslr --list --quiet 2>/dev/null";
const AVAILABLE: &str = "wslr --list --online --quiet 2>/dev/null";

const VERSIONS: &str = "seq 2";

/// For each operand its position, from 0, and what tells the values that it can have.
fn operands_of(verb: &Verb) -> impl Iterator<Item = (usize, &'static str)> {
    verb.operands.iter().enumerate().map(|(position, operand)| {
        let values = match operand.values {
            Values::Available => AVAILABLE,
            Values::Files => "ls",
            Values::Installed => INSTALLED,
            Values::New => "true",
            Values::Versions => VERSIONS,
        };
        (position, values)
    })
}

fn spellings(flags: &[Flag]) -> Vec<String> {
    flags.iter().flat_map(own_spellings).collect()
}

fn own_spellings(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|short| format!("-{short}"));
    [Some(flag.long.to_owned()), short].into_iter().flatten().collect()
}

fn zsh(text: &str) -> String {
    text.replace('\'', "'\\''").replace(':', "\\:")
}

fn man_entry(text: &mut String, flag: &Flag, operands: &[Operand]) {
    let mut spellings = own_spellings(flag);
    spellings.reverse();
    let spellings: Vec<String> =
        spellings.iter().map(|word| format!("\\fB{}\\fR", word.replace('-', "\\-"))).collect();
    let mut value = flag.value.map_or_else(String::new, |value| format!(" \\fI{value}\\fR"));
    for operand in operands {
        value += &match operand.required {
            true => format!(" \\fI{}\\fR", operand.name),
            false => format!(" [\\fI{}\\fR]", operand.name),
        };
    }
    writeln!(text, ".TP\n{}{value}\n{}", spellings.join(", "), roff(flag.help)).unwrap();
}

fn roff(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[track_caller]
fn in_step(path: &str, text: &str) {
    if env::var_os("WSLR_REGENERATE").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), text).unwrap();
    }
    assert!(
        read(path) == text,
        "{path} is out of step: run WSLR_REGENERATE=1 cargo test --test command_line generated"
    );
}
