//! Where a package's entry goes, by dpkg's rules (dpkg's `tarobject`).
//!
//! Directories that are symbolic links stay links and what is below them goes where they
//! lead; an existing directory keeps its owner and mode; configuration files get a
//! waiting name; a file that two packages have belongs to the one that replaces the other.

use std::collections::{HashMap, HashSet};
use std::io;

use super::super::deb::Control;
use super::super::relation;
use super::AssembleError;
use crate::tree::path::{PathError, TreePath};
use crate::tree::{Entry, Kind, Metadata, Segment, Sink, Timestamp};

/// The suffix of a configuration file that is unpacked but not configured.
const WAITING: &[u8] = b".dpkg-new";

/// How many symbolic links one path may go through, as in Linux.
const MAXIMUM_LINKS: usize = 40;

/// Puts entries into a sink.
pub(super) struct Placer<'s, S> {
    sink: &'s mut S,
    modified: Timestamp,
    directories: HashSet<TreePath>,
    /// Symbolic links and where they lead, inside the tree.
    links: HashMap<TreePath, TreePath>,
    /// Which package a file is of.
    owners: HashMap<TreePath, usize>,
    packages: Vec<Owner>,
    /// The entries of the current package, as dpkg lists them.
    list: Vec<u8>,
    configuration: HashSet<TreePath>,
}

struct Owner {
    name: String,
    version: String,
    replaces: Vec<relation::Clause>,
}

/// Takes the entries of one package.
pub(super) struct PackageSink<'p, 's, S>(pub(super) &'p mut Placer<'s, S>);

/// Why an entry cannot be placed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError<E: std::error::Error + 'static> {
    #[error("the content cannot be read")]
    Content(#[from] io::Error),
    #[error("two packages have '{path}'")]
    Conflict { path: TreePath, other: String },
    #[error(transparent)]
    Path(#[from] FollowError),
    #[error(transparent)]
    Sink(E),
}

/// Why a path leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    #[error("'{0}' goes through too many symbolic links")]
    Loop(TreePath),
    #[error(transparent)]
    Path(#[from] PathError),
}

impl<E: std::error::Error + 'static> PlaceError<E> {
    pub(super) fn into_inner(self, package: &str) -> AssembleError<E> {
        let package = package.to_owned();
        match self {
            Self::Content(source) => AssembleError::Read { package, source },
            Self::Conflict { path, other } => {
                AssembleError::FileConflict { path: path.to_string(), package, other }
            }
            Self::Path(FollowError::Loop(path)) => {
                AssembleError::LinkLoop { package, path: path.to_string() }
            }
            Self::Path(FollowError::Path(source)) => AssembleError::Path { package, source },
            Self::Sink(error) => AssembleError::Sink(error),
        }
    }
}

impl<'s, S: Sink> Placer<'s, S> {
    /// A placer for an empty tree; `modified` is the time of everything that is of no
    /// package.
    pub(super) fn new(sink: &'s mut S, modified: Timestamp) -> Self {
        Self {
            sink,
            modified,
            directories: HashSet::new(),
            links: HashMap::new(),
            owners: HashMap::new(),
            packages: Vec::new(),
            list: Vec::new(),
            configuration: HashSet::new(),
        }
    }

    /// Starts a package.
    pub(super) fn begin(&mut self, control: &Control) {
        let field = |name| control.fields.get(name).unwrap_or_default();
        self.packages.push(Owner {
            name: field("Package").to_owned(),
            version: field("Version").to_owned(),
            replaces: relation::parse(field("Replaces")).unwrap_or_default(),
        });
        self.list.clear();
        self.configuration = control
            .configuration_files()
            .filter_map(|path| TreePath::new(path.as_bytes()).ok())
            .collect();
    }

