//! The Landlock layer (landlock(7)): files, TCP, and what leads to other processes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::Layer;

/// All rights up to this version (Linux 6.12); later ones add no restriction of ours.
const LANDLOCK_ABI: ABI = ABI::V6;

/// Which files can be used.
#[derive(Clone, Debug)]
pub(super) enum Files {
    /// Those beneath these directories.
    Beneath(Vec<(Arc<OwnedFd>, Beneath)>),
    /// All that the process can see.
    ByMounts,
}

/// What can be done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beneath {
    Read,
    Change,
    /// As `Change`, and sockets are made.
    Own,
    /// One file, not a directory.
    ReadFile,
}

/// What leads to other machines. UDP is for the system calls' filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Network {
    #[default]
    Nothing,
    /// Whatever the system calls' filter allows.
    Anything,
}

impl Default for Files {
    fn default() -> Files {
        Files::Beneath(Vec::new())
    }
}

impl Beneath {
    fn rights(self) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Beneath::ReadFile => AccessFs::ReadFile.into(),
            Beneath::Read => read,
            Beneath::Own => Beneath::Change.rights() | AccessFs::MakeSock,
            Beneath::Change => {
                read | AccessFs::WriteFile
                    | AccessFs::Truncate
                    | AccessFs::MakeReg
                    | AccessFs::MakeDir
                    | AccessFs::MakeSym
                    | AccessFs::RemoveFile
                    | AccessFs::RemoveDir
                    | AccessFs::Refer
            }
        }
    }
}

impl Files {
    pub(super) fn beneath(&mut self, directory: OwnedFd, rights: Beneath) {
        let rule = (Arc::new(directory), rights);
        match self {
            Files::Beneath(rules) => rules.push(rule),
            Files::ByMounts => *self = Files::Beneath(vec![rule]),
        }
    }

    /// Restricts every right that Landlock knows, and grants those and the network.
    pub(super) fn restrict(&self, network: Network) -> Layer {
        match self.enforce(network) {
            Ok(status) => match status.ruleset {
                RulesetStatus::FullyEnforced => Layer::Full,
                RulesetStatus::PartiallyEnforced => Layer::Partial(explain(status.landlock)),
                RulesetStatus::NotEnforced => Layer::Unavailable(explain(status.landlock)),
            },
            Err(error) => Layer::Unavailable(error.to_string()),
        }
    }

    fn enforce(&self, network: Network) -> Result<landlock::RestrictionStatus, RulesetError> {
        let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
        let mut rules = &[][..];
        if let Files::Beneath(beneath) = self {
            ruleset = ruleset.handle_access(AccessFs::from_all(LANDLOCK_ABI))?;
            rules = beneath;
        }
        if network == Network::Nothing {
            ruleset = ruleset.handle_access(AccessNet::from_all(LANDLOCK_ABI))?;
        }
        let mut ruleset = ruleset.scope(Scope::from_all(LANDLOCK_ABI))?.create()?;
        for (directory, beneath) in rules {
            ruleset = ruleset.add_rule(PathBeneath::new(&**directory, beneath.rights()))?;
        }
        ruleset.restrict_self()
    }
}

fn explain(status: LandlockStatus) -> String {
    match status {
        LandlockStatus::NotImplemented => "the kernel does not have it".into(),
        LandlockStatus::NotEnabled => "the kernel has it switched off".into(),
        LandlockStatus::Available { effective_abi, .. } => {
            format!("the kernel has version {}", effective_abi as i32)
        }
    }
}
