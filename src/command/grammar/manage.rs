//! `--manage NAME` and exactly one action (behaviour reference 1.11).

use std::path::PathBuf;

use super::error::GrammarError;
use super::invocation::{Invocation, Manage, ManageAction};
use super::tail::Tail;
use super::verbs::text;
use crate::config::size;
use crate::config::value::boolean;

/// The options that are actions, each with its value read.
type Read = fn(&mut Tail) -> Result<ManageAction, GrammarError>;

/// Every action by its option. Other options of the verb say how an action is done.
const ACTIONS: &[(&str, Read)] = &[
    ("--set-default-user", set_default_user),
    ("--move", |tail| Ok(ManageAction::Move { to: path(tail, "--move").unwrap_or_default() })),
    ("--resize", |tail| {
        let size = tail.value("--resize").unwrap_or_default();
        Ok(ManageAction::Resize { size: size::parse(&text(&size))? })
    }),
    ("--set-sparse", |tail| {
        let value = tail.value("--set-sparse").unwrap_or_default();
        match boolean(&text(&value)) {
            Some(sparse) => Ok(ManageAction::SetSparse { sparse }),
            None => Err(GrammarError::Boolean { value }),
        }
    }),
    ("--compact", |_| Ok(ManageAction::Compact)),
    ("--clone", |tail| {
        let name = word(tail, "--clone");
        Ok(ManageAction::Clone { name, location: path(tail, "--location") })
    }),
    ("--snapshot", |tail| Ok(ManageAction::Snapshot { snapshot: word(tail, "--snapshot") })),
    ("--restore", |tail| Ok(ManageAction::Restore { snapshot: word(tail, "--restore") })),
    ("--list-snapshots", |tail| Ok(ManageAction::ListSnapshots { json: tail.has("--json") })),
    ("--delete-snapshot", |tail| {
        Ok(ManageAction::DeleteSnapshot { snapshot: word(tail, "--delete-snapshot") })
    }),
];

/// The options that are none, and the action that each is of.
const DETAILS: &[(&str, &str)] = &[
    ("--allow-unsafe", "--set-sparse"),
    ("--location", "--clone"),
    ("--json", "--list-snapshots"),
];

/// Reads what follows the verb; `name` is the distro's.
pub(super) fn parse(mut tail: Tail, name: String) -> Result<Invocation, GrammarError> {
    let mut asked = ACTIONS.iter().filter(|(option, _)| tail.has(option));
    let (first, second) = (asked.next(), asked.next());
    let (option, read) = first.ok_or(GrammarError::ActionRequired)?;
    if let Some((second, _)) = second {
        return Err(GrammarError::Usage { first: option, second });
    }
    for (detail, action) in DETAILS {
        if tail.has(detail) && action != option {
            return Err(GrammarError::Usage { first: option, second: detail });
        }
    }
    Ok(Invocation::Manage(Manage { name, action: read(&mut tail)? }))
}

fn word(tail: &mut Tail, option: &str) -> String {
    tail.value(option).as_deref().map(text).unwrap_or_default()
}

fn path(tail: &mut Tail, option: &str) -> Option<PathBuf> {
    tail.value(option).map(PathBuf::from)
}

fn set_default_user(tail: &mut Tail) -> Result<ManageAction, GrammarError> {
    Ok(ManageAction::SetDefaultUser { user: word(tail, "--set-default-user") })
}