    /// The current package's entries, one per line.
    pub(super) fn take_list(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.list)
    }

    /// Adds a file that is of no package.
    pub(super) fn file(
        &mut self,
        path: &str,
        mode: u32,
        content: &[u8],
    ) -> Result<(), AssembleError<S::Error>> {
        self.file_of(path, mode, self.modified, content)
    }

    /// Adds a file of a given time.
    pub(super) fn file_of(
        &mut self,
        path: &str,
        mode: u32,
        modified: Timestamp,
        content: &[u8],
    ) -> Result<(), AssembleError<S::Error>> {
        let size = content.len() as u64;
        let segment = [Segment { offset: 0, length: size }];
        let segments = if size == 0 { [].as_slice() } else { segment.as_slice() };
        let mut reader = content;
        let kind = Kind::File { size, segments, content: &mut reader };
        self.generated(path, Metadata { mode, modified, ..Metadata::default() }, kind)
    }

    /// Adds a directory that is of no package.
    pub(super) fn directory(&mut self, path: &str) -> Result<(), AssembleError<S::Error>> {
        let metadata = Metadata { mode: 0o755, modified: self.modified, ..Metadata::default() };
        self.generated(path, metadata, Kind::Directory)
    }

    /// Adds a symbolic link that is of no package.
    pub(super) fn symbolic_link(
        &mut self,
        path: &str,
        target: &str,
    ) -> Result<(), AssembleError<S::Error>> {
        let metadata = Metadata { mode: 0o777, modified: self.modified, ..Metadata::default() };
        self.generated(path, metadata, Kind::SymbolicLink { target: target.as_bytes() })
    }

    /// Whether something is there already.
    pub(super) fn exists(&self, path: &str) -> bool {
        TreePath::new(path.as_bytes()).is_ok_and(|path| {
            let path = self.below_links(&path).unwrap_or(path);
            self.directories.contains(&path)
                || self.owners.contains_key(&path)
                || self.links.contains_key(&path)
        })
    }

    fn generated(
        &mut self,
        path: &str,
        metadata: Metadata,
        kind: Kind<'_>,
    ) -> Result<(), AssembleError<S::Error>> {
        let add = |placer: &mut Self| {
            let path = TreePath::new(path.as_bytes()).map_err(FollowError::from)?;
            placer.place(&path, &metadata, kind, None)
        };
        add(self).map_err(|error: PlaceError<S::Error>| error.into_inner("wslr"))
    }

    fn add(&mut self, entry: Entry<'_>) -> Result<(), PlaceError<S::Error>> {
        self.list.extend_from_slice(if entry.path.is_root() { b"/." } else { b"/" });
        self.list.extend_from_slice(entry.path.as_bytes());
        self.list.push(b'\n');
        let owner = self.packages.len().checked_sub(1);
        self.place(entry.path, entry.metadata, entry.kind, owner)
    }

    fn place(
        &mut self,
        path: &TreePath,
        metadata: &Metadata,
        kind: Kind<'_>,
        owner: Option<usize>,
    ) -> Result<(), PlaceError<S::Error>> {
        let waits = matches!(kind, Kind::File { .. } | Kind::HardLink { .. })
            && owner.is_some()
            && self.configuration.contains(path);
        let mut place = self.below_links(path)?;
        if waits {
            place = with_suffix(&place, WAITING)?;
        }
        let target_place;
        let kind = match kind {
            Kind::Directory => {
                let place = self.through_links(&place)?;
                // An existing directory, or a link to one, stays what it is.
                if !self.directories.insert(place.clone()) {
                    return Ok(());
                }
                return self.hand_over(&place, metadata, Kind::Directory);
            }
            Kind::SymbolicLink { target } => {
                if self.directories.contains(&place) {
                    return Ok(());
                }
                if let Some(target) = inside(&place, target) {
                    self.links.insert(place.clone(), target);
                }
                Kind::SymbolicLink { target }
            }
            Kind::HardLink { target } => {
                let followed = self.below_links(target)?;
                target_place = if self.configuration.contains(target) && owner.is_some() {
                    with_suffix(&followed, WAITING)?
                } else {
                    followed
                };
                Kind::HardLink { target: &target_place }
            }
            // Taken apart and put together again, it may live as long as `place` only.
            Kind::File { size, segments, content } => Kind::File { size, segments, content },
            Kind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
            Kind::CharacterDevice { major, minor } => Kind::CharacterDevice { major, minor },
            Kind::Fifo => Kind::Fifo,
            Kind::Socket => Kind::Socket,
        };
        if let Some(owner) = owner
            && !self.owns(&place, owner)?
        {
            return Ok(());
        }
        self.hand_over(&place, metadata, kind)
    }

    /// Makes `owner` the owner of a file, unless its present owner replaces it.
    fn owns(&mut self, place: &TreePath, owner: usize) -> Result<bool, PlaceError<S::Error>> {
        let Some(present) = self.owners.get(place).copied().filter(|present| *present != owner)
        else {
            self.owners.insert(place.clone(), owner);
            return Ok(true);
        };
        if self.replaces(owner, present) {
            self.owners.insert(place.clone(), owner);
            return Ok(true);
        }
        if self.replaces(present, owner) {
            return Ok(false);
        }
        let other = self.packages.get(present).map(|owner| owner.name.clone());
        Err(PlaceError::Conflict { path: place.clone(), other: other.unwrap_or_default() })
    }

    fn replaces(&self, left: usize, right: usize) -> bool {
        let (Some(left), Some(right)) = (self.packages.get(left), self.packages.get(right)) else {
            return false;
        };
        left.replaces
            .iter()
            .flat_map(|clause| &clause.alternatives)
            .any(|relation| relation.name == right.name && relation.accepts(&right.version))
    }

    fn hand_over<'a>(
        &mut self,
        path: &'a TreePath,
        metadata: &'a Metadata,
        kind: Kind<'a>,
    ) -> Result<(), PlaceError<S::Error>> {
        self.sink.add(Entry { path, metadata, kind }).map_err(PlaceError::Sink)
    }

    /// The path with every link above its last component followed.
    fn below_links(&self, path: &TreePath) -> Result<TreePath, FollowError> {
        let Some((parent, name)) = path.split() else { return Ok(path.clone()) };
        let parent = self.through_links(&TreePath::new(parent)?)?;
        Ok(join(&parent, name)?)
    }

    /// The path with every link followed.
    fn through_links(&self, path: &TreePath) -> Result<TreePath, FollowError> {
        let mut path = path.clone();
        for _ in 0..MAXIMUM_LINKS {
            let Some(next) = self.first_link(&path)? else { return Ok(path) };
            path = next;
        }
        Err(FollowError::Loop(path))
    }

    fn first_link(&self, path: &TreePath) -> Result<Option<TreePath>, PathError> {
        let mut walked = TreePath::root();
        let mut components = path.components();
        while let Some(component) = components.next() {
            walked = join(&walked, component)?;
            if let Some(target) = self.links.get(&walked) {
                return components
                    .try_fold(target.clone(), |path, rest| join(&path, rest))
                    .map(Some);
            }
        }
        Ok(None)
    }
}

impl<S: Sink> Sink for PackageSink<'_, '_, S> {
    type Error = PlaceError<S::Error>;

    fn add(&mut self, entry: Entry<'_>) -> Result<(), Self::Error> {
        self.0.add(entry)
    }
}

fn join(directory: &TreePath, name: &[u8]) -> Result<TreePath, PathError> {
    TreePath::new(&[directory.as_bytes(), b"/", name].concat())
}

fn with_suffix(path: &TreePath, suffix: &[u8]) -> Result<TreePath, FollowError> {
    Ok(TreePath::new(&[path.as_bytes(), suffix].concat())?)
}

/// Where a link at `place` leads, if it stays in the tree.
fn inside(place: &TreePath, target: &[u8]) -> Option<TreePath> {
    let mut components: Vec<&[u8]> = match target.strip_prefix(b"/") {
        Some(_) => Vec::new(),
        None => place.components().collect(),
    };
    if !components.is_empty() {
        components.pop();
    }
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop();
            }
            component => components.push(component),
        }
    }
    TreePath::new(&components.join(b"/".as_slice())).ok()
}
