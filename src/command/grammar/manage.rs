//! `--manage NAME` and exactly one action (behaviour reference 1.11).

use super::error::GrammarError;
use super::invocation::{Invocation, Manage, ManageAction};
use super::tail::Tail;
use super::verbs::text;

/// The options that are actions, each with its value read.
type Read = fn(&mut Tail) -> Result<ManageAction, GrammarError>;

/// Every action by its option. Other options of the verb say how an action is done.
const ACTIONS: &[(&str, Read)] = &[("--set-default-user", set_default_user)];

/// Reads what follows the verb; `name` is the distro's.
pub(super) fn parse(mut tail: Tail, name: String) -> Result<Invocation, GrammarError> {
    let mut asked = ACTIONS.iter().filter(|(option, _)| tail.has(option));
    let (first, second) = (asked.next(), asked.next());
    let (option, read) = first.ok_or(GrammarError::ActionRequired)?;
    if let Some((second, _)) = second {
        return Err(GrammarError::Usage { first: option, second });
    }
    Ok(Invocation::Manage(Manage { name, action: read(&mut tail)? }))
}

fn set_default_user(tail: &mut Tail) -> Result<ManageAction, GrammarError> {
    let user = tail.value("--set-default-user").as_deref().map(text).unwrap_or_default();
    Ok(ManageAction::SetDefaultUser { user })
}
